// The emulated device by itself: lane layouts against plain matrix arithmetic, and every fault that
// the emulation promises to see, made on purpose by a small kernel.
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "emulation/device.h"
#include "emulation/failure.h"
#include "emulation/launch.h"

namespace {

using namespace dinat::device;
using dinat::BFloat16;
using dinat::Float16;
using dinat::fromFloat;
using dinat::toFloat;
namespace emulation = dinat::emulation;

int failures = 0;

void expect(bool condition, const std::string& what) {
  if (condition) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

struct alignas(16) Rows {
  uint16_t value[64][8];
};

// A launch of one block; returns the failure's message, or nothing.
std::string run(unsigned threads, size_t shared_bytes, const emulation::GlobalMemory& global,
                unsigned seed, const std::function<void()>& kernel) {
  try {
    emulation::Statistics statistics;
    emulation::launch({{1, 1, 1}, threads, shared_bytes}, global, seed, statistics, kernel);
  } catch (const emulation::Failure& failure) {
    return failure.what();
  }
  return "";
}

void expectFault(const std::string& part, unsigned threads, size_t shared_bytes,
                 const emulation::GlobalMemory& global, const std::function<void()>& kernel) {
  for (unsigned seed = 0; seed < 8; ++seed) {
    const std::string message = run(threads, shared_bytes, global, seed, kernel);
    expect(message.find(part) != std::string::npos,
           "expected a fault with '" + part + "', got '" + message + "'");
  }
}

// D = A B by one warp from matrices that lie row-major in global memory, against a double loop.
template <class T>
void productMatchesPlainArithmetic() {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  alignas(16) T a[16][16];
  alignas(16) T b[16][8];
  float d[16][8] = {};
  for (auto& row : a)
    for (T& value : row) value = fromFloat<T>(normal(generator));
  for (auto& row : b)
    for (T& value : row) value = fromFloat<T>(normal(generator));
  emulation::GlobalMemory global;
  global.allow("a", a, sizeof a, false);
  global.allow("b", b, sizeof b, false);
  global.allow("d", d, sizeof d, true);
  const auto kernel = [&] {
    const unsigned lane = threadIndex();
    unsigned char* shared = sharedMemory();
    const uint32_t base = sharedAddress(shared);
    // 32 rows of A (two halves of each row), then 16 rows of B: 16 bytes each.
    copyAsync16(base + 16 * lane, &a[lane % 16][8 * (lane / 16)], true);
    if (lane < 16) copyAsync16(base + 16 * (32 + lane), &b[lane][0], true);
    commitCopies();
    waitCopies<0>();
    synchronize();
    uint32_t left[4];
    uint32_t right[4];
    loadMatrix4(left, base + 16 * lane);
    loadMatrix4Transposed(right, base + 16 * (32 + lane % 16));
    float sum[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    multiplyAccumulate<T>(sum, left, right[0], right[1]);
    for (unsigned word = 0; word < 4; ++word) {
      const unsigned row = lane / 4 + 8 * (word / 2);
      const unsigned column = 2 * (lane % 4) + word % 2;
      store(&d[row][column], sum[word] - static_cast<float>(word + 1));
    }
  };
  expect(run(32, 48 * 16, global, 3, kernel).empty(), "the product runs");
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      double sum = 0;
      for (int depth = 0; depth < 16; ++depth) {
        sum += static_cast<double>(toFloat(a[row][depth])) * toFloat(b[depth][column]);
      }
      expect(std::abs(sum - d[row][column]) < 1e-5, "an element of the product");
    }
  }
}

void shuffleAndPackMoveValues() {
  float sums[64] = {};
  uint32_t pairs[64] = {};
  emulation::GlobalMemory global;
  global.allow("sums", sums, sizeof sums, true);
  global.allow("pairs", pairs, sizeof pairs, true);
  const auto kernel = [&] {
    const unsigned thread = threadIndex();
    float sum = static_cast<float>(thread);
    for (int mask = 1; mask < 32; mask *= 2) sum += shuffleXor(sum, mask);
    store(&sums[thread], sum);
    storeGlobal4(&pairs[thread], pack2<Float16>(1.0f, -2.0f));
  };
  expect(run(64, 0, global, 0, kernel).empty(), "shuffles run");
  expect(sums[0] == 496.0f && sums[31] == 496.0f && sums[32] == 1520.0f, "sums of each warp");
  expect(pairs[7] == 0xc0003c00u, "the low half is the first value");
}

// Two warps; each reads the row that the other copied.
struct Exchange {
  Rows rows{};
  emulation::GlobalMemory global;
  Exchange() { global.allow("rows", &rows, sizeof rows, false); }

  std::function<void()> kernel(bool commit, bool wait, bool barrier) {
    return [this, commit, wait, barrier] {
      const unsigned thread = threadIndex();
      const uint32_t base = sharedAddress(sharedMemory());
      copyAsync16(base + 16 * thread, rows.value[thread], true);
      if (commit) commitCopies();
      if (wait) waitCopies<0>();
      if (barrier) synchronize();
      uint32_t loaded[4];
      loadMatrix4(loaded, base + 16 * (63 - thread));
      synchronize();
      waitCopies<0>();
    };
  }
};

void missingSynchronisationIsSeen() {
  Exchange exchange;
  expect(run(64, 1024, exchange.global, 0, exchange.kernel(true, true, true)).empty(),
         "a synchronised exchange runs");
  for (const auto& kernel : {exchange.kernel(true, true, false), exchange.kernel(true, false, true),
                             exchange.kernel(false, true, true)}) {
    for (unsigned seed = 0; seed < 8; ++seed) {
      expect(!run(64, 1024, exchange.global, seed, kernel).empty(),
             "an exchange without barrier, wait or commit fails");
    }
  }
  expectFault("a wait is missing", 64, 1024, exchange.global, exchange.kernel(true, false, true));
  expectFault("a barrier is missing", 64, 1024, exchange.global, [&] {
    const uint32_t base = sharedAddress(sharedMemory());
    const unsigned thread = threadIndex();
    copyAsync16(base + 16 * thread, exchange.rows.value[thread], true);
    commitCopies();
    waitCopies<0>();
    synchronize();
    uint32_t loaded[4];
    loadMatrix4(loaded, base + 16 * (63 - thread));
    copyAsync16(base + 16 * thread, exchange.rows.value[thread], true);  // without a barrier
    commitCopies();
    waitCopies<0>();
  });
  expectFault("never waited for", 64, 1024, exchange.global, [&] {
    copyAsync16(sharedAddress(sharedMemory()) + 16 * threadIndex(), nullptr, false);
    commitCopies();
  });
}

// The hazard tracking does not see plain stores: the order of the warps must show the fault.
void missingBarrierAroundPlainStoresGivesNan() {
  float read[64] = {};
  emulation::GlobalMemory global;
  global.allow("read", read, sizeof read, true);
  for (unsigned seed = 0; seed < 8; ++seed) {
    for (const bool barrier : {true, false}) {
      const auto kernel = [&] {
        float* shared = reinterpret_cast<float*>(sharedMemory());
        shared[threadIndex()] = 1.0f;
        if (barrier) synchronize();
        store(&read[threadIndex()], shared[63 - threadIndex()]);
      };
      expect(run(64, 256, global, seed, kernel).empty(), "plain stores run");
      int missing = 0;
      for (const float value : read) missing += std::isnan(value);
      expect(barrier == (missing == 0), "a missing barrier around plain stores leaves NaN");
    }
  }
}

void strayAccessesAreSeen() {
  Exchange exchange;
  const auto& global = exchange.global;
  uint32_t loaded[4];
  const auto base = [] { return sharedAddress(sharedMemory()); };
  expectFault("not a multiple of 16", 32, 1024, global, [&] { loadMatrix4(loaded, base() + 8); });
  expectFault("out of the block's 1024 bytes", 32, 1024, global,
              [&] { loadMatrix4(loaded, base() + 1024); });
  expectFault("out of the block's 1000 bytes", 32, 1000, global,
              [&] { copyAsync16(base() + 992, &exchange.rows, true); });
  expectFault("misaligned by 2 bytes", 32, 1024, global,
              [&] { copyAsync16(base() + 16 * threadIndex(), &exchange.rows.value[0][1], true); });
  expectFault("of rows, which has 1024", 32, 1024, global,
              [&] { loadGlobal4(&exchange.rows + 1); });
  expectFault("store", 32, 1024, global, [&] { storeGlobal4(&exchange.rows, 0); });
#if !defined(__SANITIZE_ADDRESS__)  // which would see the store itself, and stop
  expectFault("behind the block's 64 bytes", 32, 64, global,
              [&] { reinterpret_cast<uint16_t*>(sharedMemory())[32] = 1; });
#endif
}

void divergenceAndDeadlockAreSeen() {
  const emulation::GlobalMemory none;
  expectFault("diverged at a collective", 32, 0, none, [] {
    if (threadIndex() != 5) shuffleXor(1.0f, 1);
  });
  expectFault("diverged at a collective", 32, 0, none, [] {
    if (threadIndex() < 8) {
      synchronize();
    } else {
      shuffleXor(1.0f, 1);
    }
  });
  expectFault("deadlock", 64, 0, none, [] {
    if (threadIndex() >= 32) synchronize();
  });
  expectFault("whole warps", 48, 0, none, [] {});
}

void bankConflictsAreCounted() {
  Rows rows{};
  emulation::GlobalMemory global;
  global.allow("rows", &rows, sizeof rows, false);
  const auto conflicts = [&](uint32_t pitch) {
    emulation::Statistics statistics;
    emulation::launch({{1, 1, 1}, 32, 32 * pitch}, global, 0, statistics, [pitch] {
      uint32_t loaded[4];
      loadMatrix4(loaded, sharedAddress(sharedMemory()) + pitch * threadIndex());
    });
    return statistics.bank_conflicts;
  };
  expect(conflicts(16) == 0, "consecutive rows share no bank");
  expect(conflicts(80) == 0, "a pitch of 80 bytes has no conflict");
  expect(conflicts(64) == 4 * 3, "a pitch of 64 bytes needs four passes each");
  expect(conflicts(128) == 4 * 7, "a pitch of 128 bytes needs eight passes each");
}

}  // namespace

int main() {
  productMatchesPlainArithmetic<Float16>();
  productMatchesPlainArithmetic<BFloat16>();
  shuffleAndPackMoveValues();
  missingSynchronisationIsSeen();
  missingBarrierAroundPlainStoresGivesNan();
  strayAccessesAreSeen();
  divergenceAndDeadlockAreSeen();
  bankConflictsAreCounted();
  if (failures == 0) std::printf("the emulated device keeps its promises\n");
  return failures == 0 ? 0 : 1;
}

// Choice of tactics and launch plans, without running a kernel.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/launch_plan.h"
#include "kernels/shapes.h"

namespace {

using dinat::DataType;
using dinat::Operands;
using dinat::Problem;
using dinat::cuda::Device;
using dinat::cuda::FastDivide;
using dinat::cuda::Launch;
using dinat::cuda::LaunchPlan;
using dinat::cuda::Tactic;

constexpr Device kOrin{87, 16, 163 * 1024};
constexpr Device kAda{89, 128, 99 * 1024};
constexpr Device kHopper{90, 132, 227 * 1024};
constexpr Device kTuring{75, 40, 64 * 1024};

#define CHECK(condition)                                                  \
  do {                                                                    \
    if (!(condition)) {                                                   \
      std::printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                       \
    }                                                                     \
  } while (false)

struct Sizes {
  int64_t batch = 1;
  int64_t height = 56;
  int64_t width = 56;
  int64_t heads = 2;
  int64_t head_dim = 32;
  int32_t kernel_size[2] = {7, 7};
  int32_t dilation[2] = {1, 1};
  float scale = 0.18f;
  DataType type = DataType::kFloat16;
};

Problem problemOf(const Sizes& s) {
  return dinat::packedProblem({s.batch, s.height, s.width, s.heads, s.head_dim}, s.kernel_size,
                              s.dilation, s.scale, s.type);
}

Operands operandsAt(uintptr_t address) {
  void* pointer = reinterpret_cast<void*>(address);
  return {pointer, pointer, pointer, nullptr, pointer};
}

std::string names(const Problem& problem, const Device& device) {
  std::string all;
  for (const Tactic tactic : dinat::cuda::tactics(problem, device)) {
    all += std::string(name(tactic)) + " ";
  }
  return all;
}

void divisionIsExact() {
  std::vector<uint32_t> divisors = {2147483647u, 1073741825u, 1073741824u, 65537u, 65536u};
  for (uint32_t divisor = 1; divisor < 2000; ++divisor) divisors.push_back(divisor);
  for (const uint32_t divisor : divisors) {
    const FastDivide divide = FastDivide::by(divisor);
    const uint32_t last = 2147483647u / divisor * divisor;
    for (const uint32_t base : {0u, divisor, last / divisor / 2 * divisor, last}) {
      for (uint32_t n = base < 2 ? 0 : base - 2; n < base + 2 && n < 2147483648u; ++n) {
        CHECK(divide.quotient(n) == n / divisor);
        uint32_t rest = n;
        CHECK(divide.split(&rest) == n % divisor && rest == n / divisor);
      }
    }
  }
}

void everyTacticWhereItApplies() {
  Sizes s;
  CHECK(names(problemOf(s), kOrin) == "portable tile4 tile8 tile16 ");
  s.dilation[0] = s.dilation[1] = 8;
  CHECK(names(problemOf(s), kOrin) == "portable tile4 tile8 tile16 group ");
  CHECK(names(problemOf(s), kTuring) == "portable ");
  s.height = 57 + 8;  // groups of 9
  CHECK(names(problemOf(s), kOrin) == "portable tile4 tile8 tile16 ");
  s.kernel_size[0] = 5;  // not square
  CHECK(names(problemOf(s), kOrin) == "portable ");
  s.height = 56;
  CHECK(names(problemOf(s), kOrin) == "portable group ");
}

void refusesWhatAKernelCannotDo() {
  for (int change = 0; change < 7; ++change) {
    Sizes s;
    s.dilation[0] = s.dilation[1] = 8;
    if (change == 0) s.type = DataType::kFloat32;
    if (change == 1) s.head_dim = 24;
    if (change == 2) s.scale = -0.18f;
    if (change == 3) s.scale = 0.0f;
    if (change == 4) s.scale = 1e-9f;
    Problem problem = problemOf(s);
    if (change == 5) problem.input.row += 1;  // rows not aligned
    if (change == 6) problem.output.head += 4;
    CHECK(names(problem, kHopper) == "portable ");
    CHECK(choose(problem, kHopper) == Tactic::kPortable);
  }
  Sizes even;
  even.kernel_size[0] = even.kernel_size[1] = 6;
  CHECK(names(problemOf(even), kHopper) == "portable ");
  Sizes too_small;
  too_small.dilation[1] = 9;
  CHECK(names(problemOf(too_small), kHopper).empty());
  CHECK(!canImplement(problemOf(too_small), Tactic::kHeuristic, kHopper));
  CHECK(!canImplement(problemOf({}), static_cast<Tactic>(6), kHopper));
}

void respectsSharedMemory() {
  Sizes s;
  s.head_dim = 64;
  s.kernel_size[0] = s.kernel_size[1] = 13;
  CHECK(names(problemOf(s), kHopper) == "portable tile4 tile8 tile16 ");
  CHECK(names(problemOf(s), kOrin) == "portable tile4 tile8 tile16 ");
  CHECK(names(problemOf(s), kAda) == "portable tile4 ");
  for (const Device& device : {kOrin, kAda, kHopper}) {
    for (const Tactic tactic : tactics(problemOf(s), device)) {
      CHECK(sharedBytes(problemOf(s), tactic) <= device.shared_memory);
    }
  }
}

void choosesByTheGrid() {
  Sizes s;
  CHECK(choose(problemOf(s), kHopper) == Tactic::kTile4);  // 98 blocks of 8 x 8
  CHECK(choose(problemOf(s), kOrin) == Tactic::kTile8);
  s.batch = 64;
  CHECK(choose(problemOf(s), kHopper) == Tactic::kTile16);
  CHECK(choose(problemOf(s), kAda) == Tactic::kTile8);  // one block of 16 rows would fit
  s.dilation[0] = s.dilation[1] = 2;                    // groups of 28: too low for 16 rows
  CHECK(choose(problemOf(s), kHopper) == Tactic::kTile8);
  s.dilation[0] = s.dilation[1] = 8;
  CHECK(choose(problemOf(s), kHopper) == Tactic::kGroup);
}

// Sizes beyond 31 bits: batches split into launches whose grids and divided numbers fit.
void splitsWhatIsTooLarge() {
  Sizes s;
  s.batch = 100000;  // more than a grid's y or z
  s.height = s.width = 512;
  s.heads = 48;
  for (const Tactic tactic : {Tactic::kPortable, Tactic::kTile4, Tactic::kTile8, Tactic::kTile16}) {
    const Problem problem = problemOf(s);
    CHECK(canImplement(problem, tactic, kHopper));
    const LaunchPlan plan(problem, operandsAt(4096), tactic);
    CHECK(plan.count() > 1);
    const int64_t image_bytes = problem.input.batch * 2;
    int64_t images = 0;
    for (int64_t i = 0; i < plan.count(); ++i) {
      const Launch launch = plan.at(i);
      const bool portable = tactic == Tactic::kPortable;
      const void* query = portable ? launch.portable.query : launch.tile.query;
      CHECK(reinterpret_cast<intptr_t>(query) == 4096 + images * image_bytes);
      CHECK(launch.blocks > 0 && launch.blocks <= 2147483647u);
      if (portable) {
        CHECK(launch.portable.items <= 2147483647u);
        CHECK(launch.portable.items % (512 * 512 * 48) == 0);
        images += launch.portable.items / (512 * 512 * 48);
      } else {
        CHECK(launch.blocks % tilesOfImage(problem, tactic) == 0);
        images += launch.blocks / tilesOfImage(problem, tactic);
      }
    }
    CHECK(images == s.batch);
  }
}

// One image of more than 2^31 (token, head) pairs goes row by row.
void splitsAnImage() {
  Sizes s;
  s.height = 100000;
  s.width = 70000;
  s.heads = 3;
  s.type = DataType::kFloat32;
  const LaunchPlan plan(problemOf(s), operandsAt(4096), Tactic::kPortable);
  CHECK(plan.count() == 10);
  int64_t rows = 0;
  for (int64_t i = 0; i < plan.count(); ++i) {
    const Launch launch = plan.at(i);
    CHECK(launch.portable.first_row == rows);
    CHECK(launch.portable.items == launch.portable.rows.divisor * 210000u);
    rows += launch.portable.rows.divisor;
  }
  CHECK(rows == s.height);
  CHECK(!canImplement(problemOf(s), Tactic::kTile8, kHopper));  // and is no 16-bit type
  s.type = DataType::kFloat16;                                  // its vectors exceed 31 bits
  CHECK(names(problemOf(s), kHopper) == "portable ");
}

void emptyBatchLaunchesNothing() {
  Sizes s;
  s.batch = 0;
  for (const Tactic tactic : {Tactic::kPortable, Tactic::kTile8}) {
    CHECK(LaunchPlan(problemOf(s), operandsAt(16), tactic).count() == 0);
  }
}

void portableMovesVectorsWhereItMay() {
  const auto vectors = [](const Sizes& s, uintptr_t address) {
    return LaunchPlan(problemOf(s), operandsAt(address), Tactic::kPortable).at(0).kernel.vectors;
  };
  Sizes s;
  CHECK(vectors(s, 16));
  CHECK(!vectors(s, 18));
  s.head_dim = 20;
  CHECK(!vectors(s, 16));
  s.head_dim = 264;
  CHECK(!vectors(s, 16));
}

}  // namespace

int main() {
  divisionIsExact();
  everyTacticWhereItApplies();
  refusesWhatAKernelCannotDo();
  respectsSharedMemory();
  choosesByTheGrid();
  splitsWhatIsTooLarge();
  splitsAnImage();
  emptyBatchLaunchesNothing();
  portableMovesVectorsWhereItMay();
  std::printf("ok\n");
}

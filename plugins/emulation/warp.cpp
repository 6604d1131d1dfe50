#include "emulation/warp.h"

#include <algorithm>
#include <cstring>

#include "emulation/failure.h"

namespace dinat::emulation {
namespace {

constexpr unsigned kRows = 8;      // of a matrix of ldmatrix
constexpr unsigned kMatrices = 4;  // of one load

uint16_t half(uint32_t word, unsigned which) {
  return static_cast<uint16_t>(which == 0 ? word & 0xffffu : word >> 16);
}

// Passes beyond the first that eight rows of 16 bytes need over 32 banks of 4 bytes.
unsigned extraPasses(const uint32_t (&offsets)[kRows]) {
  unsigned most = 1;
  for (unsigned row = 0; row < kRows; ++row) {
    unsigned sharing = 1;  // rows at other addresses in the same banks, each address once
    for (unsigned other = 0; other < kRows; ++other) {
      if (offsets[other] == offsets[row] || (offsets[other] - offsets[row]) % 128 != 0) continue;
      sharing += std::find(offsets, offsets + other, offsets[other]) == offsets + other;
    }
    most = std::max(most, sharing);
  }
  return most - 1;
}

template <bool kTransposed>
void loadMatrices(Block& block, unsigned first, void* const (&arguments)[kWarp]) {
  const char* name = kTransposed ? "ldmatrix.trans" : "ldmatrix";
  uint16_t element[kMatrices][kRows][kRows];
  for (unsigned matrix = 0; matrix < kMatrices; ++matrix) {
    uint32_t offsets[kRows];
    for (unsigned row = 0; row < kRows; ++row) {
      const unsigned lane = matrix * kRows + row;
      offsets[row] = static_cast<const MatrixLoad*>(arguments[lane])->address;
      std::memcpy(element[matrix][row], block.shared().read(offsets[row], first + lane, name),
                  sizeof element[matrix][row]);
    }
    block.statistics().bank_conflicts += extraPasses(offsets);
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const unsigned major = lane / 4;
    const unsigned minor = 2 * (lane % 4);
    uint32_t* result = static_cast<const MatrixLoad*>(arguments[lane])->result;
    for (unsigned matrix = 0; matrix < kMatrices; ++matrix) {
      const auto& source = element[matrix];
      const uint32_t low = kTransposed ? source[minor][major] : source[major][minor];
      const uint32_t high = kTransposed ? source[minor + 1][major] : source[major][minor + 1];
      result[matrix] = low | high << 16;
    }
  }
  ++block.statistics().matrix_loads;
}

template <class T>
void multiply(Block& block, unsigned, void* const (&arguments)[kWarp]) {
  float a[16][16];  // row, depth
  float b[16][8];   // depth, column
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const auto& part = *static_cast<const Product*>(arguments[lane]);
    const unsigned group = lane / 4;
    const unsigned pair = 2 * (lane % 4);
    for (unsigned which = 0; which < 2; ++which) {
      for (unsigned word = 0; word < 4; ++word) {
        a[group + 8 * (word & 1)][pair + which + 8 * (word >> 1)] =
            toFloat(T{half(part.a[word], which)});
      }
      for (unsigned word = 0; word < 2; ++word) {
        b[pair + which + 8 * word][group] = toFloat(T{half(part.b[word], which)});
      }
    }
  }
  float sum[16][8] = {};
  for (unsigned row = 0; row < 16; ++row) {
    for (unsigned depth = 0; depth < 16; ++depth) {
      for (unsigned column = 0; column < 8; ++column) {
        sum[row][column] += a[row][depth] * b[depth][column];
      }
    }
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    float* accumulator = static_cast<const Product*>(arguments[lane])->accumulator;
    for (unsigned word = 0; word < 4; ++word) {
      accumulator[word] += sum[lane / 4 + 8 * (word >> 1)][2 * (lane % 4) + (word & 1)];
    }
  }
  ++block.statistics().products;
}

void shuffle(Block&, unsigned first, void* const (&arguments)[kWarp]) {
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    auto& own = *static_cast<Shuffle*>(arguments[lane]);
    if (own.mask < 0 || own.mask >= static_cast<int>(kWarp)) {
      fail("shuffle of thread ", first + lane, " with mask ", own.mask);
    }
    const auto source = lane ^ static_cast<unsigned>(own.mask);
    own.result = static_cast<const Shuffle*>(arguments[source])->value;
  }
}

}  // namespace

const Collective kLoadMatrix{"ldmatrix", loadMatrices<false>};
const Collective kLoadMatrixTransposed{"ldmatrix.trans", loadMatrices<true>};
const Collective kShuffle{"a shuffle", shuffle};
const Collective kProductFloat16{"mma of float16", multiply<Float16>};
const Collective kProductBFloat16{"mma of bfloat16", multiply<BFloat16>};

}  // namespace dinat::emulation

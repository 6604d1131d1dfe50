// The warp-wide instructions, with the lane layouts of the PTX manual.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "emulation/scheduler.h"

namespace dinat::emulation {

// One lane's part of ldmatrix.m8n8.x4.b16. Lane l gives the address of row l % 8 of matrix l / 8
// and receives, of each matrix, elements 2*(l % 4) and 2*(l % 4) + 1 of row l / 4 (transposed: of
// column l / 4).
struct MatrixLoad {
  uint32_t address;
  uint32_t* result;  // [4]
};

// One lane's part of mma.m16n8k16 with float32 accumulators, updated in place.
struct Product {
  float* accumulator;  // [4]
  const uint32_t* a;   // [4]
  uint32_t b[2];
};

// One lane's part of shfl.sync.bfly over the whole warp.
struct Shuffle {
  float value;
  int mask;
  float result;
};

extern const Collective kLoadMatrix;
extern const Collective kLoadMatrixTransposed;
extern const Collective kShuffle;
extern const Collective kProductFloat16;
extern const Collective kProductBFloat16;

}  // namespace dinat::emulation

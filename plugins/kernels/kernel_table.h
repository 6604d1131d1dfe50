// The compiled kernels by name. Instances live in instances/*.cu, compiled by nvcc for the GPU and
// by the host compiler for the emulation.
#pragma once

#include <cstdint>

#include "common/problem.h"

namespace dinat::cuda {

enum class Family : int32_t { kPortable = 0, kTile = 1, kGroup = 2 };

struct KernelId {
  Family family;
  DataType type;
  int32_t head_dim;     // tile and group kernels
  int32_t kernel_size;  // tile kernels
  bool vectors;         // portable kernel: channels move 16 bytes at a time
};

// Takes PortableParameters or TileParameters by constant value, as the family says.
using KernelFunction = void (*)();

// Null where there is no such instance, or this build leaves it out.
KernelFunction findKernel(const KernelId& id);

// One (head dim, kernel size) of the tile kernels, one head dim of the group kernel.
// CMakeLists.txt holds the same list; a difference does not link.
#ifndef DINAT_TILE_INSTANCES  // tests of the emulation compile fewer
// clang-format off
#define DINAT_TILE_INSTANCES(X) \
  X(16, 3) X(16, 5) X(16, 7) X(16, 9) X(16, 11) X(16, 13) \
  X(32, 3) X(32, 5) X(32, 7) X(32, 9) X(32, 11) X(32, 13) \
  X(64, 3) X(64, 5) X(64, 7) X(64, 9) X(64, 11) X(64, 13)
// clang-format on
#endif
#define DINAT_GROUP_INSTANCES(X) X(16) X(32) X(64)

}  // namespace dinat::cuda

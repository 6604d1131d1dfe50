// How an axis of a dilation group is cut into key patches, each with the queries that it serves.
//
// A patch is a run of keys that contains the whole window of every query assigned to it. With a
// patch of `patch` keys and a window of `kernel_size`, queries with `patch - kernel_size + 1`
// different window starts share one patch; at the borders, where windows are clamped, many queries
// have the same start.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernel.h"

namespace dinat::cpu {

// An axis of one dilation group.
struct AxisTiling {
  int32_t members;
  int32_t kernel_size;
  std::vector<AxisTile> tiles;
  std::vector<int32_t> start;  // first key of each query's window
};

// The cheapest patch for vectors of `width` floats and register tiles of up to `queries` queries:
// large patches share keys among more queries and waste more scores.
// A row of the patch is a whole number of vectors, or a vector is two rows of `width / 2`.
Patch choosePatch(const int32_t (&kernel_size)[2], int32_t width, int32_t queries);

// Needs kernel_size <= min(patch, members); a patch may exceed a short group.
AxisTiling tileAxis(int32_t members, int32_t kernel_size, int32_t patch);

}  // namespace dinat::cpu

// Sizes of the portable kernel, for the kernel and for the host that launches it.
#pragma once

#include <cstdint>

#include "common/problem.h"

namespace dinat::cuda {

constexpr int kPortableThreads = 256;
constexpr int kLaneChannels = 8;                    // of a head, in one lane's registers
constexpr int kSliceChannels = 32 * kLaneChannels;  // in a full warp's; larger heads are sliced

// Work items in a row of the map: one for each (column, head, slice of the head).
constexpr int64_t portableItemsOfRow(const Problem& problem) {
  const int64_t slices =
      (static_cast<int64_t>(problem.head_dim) + kSliceChannels - 1) / kSliceChannels;
  const int64_t heads = problem.heads * slices;  // below 2^31 * 2^23
  return heads > INT64_MAX / problem.size[1] ? INT64_MAX : heads * problem.size[1];
}

}  // namespace dinat::cuda

// Index arithmetic of one axis (docs/operator.md, "Definition"), shared by all kernels.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define DINAT_HOST_DEVICE __host__ __device__
#else
#define DINAT_HOST_DEVICE
#endif

namespace dinat {

// Members of dilation group `group` on an axis of `length` tokens.
DINAT_HOST_DEVICE constexpr int32_t groupLength(int32_t length, int32_t group, int32_t dilation) {
  return (length - group + dilation - 1) / dilation;
}

// First member of the window of member `position` in a group of `members` >= `kernel_size`.
DINAT_HOST_DEVICE constexpr int32_t windowStart(int32_t position, int32_t members,
                                                int32_t kernel_size) {
  const int32_t centred = position - kernel_size / 2;
  const int32_t last = members - kernel_size;
  const int32_t clamped = centred < 0 ? 0 : centred;
  return clamped > last ? last : clamped;
}

}  // namespace dinat

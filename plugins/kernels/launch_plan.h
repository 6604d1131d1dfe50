// From a problem to kernel launches: kernel, grid, shared memory, parameters. Pure arithmetic, used
// by the runner and by the emulation alike.
#pragma once

#include <cstdint>

#include "kernels/dispatch.h"
#include "kernels/kernel_table.h"
#include "kernels/parameters.h"

namespace dinat::cuda {

struct Launch {
  KernelId kernel;
  uint32_t blocks;  // a one-dimensional grid
  uint32_t threads;
  uint32_t shared_bytes;
  union {
    PortableParameters portable;
    TileParameters tile;
  };

  // What the kernel takes by value.
  void* parameters() {
    return kernel.family == Family::kPortable ? static_cast<void*>(&portable)
                                              : static_cast<void*>(&tile);
  }
};

// Bounds of one launch: of the grid, and of the numbers that the kernels divide. Tests lower them.
struct LaunchLimits {
  int64_t blocks = 2147483647;
  int64_t items = 2147483647;  // (token, head, slice) of the portable kernel
};

// The launches that compute a problem: one, unless that exceeds the limits.
class LaunchPlan {
 public:
  // The tactic must implement the problem; kHeuristic is resolved by the caller.
  LaunchPlan(const Problem& problem, const Operands& operands, Tactic tactic,
             const LaunchLimits& limits = {});

  int64_t count() const { return count_; }
  Launch at(int64_t index) const;

 private:
  Launch portable(int64_t first_image, int64_t images, int32_t first_row, int32_t rows) const;
  Launch tiles(int64_t first_image, int64_t images) const;

  Problem problem_;
  Operands operands_;
  Tactic tactic_;
  int64_t count_ = 0;
  int64_t images_per_launch_ = 1;
  int64_t launches_per_image_ = 1;  // more than 1 only where images_per_launch_ is 1
  int32_t rows_per_launch_ = 0;
};

// Whether query, key, value and output lie on multiples of 16 bytes, which the tensor-core kernels
// and the portable kernel's vectors need.
bool aligned(const Operands& operands);

}  // namespace dinat::cuda

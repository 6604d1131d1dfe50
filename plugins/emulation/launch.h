// Runs a grid of blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "emulation/memory.h"
#include "emulation/scheduler.h"

namespace dinat::emulation {

struct Grid {
  Index blocks;
  unsigned threads;
  size_t shared_bytes;
};

// Runs `kernel` in every thread of every block, blocks one after another in a random order that
// follows from `seed`, as everything random does. Counts into `statistics`. Throws Failure.
void launch(const Grid& grid, const GlobalMemory& global, uint64_t seed, Statistics& statistics,
            const std::function<void()>& kernel);

}  // namespace dinat::emulation

// Which kernel computes a problem: pure arithmetic on sizes, compiled without CUDA headers too.
#pragma once

#include <cstdint>
#include <vector>

#include "common/problem.h"

namespace dinat::cuda {

// Values are stable: TensorRT stores them in plans (0 is its "default").
enum class Tactic : int32_t {
  kHeuristic = 0,  // whatever `choose` says for the problem at hand
  kPortable = 1,   // any kernel size, head dim, type; no tensor cores
  kTile4 = 2,      // tensor cores, query tiles of 4 x 8
  kTile8 = 3,      // ... 8 x 8
  kTile16 = 4,     // ... 16 x 8
  kGroup = 5,      // tensor cores, where a whole dilation group fits one tile of 8 x 8
};

// What dispatch needs to know of a GPU.
struct Device {
  int32_t compute_capability;  // 87 for 8.7
  int32_t multiprocessors;
  int32_t shared_memory;  // bytes a block may opt in to
};

const char* name(Tactic tactic);

// Whether `tactic` computes `problem` on `device`. kHeuristic and kPortable can do every problem
// that `faultOf` finds nothing wrong with, up to 2^31 - 1 (column, head) pairs in a row of the map.
bool canImplement(const Problem& problem, Tactic tactic, const Device& device);

// All that can, without kHeuristic; never empty for a valid problem.
std::vector<Tactic> tactics(const Problem& problem, const Device& device);

// The expected fastest.
Tactic choose(const Problem& problem, const Device& device);

// Rows of queries in a block's tile (4, 8, 16), and 0 for tactics without tiles.
int32_t tileHeight(Tactic tactic);

// Bytes of shared memory of a block; 0 for the portable kernel.
int32_t sharedBytes(const Problem& problem, Tactic tactic);

// Blocks that one image takes under a tensor-core tactic.
int64_t tilesOfImage(const Problem& problem, Tactic tactic);

}  // namespace dinat::cuda

#include "emulation/launch.h"

#include <vector>

namespace dinat::emulation {

void launch(const Grid& grid, const GlobalMemory& global, uint64_t seed, Statistics& statistics,
            const std::function<void()>& kernel) {
  Block block(grid.threads, grid.shared_bytes, global, seed, statistics);
  std::vector<Index> order;
  order.reserve(static_cast<size_t>(grid.blocks.x) * grid.blocks.y * grid.blocks.z);
  for (unsigned z = 0; z < grid.blocks.z; ++z) {
    for (unsigned y = 0; y < grid.blocks.y; ++y) {
      for (unsigned x = 0; x < grid.blocks.x; ++x) order.push_back({x, y, z});
    }
  }
  Random random(seed + 1);
  random.shuffle(order);
  for (const Index& index : order) block.run(index, kernel);
}

}  // namespace dinat::emulation

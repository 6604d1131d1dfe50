#include "cpu/tiling.h"

#include <algorithm>
#include <limits>

#include "common/window.h"

namespace dinat::cpu {
namespace {

int64_t roundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Relative cost of one query: every vector of scores costs a multiplication for each query and a
// load that the queries of a register tile share.
double cost(const int32_t (&kernel_size)[2], const Patch& patch, int32_t queries) {
  const double starts = static_cast<double>(patch.rows - kernel_size[0] + 1) *
                        static_cast<double>(patch.columns - kernel_size[1] + 1);
  const double tile = std::min<double>(starts, queries);
  return static_cast<double>(patch.rows) * patch.columns * (1.0 + 1.0 / tile);
}

}  // namespace

Patch choosePatch(const int32_t (&kernel_size)[2], int32_t width, int32_t queries) {
  Patch best{};
  double least = std::numeric_limits<double>::infinity();
  // Half a vector is a legal row (two rows to a vector) where a vector has sixteen lanes.
  const int32_t narrowest = width == 16 ? 8 : width;
  const int64_t limit = roundUp(kernel_size[1], width) + width;
  for (int64_t columns = narrowest; columns <= limit; columns += narrowest) {
    const bool paired = columns < width;
    if (columns < kernel_size[1] || (!paired && columns % width != 0)) continue;
    const int32_t step = paired ? 2 : 1;
    for (int64_t extra = 0; extra < 8; ++extra) {
      const Patch patch{static_cast<int32_t>(roundUp(kernel_size[0] + extra, step)),
                        static_cast<int32_t>(columns)};
      const double now = cost(kernel_size, patch, queries);
      if (now < least) {
        least = now;
        best = patch;
      }
    }
  }
  return best;
}

AxisTiling tileAxis(int32_t members, int32_t kernel_size, int32_t patch) {
  AxisTiling axis{members, kernel_size, {}, {}};
  axis.start.resize(members);
  for (int32_t query = 0; query < members; ++query) {
    axis.start[query] = windowStart(query, members, kernel_size);
  }
  const int32_t starts = patch - kernel_size + 1;  // window starts that one patch serves
  const int32_t last_origin = std::max(members - patch, 0);
  for (int32_t query = 0; query < members;) {
    const int32_t tile = axis.start[query] / starts;
    const int32_t first = query;
    while (query < members && axis.start[query] / starts == tile) ++query;
    axis.tiles.push_back({std::min(tile * starts, last_origin), first, query});
  }
  return axis;
}

}  // namespace dinat::cpu

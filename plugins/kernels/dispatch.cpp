#include "kernels/dispatch.h"

#include <algorithm>
#include <limits>

#include "kernels/kernel_table.h"
#include "kernels/portable_shape.h"
#include "kernels/shapes.h"

namespace dinat::cuda {
namespace {

constexpr Tactic kTactics[] = {Tactic::kPortable, Tactic::kTile4, Tactic::kTile8, Tactic::kTile16,
                               Tactic::kGroup};
constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
constexpr int64_t kVectorElements = 8;  // of 16 bits in 16 bytes
// The bias enters the tensor-core kernels' scores divided by the scale.
constexpr float kSmallestScale = 0x1p-20f;
constexpr float kLargestScale = 0x1p20f;

int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Members of the longest dilation group along an axis.
int64_t longestGroup(const Problem& problem, int axis) {
  return ceilDivide(problem.size[axis], problem.dilation[axis]);
}

// Whether vectors of 16 bytes, numbered with 31 bits from an image's first, reach every channel.
bool vectorsReach(const Problem& problem, const Strides& strides) {
  const int64_t steps[] = {strides.row, strides.column, strides.head};
  const int64_t counts[] = {problem.size[0], problem.size[1], problem.heads};
  if (strides.batch < 0 || strides.batch % kVectorElements != 0) return false;
  int64_t span = problem.head_dim;
  for (int i = 0; i < 3; ++i) {
    if (steps[i] < 0 || steps[i] % kVectorElements != 0) return false;
    const int64_t room = kLargest * kVectorElements - span;
    if (counts[i] > 1 && steps[i] > room / (counts[i] - 1)) return false;
    span += steps[i] * (counts[i] - 1);
  }
  return true;
}

bool tensorCoresImplement(const Problem& problem, Tactic tactic, const Device& device) {
  const bool group = tactic == Tactic::kGroup;
  if (device.compute_capability < 80 || problem.type == DataType::kFloat32) return false;
  if (!(problem.scale >= kSmallestScale && problem.scale <= kLargestScale)) return false;
  if (!group && problem.kernel_size[0] != problem.kernel_size[1]) return false;
  if (findKernel({group ? Family::kGroup : Family::kTile, problem.type, problem.head_dim,
                  problem.kernel_size[0], false}) == nullptr) {
    return false;
  }
  for (int axis = 0; axis < 2; ++axis) {
    if (group && longestGroup(problem, axis) > GroupShape::kSize) return false;
  }
  return vectorsReach(problem, problem.input) && vectorsReach(problem, problem.output) &&
         sharedBytes(problem, tactic) <= device.shared_memory &&
         tilesOfImage(problem, tactic) <= kLargest;
}

}  // namespace

const char* name(Tactic tactic) {
  switch (tactic) {
    case Tactic::kHeuristic:
      return "heuristic";
    case Tactic::kPortable:
      return "portable";
    case Tactic::kTile4:
      return "tile4";
    case Tactic::kTile8:
      return "tile8";
    case Tactic::kTile16:
      return "tile16";
    case Tactic::kGroup:
      return "group";
  }
  return "unknown";
}

int32_t tileHeight(Tactic tactic) {
  switch (tactic) {
    case Tactic::kTile4:
      return 4;
    case Tactic::kTile8:
      return 8;
    case Tactic::kTile16:
      return 16;
    default:
      return 0;
  }
}

int32_t sharedBytes(const Problem& problem, Tactic tactic) {
  if (tactic == Tactic::kGroup) return GroupShape::sharedBytes(problem.head_dim);
  const int32_t height = tileHeight(tactic);
  if (height == 0) return 0;
  return TileShape{problem.kernel_size[0]}.sharedBytes(height, problem.head_dim);
}

int64_t tilesOfImage(const Problem& problem, Tactic tactic) {
  const int64_t height = tactic == Tactic::kGroup ? GroupShape::kSize : tileHeight(tactic);
  if (height == 0) return 0;
  // Sides are below 2^31, so a product of three factors can overflow only past the bound.
  const int64_t tiles[] = {ceilDivide(longestGroup(problem, 0), height) * problem.dilation[0],
                           ceilDivide(longestGroup(problem, 1), kTileWidth) * problem.dilation[1]};
  if (tiles[0] > kLargest || tiles[1] > kLargest || tiles[0] * tiles[1] > kLargest) {
    return kLargest + 1;
  }
  return tiles[0] * tiles[1] * problem.heads;
}

bool canImplement(const Problem& problem, Tactic tactic, const Device& device) {
  if (!faultOf(problem).empty()) return false;
  switch (tactic) {
    case Tactic::kHeuristic:
    case Tactic::kPortable:
      return portableItemsOfRow(problem) <= kLargest;
    case Tactic::kTile4:
    case Tactic::kTile8:
    case Tactic::kTile16:
    case Tactic::kGroup:
      return tensorCoresImplement(problem, tactic, device);
  }
  return false;
}

std::vector<Tactic> tactics(const Problem& problem, const Device& device) {
  std::vector<Tactic> found;
  std::copy_if(std::begin(kTactics), std::end(kTactics), std::back_inserter(found),
               [&](Tactic tactic) { return canImplement(problem, tactic, device); });
  return found;
}

Tactic choose(const Problem& problem, const Device& device) {
  if (canImplement(problem, Tactic::kGroup, device)) return Tactic::kGroup;
  const int64_t multiprocessors = std::max(device.multiprocessors, 1);
  const auto blocks = [&](Tactic tactic) {
    return static_cast<double>(tilesOfImage(problem, tactic)) * static_cast<double>(problem.batch);
  };
  // Tall tiles read less halo, but need two blocks on a multiprocessor to hide the copies, a grid
  // of several waves, and groups tall enough to fill them.
  if (canImplement(problem, Tactic::kTile16, device) &&
      2 * (sharedBytes(problem, Tactic::kTile16) + 1024) <= device.shared_memory + 1024 &&
      longestGroup(problem, 0) >= 32 && blocks(Tactic::kTile16) >= 8.0 * multiprocessors) {
    return Tactic::kTile16;
  }
  // Flat tiles spread a small problem over more multiprocessors.
  const bool flat = canImplement(problem, Tactic::kTile4, device);
  if (canImplement(problem, Tactic::kTile8, device) &&
      (!flat || blocks(Tactic::kTile8) >= multiprocessors)) {
    return Tactic::kTile8;
  }
  return flat ? Tactic::kTile4 : Tactic::kPortable;
}

}  // namespace dinat::cuda

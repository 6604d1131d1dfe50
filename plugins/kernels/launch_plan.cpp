#include "kernels/launch_plan.h"

#include <algorithm>

#include "kernels/portable_shape.h"
#include "kernels/shapes.h"

namespace dinat::cuda {
namespace {

constexpr float kLog2e = 1.4426950408889634f;
constexpr int64_t kVectorBytes = 16;

int64_t ceilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

const void* advance(const void* base, int64_t bytes) {
  return static_cast<const char*>(base) + bytes;
}

void* advance(void* base, int64_t bytes) { return static_cast<char*>(base) + bytes; }

bool multiples(const Strides& strides, int64_t of) {
  return strides.batch % of == 0 && strides.row % of == 0 && strides.column % of == 0 &&
         strides.head % of == 0;
}

// Whether the portable kernel can move the channels 16 bytes at a time, eight to a lane.
bool portableVectors(const Problem& problem, const Operands& operands) {
  const int64_t elements = kVectorBytes / elementSize(problem.type);
  return problem.head_dim % kLaneChannels == 0 && problem.head_dim <= kSliceChannels &&
         multiples(problem.input, elements) && multiples(problem.output, elements) &&
         aligned(operands);
}

uint32_t portableLanesLog2(int32_t head_dim) {
  uint32_t log2 = 0;
  while (log2 < 5 && (kLaneChannels << log2) < head_dim) ++log2;
  return log2;
}

template <class Parameters>
void setPointers(Parameters* parameters, const Problem& problem, const Operands& operands,
                 int64_t first_image) {
  const int64_t input = first_image * problem.input.batch * elementSize(problem.type);
  const int64_t output = first_image * problem.output.batch * elementSize(problem.type);
  parameters->query = advance(operands.query, input);
  parameters->key = advance(operands.key, input);
  parameters->value = advance(operands.value, input);
  parameters->rpb = operands.rpb;
  parameters->output = advance(operands.output, output);
}

}  // namespace

bool aligned(const Operands& operands) {
  for (const void* pointer :
       {operands.query, operands.key, operands.value, static_cast<const void*>(operands.output)}) {
    if (reinterpret_cast<uintptr_t>(pointer) % kVectorBytes != 0) return false;
  }
  return true;
}

LaunchPlan::LaunchPlan(const Problem& problem, const Operands& operands, Tactic tactic,
                       const LaunchLimits& limits)
    : problem_(problem), operands_(operands), tactic_(tactic) {
  int64_t images = 0;
  if (tactic == Tactic::kPortable) {
    const int64_t row = portableItemsOfRow(problem);
    const int64_t items_per_block = kPortableThreads >> portableLanesLog2(problem.head_dim);
    const int64_t items = std::min(limits.items, limits.blocks > limits.items / items_per_block
                                                     ? limits.items
                                                     : limits.blocks * items_per_block);
    const int64_t rows = std::max<int64_t>(items / row, 1);
    images = rows / problem.size[0];
    rows_per_launch_ = static_cast<int32_t>(std::min<int64_t>(rows, problem.size[0]));
    launches_per_image_ = ceilDivide(problem.size[0], rows_per_launch_);
  } else {
    images = limits.blocks / tilesOfImage(problem, tactic);
  }
  images_per_launch_ = std::max<int64_t>(images, 1);
  count_ = ceilDivide(problem.batch, images_per_launch_) * launches_per_image_;
}

Launch LaunchPlan::at(int64_t index) const {
  const int64_t first_image = index / launches_per_image_ * images_per_launch_;
  const int64_t images = std::min(images_per_launch_, problem_.batch - first_image);
  if (tactic_ != Tactic::kPortable) return tiles(first_image, images);
  const int64_t first_row = index % launches_per_image_ * rows_per_launch_;
  const int64_t rows = std::min<int64_t>(rows_per_launch_, problem_.size[0] - first_row);
  return portable(first_image, images, static_cast<int32_t>(first_row), static_cast<int32_t>(rows));
}

Launch LaunchPlan::portable(int64_t first_image, int64_t images, int32_t first_row,
                            int32_t rows) const {
  Launch launch{};
  launch.kernel = {Family::kPortable, problem_.type, 0, 0, portableVectors(problem_, operands_)};
  PortableParameters& p = launch.portable;
  setPointers(&p, problem_, operands_, first_image);
  p.input_batch = problem_.input.batch;
  p.input_row = problem_.input.row;
  p.input_column = problem_.input.column;
  p.input_head = problem_.input.head;
  p.output_batch = problem_.output.batch;
  p.output_row = problem_.output.row;
  p.output_column = problem_.output.column;
  p.output_head = problem_.output.head;
  p.items = static_cast<uint32_t>(portableItemsOfRow(problem_) * rows * images);
  p.lanes_log2 = portableLanesLog2(problem_.head_dim);
  p.head_dim = problem_.head_dim;
  p.first_row = first_row;
  p.slices = FastDivide::by(static_cast<uint32_t>(ceilDivide(problem_.head_dim, kSliceChannels)));
  p.heads = FastDivide::by(static_cast<uint32_t>(problem_.heads));
  p.columns = FastDivide::by(static_cast<uint32_t>(problem_.size[1]));
  p.rows = FastDivide::by(static_cast<uint32_t>(rows));
  for (int axis = 0; axis < 2; ++axis) {
    p.size[axis] = problem_.size[axis];
    p.kernel_size[axis] = problem_.kernel_size[axis];
    p.dilation[axis] = FastDivide::by(static_cast<uint32_t>(problem_.dilation[axis]));
  }
  p.next_key = problem_.dilation[1] * problem_.input.column;
  p.next_key_row =
      problem_.dilation[0] * problem_.input.row - (problem_.kernel_size[1] - 1) * p.next_key;
  p.scale = problem_.scale * kLog2e;
  launch.threads = kPortableThreads;
  launch.blocks = static_cast<uint32_t>(ceilDivide(p.items, kPortableThreads >> p.lanes_log2));
  return launch;
}

Launch LaunchPlan::tiles(int64_t first_image, int64_t images) const {
  constexpr int64_t kVectorElements = 8;
  const bool group = tactic_ == Tactic::kGroup;
  const int32_t extents[] = {group ? GroupShape::kSize : tileHeight(tactic_), kTileWidth};
  const auto vectors = [](int64_t elements) {
    return static_cast<uint32_t>(elements / kVectorElements);
  };
  Launch launch{};
  launch.kernel = {group ? Family::kGroup : Family::kTile, problem_.type, problem_.head_dim,
                   group ? 0 : problem_.kernel_size[0], false};
  TileParameters& p = launch.tile;
  setPointers(&p, problem_, operands_, first_image);
  p.input_batch = static_cast<uint64_t>(problem_.input.batch / kVectorElements);
  p.output_batch = static_cast<uint64_t>(problem_.output.batch / kVectorElements);
  p.input_head = vectors(problem_.input.head);
  p.output_head = vectors(problem_.output.head);
  p.heads = FastDivide::by(static_cast<uint32_t>(problem_.heads));
  const int64_t input_steps[] = {problem_.input.row, problem_.input.column};
  const int64_t output_steps[] = {problem_.output.row, problem_.output.column};
  for (int axis = 0; axis < 2; ++axis) {
    const int32_t dilation = problem_.dilation[axis];
    const int64_t longest = ceilDivide(problem_.size[axis], dilation);
    p.input_token[axis] = vectors(input_steps[axis]);
    p.output_token[axis] = vectors(output_steps[axis]);
    // Only multiplied where a group has a second member, which the image's span then bounds.
    p.input_member[axis] = vectors(input_steps[axis] * dilation);
    p.output_member[axis] = vectors(output_steps[axis] * dilation);
    p.tiles[axis] = FastDivide::by(static_cast<uint32_t>(ceilDivide(longest, extents[axis])));
    p.groups[axis] = FastDivide::by(static_cast<uint32_t>(dilation));
    p.members[axis] = problem_.size[axis] / dilation;
    p.longer_groups[axis] = problem_.size[axis] % dilation;
    p.kernel_size[axis] = problem_.kernel_size[axis];
  }
  p.scale = problem_.scale * kLog2e;
  p.inverse_scale = 1.0f / problem_.scale;
  launch.blocks = static_cast<uint32_t>(tilesOfImage(problem_, tactic_) * images);
  launch.threads = static_cast<uint32_t>(extents[0] * kRowThreads);
  launch.shared_bytes = static_cast<uint32_t>(sharedBytes(problem_, tactic_));
  return launch;
}

}  // namespace dinat::cuda

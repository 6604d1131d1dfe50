#include "cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "common/half.h"
#include "common/window.h"
#include "cpu/isa.h"
#include "cpu/kernel.h"
#include "cpu/tiling.h"

namespace dinat::cpu {
namespace {

constexpr double kLog2E = 1.4426950408889634;
constexpr int64_t kTaskWork = 1 << 18;       // multiply-adds that are worth a task of their own
constexpr int64_t kBlockBytes = 512 * 1024;  // of packed keys and values: half a level-2 cache
constexpr int64_t kEnoughUnits = 16;         // with fewer, blocks are made smaller
constexpr int64_t kChunk = 8;                // floats that are copied at once

int64_t roundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Floats at an address that any vector load likes; grows, never shrinks.
class Memory {
 public:
  ~Memory() { release(); }

  float* atLeast(int64_t count) {
    if (count > count_) {
      release();
      data_ = static_cast<float*>(::operator new(count * sizeof(float), kAlignment));
      count_ = count;
      // Lanes of a patch beyond a short map are read and masked; they need not be, but are,
      // defined.
      std::memset(data_, 0, count * sizeof(float));
    }
    return data_;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};

  void release() {
    if (data_) ::operator delete(data_, kAlignment);
    data_ = nullptr;
    count_ = 0;
  }

  float* data_ = nullptr;
  int64_t count_ = 0;
};

// Rows of patches of one dilation group: what one unit of work computes.
struct Block {
  int32_t row_group;
  int32_t column_group;
  int32_t first_tile;
  int32_t last_tile;
};

Axis view(const AxisTiling& axis) {
  return {axis.members, axis.kernel_size, static_cast<int32_t>(axis.tiles.size()),
          axis.tiles.data(), axis.start.data()};
}

}  // namespace

struct Attention::Plan {
  Plan(const Problem& problem, Isa isa);

  Problem problem;
  const Kernel& kernel;
  Patch patch;
  int32_t padded_dim;
  float scale;
  AxisTiling tilings[2][2];  // [axis][whether the group has one member fewer than the first]
  std::vector<Block> blocks;
  std::vector<float> masks;
  std::vector<float> whole_mask;
  // Sizes of a thread's memory, in floats.
  int64_t keys_size;
  int64_t values_size;
  int64_t bias_size;
  int64_t bias_pitch;
  int64_t bias_origin;      // offset (0, 0) of the table
  int64_t whole_bias_size;  // of the tables of a whole group, if the plan has one
  int64_t units;            // over all heads and images
  int64_t tasks;

  const AxisTiling& tiling(int axis, int32_t group) const;
  int64_t packedRows(const AxisTiling& rows, int32_t first_tile, int32_t last_tile) const;
  void makeMasks();
  void makeBlocks();
  bool isWhole(const Block& block) const;
  void fillBias(const void* rpb, int32_t head, float* table) const;
  void fillWholeBias(const float* table, float* whole) const;
  void runTask(const Operands& operands, int64_t task) const;
};

Attention::Plan::Plan(const Problem& the_problem, Isa isa)
    : problem(the_problem), kernel(kernelOf(isa)) {
  patch = choosePatch(problem.kernel_size, kernel.width, kernel.max_queries);
  padded_dim = static_cast<int32_t>(roundUp(problem.head_dim, kernel.width));
  scale = static_cast<float>(problem.scale * kLog2E);
  const int32_t sides[2] = {patch.rows, patch.columns};
  int64_t margin[2], span[2];
  for (int axis = 0; axis < 2; ++axis) {
    const int32_t longest = groupLength(problem.size[axis], 0, problem.dilation[axis]);
    const int32_t shortest =
        groupLength(problem.size[axis], problem.dilation[axis] - 1, problem.dilation[axis]);
    tilings[axis][0] = tileAxis(longest, problem.kernel_size[axis], sides[axis]);
    if (shortest < longest) {
      tilings[axis][1] = tileAxis(shortest, problem.kernel_size[axis], sides[axis]);
    }
    margin[axis] = sides[axis] - problem.kernel_size[axis];
    span[axis] = 2 * int64_t{problem.kernel_size[axis]} - 1 + 2 * margin[axis];
  }
  bias_pitch = span[1];
  bias_size = span[0] * span[1] + kChunk;
  bias_origin = margin[0] * bias_pitch + margin[1];
  makeMasks();
  makeBlocks();
  const int64_t window = int64_t{problem.kernel_size[0]} * problem.kernel_size[1];
  whole_mask.assign(roundUp(window, kernel.width), -INFINITY);
  std::fill_n(whole_mask.begin(), window, INFINITY);
  const bool any_whole =
      std::any_of(blocks.begin(), blocks.end(), [&](const Block& block) { return isWhole(block); });
  const int64_t table = (2 * int64_t{problem.kernel_size[0]} - 1) * problem.kernel_size[1];
  whole_bias_size = any_whole ? problem.kernel_size[1] * table + kChunk + kernel.width : 0;
  units = problem.batch * problem.heads * static_cast<int64_t>(blocks.size());
  const double work = 2.0 * patch.rows * patch.columns * padded_dim * problem.size[0] *
                      problem.size[1] * problem.heads * static_cast<double>(problem.batch);
  tasks = std::min(units, static_cast<int64_t>(std::ceil(work / kTaskWork)));
}

const AxisTiling& Attention::Plan::tiling(int axis, int32_t group) const {
  const AxisTiling& first = tilings[axis][0];
  const bool shorter =
      groupLength(problem.size[axis], group, problem.dilation[axis]) < first.members;
  return tilings[axis][shorter];
}

bool Attention::Plan::isWhole(const Block& block) const {
  return tiling(0, block.row_group).members == problem.kernel_size[0] &&
         tiling(1, block.column_group).members == problem.kernel_size[1];
}

int64_t Attention::Plan::packedRows(const AxisTiling& rows, int32_t first_tile,
                                    int32_t last_tile) const {
  return rows.tiles[last_tile - 1].origin + patch.rows - rows.tiles[first_tile].origin;
}

void Attention::Plan::makeMasks() {
  const int32_t row_shifts = patch.rows - problem.kernel_size[0] + 1;
  const int32_t column_shifts = patch.columns - problem.kernel_size[1] + 1;
  masks.reserve(int64_t{row_shifts} * column_shifts * patch.rows * patch.columns);
  const auto inside = [&](int axis, int32_t lane, int32_t shift) {
    return lane >= shift && lane < shift + problem.kernel_size[axis];
  };
  for (int32_t row_shift = 0; row_shift < row_shifts; ++row_shift) {
    for (int32_t column_shift = 0; column_shift < column_shifts; ++column_shift) {
      for (int32_t row = 0; row < patch.rows; ++row) {
        for (int32_t column = 0; column < patch.columns; ++column) {
          const bool seen = inside(0, row, row_shift) && inside(1, column, column_shift);
          masks.push_back(seen ? INFINITY : -INFINITY);
        }
      }
    }
  }
}

void Attention::Plan::makeBlocks() {
  const int64_t row_bytes = 2 * sizeof(float) * padded_dim * int64_t{tilings[1][0].members};
  const int64_t starts = patch.rows - problem.kernel_size[0] + 1;
  const int64_t images = std::max<int64_t>(problem.batch, 1) * problem.heads * problem.dilation[0] *
                         problem.dilation[1];
  const int64_t tiles_of_all = tilings[0][0].tiles.size();
  const int64_t fitting = (kBlockBytes / row_bytes - patch.rows) / starts + 1;
  const int64_t parallel = tiles_of_all * images / kEnoughUnits;
  const int64_t wanted = std::max<int64_t>(std::min(fitting, std::max<int64_t>(parallel, 4)), 1);
  int64_t rows = 0;
  for (int32_t row_group = 0; row_group < problem.dilation[0]; ++row_group) {
    const AxisTiling& axis = tiling(0, row_group);
    const int64_t tiles = axis.tiles.size();
    const int64_t parts = (tiles + wanted - 1) / wanted;
    for (int32_t column_group = 0; column_group < problem.dilation[1]; ++column_group) {
      for (int64_t part = 0; part < parts; ++part) {
        const int32_t first = static_cast<int32_t>(tiles * part / parts);
        const int32_t last = static_cast<int32_t>(tiles * (part + 1) / parts);
        blocks.push_back({row_group, column_group, first, last});
        rows = std::max(rows, packedRows(axis, first, last));
      }
    }
  }
  const int64_t members = tilings[1][0].members;
  const int64_t columns = std::max<int64_t>(roundUp(members, 8), patch.columns);
  keys_size = rows * columns * padded_dim;
  values_size = rows * members * padded_dim;
}

void Attention::Plan::fillBias(const void* rpb, int32_t head, float* table) const {
  const int64_t rows = 2 * int64_t{problem.kernel_size[0]} - 1;
  const int64_t columns = 2 * int64_t{problem.kernel_size[1]} - 1;
  const auto copy = [&](const auto* source) {
    source += head * rows * columns;
    for (int64_t row = 0; row < rows; ++row) {
      float* target = table + bias_origin + row * bias_pitch;
      for (int64_t column = 0; column < columns; ++column) {
        target[column] = toFloat(*source++) * static_cast<float>(kLog2E);
      }
    }
  };
  switch (problem.type) {
    case DataType::kFloat32:
      return copy(static_cast<const float*>(rpb));
    case DataType::kFloat16:
      return copy(static_cast<const Float16*>(rpb));
    case DataType::kBFloat16:
      return copy(static_cast<const BFloat16*>(rpb));
  }
}

// A group whose windows are all the same needs kernel_size[0] * kernel_size[1] consecutive biases
// for each query. Those of queries in one column overlap in a table whose rows are as wide as the
// window; there is one table for each column.
void Attention::Plan::fillWholeBias(const float* table, float* whole) const {
  const int64_t rows = 2 * int64_t{problem.kernel_size[0]} - 1;
  const int64_t width = problem.kernel_size[1];
  for (int64_t column = width - 1; column >= 0; --column) {
    const float* source = table + bias_origin + width - 1 - column;
    for (int64_t row = 0; row < rows; ++row) {
      // Whole chunks; what is too much is overwritten by the next row or table.
      for (int64_t first = 0; first < width; first += kChunk) {
        std::memcpy(whole + first, source + row * bias_pitch + first, kChunk * sizeof(float));
      }
      whole += width;
    }
  }
}

void Attention::Plan::runTask(const Operands& operands, int64_t task) const {
  static thread_local Memory memory;
  const int64_t lanes = int64_t{patch.rows} * patch.columns;
  const int64_t vectors = lanes / kernel.width;
  const int64_t sizes[] = {keys_size,
                           values_size,
                           kernel.max_queries * int64_t{padded_dim},
                           kernel.max_queries * lanes,
                           2 * vectors,
                           2 * vectors,
                           bias_size,
                           whole_bias_size};
  int64_t total = 0;
  for (int64_t size : sizes) total += roundUp(size, 16);
  float* next = memory.atLeast(total);
  const auto take = [&](int64_t size) {
    float* part = next;
    next += roundUp(size, 16);
    return part;
  };
  Scratch scratch;
  scratch.keys = take(sizes[0]);
  scratch.values = take(sizes[1]);
  scratch.queries = take(sizes[2]);
  scratch.scores = take(sizes[3]);
  scratch.key_offsets = reinterpret_cast<int64_t*>(take(sizes[4]));
  scratch.bias_offsets = reinterpret_cast<int64_t*>(take(sizes[5]));
  float* bias = take(sizes[6]);
  std::memset(bias, 0, bias_size * sizeof(float));
  float* whole_bias = take(sizes[7]);
  std::memset(whole_bias, 0, whole_bias_size * sizeof(float));

  const int64_t element = elementSize(problem.type);
  const int64_t per_head = static_cast<int64_t>(blocks.size());
  const auto offset = [&](const Strides& strides, int64_t image, int64_t head, const Block& block) {
    return (image * strides.batch + head * strides.head + block.row_group * strides.row +
            block.column_group * strides.column) *
           element;
  };
  int64_t bias_head = -1, whole_bias_head = -1;
  for (int64_t index = units * task / tasks; index < units * (task + 1) / tasks; ++index) {
    // Heads in the innermost place: those of a token are neighbours in memory.
    const Block& block = blocks[index / problem.heads % per_head];
    const int64_t head = index % problem.heads;
    const int64_t image = index / per_head / problem.heads;
    if (operands.rpb && head != bias_head) {
      fillBias(operands.rpb, static_cast<int32_t>(head), bias);
      bias_head = head;
    }
    const bool whole = isWhole(block);
    if (operands.rpb && whole && head != whole_bias_head) {
      fillWholeBias(bias, whole_bias);
      whole_bias_head = head;
    }
    const int64_t input = offset(problem.input, image, head, block);
    Unit unit;
    unit.query = static_cast<const char*>(operands.query) + input;
    unit.key = static_cast<const char*>(operands.key) + input;
    unit.value = static_cast<const char*>(operands.value) + input;
    unit.output = static_cast<char*>(operands.output) + offset(problem.output, image, head, block);
    unit.input_row = problem.input.row * problem.dilation[0];
    unit.input_column = problem.input.column * problem.dilation[1];
    unit.output_row = problem.output.row * problem.dilation[0];
    unit.output_column = problem.output.column * problem.dilation[1];
    unit.head_dim = problem.head_dim;
    unit.padded_dim = padded_dim;
    unit.scale = scale;
    unit.patch = patch;
    unit.rows = view(tiling(0, block.row_group));
    unit.columns = view(tiling(1, block.column_group));
    unit.padded_columns =
        static_cast<int32_t>(std::max<int64_t>(roundUp(unit.columns.members, 8), patch.columns));
    unit.first_tile = block.first_tile;
    unit.last_tile = block.last_tile;
    unit.whole = whole;
    if (whole) {
      unit.bias = whole_bias;
      unit.bias_pitch = problem.kernel_size[1];
      unit.bias_column = (2 * int64_t{problem.kernel_size[0]} - 1) * problem.kernel_size[1];
      unit.masks = whole_mask.data();
    } else {
      unit.bias = bias + bias_origin;
      unit.bias_pitch = bias_pitch;
      unit.bias_column = 1;
      unit.masks = masks.data();
    }
    kernel.run[static_cast<int>(problem.type)](unit, scratch);
  }
}

Attention::Attention(const Problem& problem, Isa isa)
    : plan_(std::make_unique<Plan>(problem, isa)) {}

Attention::~Attention() = default;

void Attention::run(const Operands& operands, const ParallelFor& parallel_for) const {
  if (plan_->tasks == 0) return;
  parallel_for(static_cast<size_t>(plan_->tasks),
               [&](size_t task) { plan_->runTask(operands, static_cast<int64_t>(task)); });
}

}  // namespace dinat::cpu

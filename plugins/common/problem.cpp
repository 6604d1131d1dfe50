#include "common/problem.h"

#include <cmath>
#include <limits>
#include <sstream>

namespace dinat {
namespace {

constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
constexpr const char* kSides[] = {"height", "width"};

Problem unstrided(const Shape& shape, const int32_t (&kernel_size)[2], const int32_t (&dilation)[2],
                  float scale, DataType type) {
  Problem problem{};
  problem.batch = shape.batch;
  problem.size[0] = static_cast<int32_t>(shape.height);
  problem.size[1] = static_cast<int32_t>(shape.width);
  problem.heads = static_cast<int32_t>(shape.heads);
  problem.head_dim = static_cast<int32_t>(shape.head_dim);
  for (int axis = 0; axis < 2; ++axis) {
    problem.kernel_size[axis] = kernel_size[axis];
    problem.dilation[axis] = dilation[axis];
  }
  problem.scale = scale;
  problem.type = type;
  return problem;
}

// Strides of a contiguous [B, H, W, channels] tensor whose heads follow each other.
Strides contiguous(const Shape& shape, int64_t channels) {
  return {shape.height * shape.width * channels, shape.width * channels, channels, shape.head_dim};
}

}  // namespace

int64_t elementSize(DataType type) { return type == DataType::kFloat32 ? 4 : 2; }

const char* name(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return "float32";
    case DataType::kFloat16:
      return "float16";
    case DataType::kBFloat16:
      return "bfloat16";
  }
  return "unknown";
}

Problem packedProblem(const Shape& shape, const int32_t (&kernel_size)[2],
                      const int32_t (&dilation)[2], float scale, DataType type) {
  Problem problem = unstrided(shape, kernel_size, dilation, scale, type);
  problem.input = contiguous(shape, 3 * shape.heads * shape.head_dim);
  problem.output = contiguous(shape, shape.heads * shape.head_dim);
  return problem;
}

Problem splitProblem(const Shape& shape, const int32_t (&kernel_size)[2],
                     const int32_t (&dilation)[2], float scale, DataType type) {
  Problem problem = unstrided(shape, kernel_size, dilation, scale, type);
  problem.input = contiguous(shape, shape.heads * shape.head_dim);
  problem.output = problem.input;
  return problem;
}

Operands packedOperands(const Problem& problem, const void* qkv, const void* rpb, void* output) {
  const char* base = static_cast<const char*>(qkv);
  const int64_t block =
      static_cast<int64_t>(problem.heads) * problem.head_dim * elementSize(problem.type);
  return {base, base + block, base + 2 * block, rpb, output};
}

std::string faultOf(const Shape& shape, const int32_t (&kernel_size)[2],
                    const int32_t (&dilation)[2], float scale) {
  std::ostringstream fault;
  const int64_t sizes[] = {shape.height, shape.width};
  if (shape.batch < 0) {
    fault << "the batch size is " << shape.batch << "; expected 0 or more";
  } else if (shape.heads < 1 || shape.head_dim < 1) {
    fault << "there are " << shape.heads << " heads of " << shape.head_dim
          << " channels; expected at least 1 of each";
  } else if (shape.heads > kLargest || shape.head_dim > kLargest || shape.height > kLargest ||
             shape.width > kLargest) {
    fault << "a size exceeds " << kLargest;
  } else if (!std::isfinite(scale)) {
    fault << "scale is " << scale << "; expected a finite number";
  } else {
    for (int axis = 0; axis < 2; ++axis) {
      if (kernel_size[axis] < 1 || dilation[axis] < 1) {
        fault << "kernel_size is " << kernel_size[axis] << " and dilation " << dilation[axis]
              << " along the " << kSides[axis] << "; expected at least 1 of each";
        break;
      }
      const int64_t span = static_cast<int64_t>(kernel_size[axis]) * dilation[axis];
      if (span > sizes[axis]) {
        fault << "kernel_size " << kernel_size[axis] << " * dilation " << dilation[axis] << " = "
              << span << " exceeds the map's " << kSides[axis] << " of " << sizes[axis]
              << "; zero-pad the map before the qkv projection or use a larger input";
        break;
      }
    }
  }
  return fault.str();
}

std::string faultOf(const Problem& problem) {
  const Shape shape{problem.batch, problem.size[0], problem.size[1], problem.heads,
                    problem.head_dim};
  return faultOf(shape, problem.kernel_size, problem.dilation, problem.scale);
}

}  // namespace dinat

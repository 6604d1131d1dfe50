#include "tensorrt/tensors.h"

#include <algorithm>
#include <limits>
#include <sstream>
#include <stdexcept>

namespace dinat::tensorrt {
namespace {

using nvinfer1::Dims;
using TensorRTType = nvinfer1::DataType;

// Beyond it byte offsets would not fit 64 bits with room to spare; no memory is that large.
constexpr int64_t kMostElements = int64_t{1} << 48;

constexpr int kBatch = 0;
constexpr int kHeight = 1;
constexpr int kWidth = 2;
constexpr int kChannels = 3;

const char* inputName(Layout layout, size_t index) {
  constexpr const char* kPackedNames[] = {"qkv", "rpb"};
  constexpr const char* kSplitNames[] = {"query", "key", "value", "rpb"};
  return layout == Layout::kPacked ? kPackedNames[index] : kSplitNames[index];
}

const char* typeName(TensorRTType type) {
  switch (type) {
    case TensorRTType::kFLOAT:
      return "float32";
    case TensorRTType::kHALF:
      return "float16";
    case TensorRTType::kBF16:
      return "bfloat16";
    case TensorRTType::kINT8:
      return "int8";
    case TensorRTType::kINT32:
      return "int32";
    case TensorRTType::kINT64:
      return "int64";
    case TensorRTType::kBOOL:
      return "bool";
    case TensorRTType::kUINT8:
      return "uint8";
    case TensorRTType::kFP8:
      return "float8";
    default:
      return "of another type";
  }
}

std::string toString(const Dims& dims) {
  std::ostringstream text;
  text << '[';
  for (int32_t i = 0; i < dims.nbDims && i < Dims::MAX_DIMS; ++i) {
    text << (i == 0 ? "" : ", ") << dims.d[i];
  }
  text << ']';
  return text.str();
}

struct Expected {
  Dims dims;            // -1 where any size will do
  std::string meaning;  // in names
};

Expected expectedMap(Layout layout, const Attributes& attributes, int64_t blocks) {
  Expected expected{};
  Dims& dims = expected.dims;
  dims.d[kBatch] = -1;
  dims.d[kHeight] = attributes.size[0] > 0 ? attributes.size[0] : -1;
  dims.d[kWidth] = attributes.size[1] > 0 ? attributes.size[1] : -1;
  if (layout == Layout::kPacked) {
    dims.nbDims = 4;
    dims.d[kChannels] = blocks * attributes.num_heads * attributes.head_dim;
    expected.meaning = blocks == 3 ? "[batch, height, width, 3 * num_heads * head_dim]"
                                   : "[batch, height, width, num_heads * head_dim]";
  } else {
    dims.nbDims = 5;
    dims.d[kChannels] = attributes.num_heads;
    dims.d[kChannels + 1] = attributes.head_dim;
    expected.meaning = "[batch, height, width, num_heads, head_dim]";
  }
  return expected;
}

Expected expectedRpb(const Attributes& attributes) {
  Expected expected{};
  expected.dims.nbDims = 3;
  expected.dims.d[0] = attributes.num_heads;
  for (int axis = 0; axis < 2; ++axis) {
    expected.dims.d[1 + axis] = 2 * static_cast<int64_t>(attributes.kernel_size[axis]) - 1;
  }
  expected.meaning = "[num_heads, 2*kernel_height-1, 2*kernel_width-1]";
  return expected;
}

bool agree(int64_t got, int64_t expected) { return got == expected || got == -1 || expected == -1; }

std::string faultOfShape(const char* name, const Dims& got, const Expected& expected) {
  bool same = got.nbDims == expected.dims.nbDims;
  for (int32_t i = 0; same && i < got.nbDims; ++i) {
    same = got.d[i] >= -1 && agree(got.d[i], expected.dims.d[i]);
  }
  if (same) return {};
  return std::string(name) + " has shape " + toString(got) + "; expected " +
         toString(expected.dims) + ", that is " + expected.meaning +
         " (-1 is any size); mend the node's attributes or the tensor that feeds it";
}

std::string faultOfVolume(const char* name, const Dims& dims) {
  int64_t volume = 1;
  for (int32_t i = 0; i < dims.nbDims; ++i) {
    const int64_t size = dims.d[i] == -1 ? 1 : dims.d[i];
    if (__builtin_mul_overflow(volume, size, &volume) || volume > kMostElements) {
      return std::string(name) + " has shape " + toString(dims) + "; expected at most " +
             std::to_string(kMostElements) + " elements; use a smaller batch or map";
    }
  }
  return {};
}

dinat::DataType elementType(TensorRTType type) {
  switch (type) {
    case TensorRTType::kFLOAT:
      return dinat::DataType::kFloat32;
    case TensorRTType::kHALF:
      return dinat::DataType::kFloat16;
    case TensorRTType::kBF16:
      return dinat::DataType::kBFloat16;
    default:
      throw std::invalid_argument(std::string("no kernel computes in ") + typeName(type));
  }
}

}  // namespace

int32_t requiredInputs(Layout layout) { return layout == Layout::kPacked ? 1 : 3; }

bool isSupported(TensorRTType type) {
  return type == TensorRTType::kFLOAT || type == TensorRTType::kHALF || type == TensorRTType::kBF16;
}

std::string faultOfCounts(Layout layout, int32_t inputs, int32_t outputs) {
  const int32_t required = requiredInputs(layout);
  if (outputs != 1) {
    return "there are " + std::to_string(outputs) + " outputs; expected 1; mend the node";
  }
  if (inputs == required || inputs == required + 1) return {};
  return "there are " + std::to_string(inputs) + " inputs; expected " + std::to_string(required) +
         " (" + (layout == Layout::kPacked ? "qkv" : "query, key, value") + ") or " +
         std::to_string(required + 1) + " (with rpb); mend the node's inputs";
}

std::string faultOfTypes(Layout layout, const std::vector<TensorRTType>& inputs,
                         const TensorRTType* output) {
  const auto fault = [&](const char* tensor, TensorRTType type) -> std::string {
    if (!isSupported(type)) {
      return std::string(tensor) + " is " + typeName(type) +
             "; expected float32, float16 or bfloat16; put a Cast or DequantizeLinear before it";
    }
    if (type != inputs.front()) {
      return std::string(tensor) + " is " + typeName(type) + " and " + inputName(layout, 0) +
             " is " + typeName(inputs.front()) +
             "; expected one type for all tensors; put a Cast on " + tensor;
    }
    return {};
  };
  for (size_t i = 0; i < inputs.size(); ++i) {
    std::string found = fault(inputName(layout, i), inputs[i]);
    if (!found.empty()) return found;
  }
  return output == nullptr ? std::string() : fault("output", *output);
}

std::string faultOfShapes(Layout layout, const Attributes& attributes, const Shapes& inputs,
                          const Dims* output) {
  const size_t maps = static_cast<size_t>(requiredInputs(layout));
  Expected map = expectedMap(layout, attributes, layout == Layout::kPacked ? 3 : 1);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const char* const tensor = inputName(layout, i);
    std::string fault = faultOfShape(tensor, inputs[i], i < maps ? map : expectedRpb(attributes));
    if (fault.empty()) fault = faultOfVolume(tensor, inputs[i]);
    if (!fault.empty()) return fault;
    if (i >= maps) continue;
    // The maps that follow must have the same batch and sizes.
    for (int axis = kBatch; axis <= kWidth; ++axis) {
      if (map.dims.d[axis] == -1) map.dims.d[axis] = inputs[i].d[axis];
    }
  }
  const auto size = [&map](int axis, int64_t unknown) {
    return map.dims.d[axis] == -1 ? unknown : map.dims.d[axis];
  };
  constexpr int64_t kAny = std::numeric_limits<int32_t>::max();
  std::string fault = faultOf(Shape{size(kBatch, 0), size(kHeight, kAny), size(kWidth, kAny),
                                    attributes.num_heads, attributes.head_dim},
                              attributes.kernel_size, attributes.dilation, attributes.scale);
  if (fault.empty() && output != nullptr) {
    Expected expected = expectedMap(layout, attributes, 1);
    std::copy(map.dims.d, map.dims.d + kChannels, expected.dims.d);
    fault = faultOfShape("output", *output, expected);
  }
  return fault;
}

bool known(const Shapes& shapes) {
  return std::all_of(shapes.begin(), shapes.end(), [](const Dims& dims) {
    return std::all_of(dims.d, dims.d + dims.nbDims, [](int64_t size) { return size >= 0; });
  });
}

Problem problemOf(Layout layout, const Attributes& attributes, const Shapes& inputs,
                  TensorRTType type) {
  const Dims& map = inputs.front();
  const Shape shape{map.d[kBatch], map.d[kHeight], map.d[kWidth], attributes.num_heads,
                    attributes.head_dim};
  const auto make = layout == Layout::kPacked ? packedProblem : splitProblem;
  return make(shape, attributes.kernel_size, attributes.dilation, attributes.scale,
              elementType(type));
}

}  // namespace dinat::tensorrt

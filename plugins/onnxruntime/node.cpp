#include "onnxruntime/node.h"

#include <limits>

namespace dinat::ort {
namespace {

std::string nameOf(const OrtKernelInfo* info) {
  size_t size = 0;
  check(api().KernelInfo_GetNodeName(info, nullptr, &size));
  if (size == 0) return "";
  std::string name(size, '\0');
  check(api().KernelInfo_GetNodeName(info, name.data(), &size));
  name.resize(name.find('\0') == std::string::npos ? size : name.find('\0'));
  return name;
}

// What ONNX Runtime says of one attribute, or why it does not have it.
struct Reading {
  OrtStatus* status;

  bool failed() const {
    if (status) api().ReleaseStatus(status);
    return status != nullptr;
  }
};

}  // namespace

const char* operatorName(Layout layout) {
  return layout == Layout::kPacked ? "NeighborhoodAttention2D" : "NeighborhoodAttention2DSplit";
}

size_t rpbIndex(Layout layout) { return layout == Layout::kPacked ? 1 : 3; }

void Node::fail(const std::string& what) const {
  throw NodeError("dinat." + std::string(operatorName(layout_)) +
                  (name_.empty() ? "" : " '" + name_ + "'") + ": " + what + ".");
}

void Node::failFor(const char* attribute, const char* kind) const {
  fail("the attribute " + std::string(attribute) + " is missing or is not " + kind +
       "; export the model again with dinat-deploy");
}

template <class Value, class Read>
Value Node::attribute(const char* name, const char* kind, const Read& read) const {
  Value value{};
  if (Reading{read(&value)}.failed()) failFor(name, kind);
  return value;
}

Node::Node(const OrtKernelInfo* info, Layout layout, DataType type)
    : layout_(layout), type_(type), name_(nameOf(info)) {
  const auto integer = [&](const char* name) {
    return attribute<int64_t>(name, "an int", [&](int64_t* out) {
      return api().KernelInfoGetAttribute_int64(info, name, out);
    });
  };
  const auto pair = [&](const char* name, int32_t (&out)[2]) {
    const char* kind = "a list of two ints (height, width)";
    const auto values =
        attribute<std::vector<int64_t>>(name, kind, [&](std::vector<int64_t>* list) {
          size_t count = 0;
          OrtStatus* status = api().KernelInfoGetAttributeArray_int64(info, name, nullptr, &count);
          if (status) return status;
          list->resize(count);
          return count ? api().KernelInfoGetAttributeArray_int64(info, name, list->data(), &count)
                       : nullptr;
        });
    if (values.empty()) failFor(name, kind);  // what an attribute of another type is read as
    if (values.size() != 2) {
      fail("the attribute " + std::string(name) + " has " + std::to_string(values.size()) +
           " values; expected two (height, width)");
    }
    for (int axis = 0; axis < 2; ++axis) {
      if (values[axis] < 1 || values[axis] > std::numeric_limits<int32_t>::max()) {
        fail("the attribute " + std::string(name) + " is " + text(values) +
             "; expected positive 32-bit numbers");
      }
      out[axis] = static_cast<int32_t>(values[axis]);
    }
  };
  heads_ = integer("num_heads");
  head_dim_ = integer("head_dim");
  if (heads_ < 1 || head_dim_ < 1) {
    fail("num_heads is " + std::to_string(heads_) + " and head_dim " + std::to_string(head_dim_) +
         "; expected at least 1 of each");
  }
  pair("kernel_size", kernel_size_);
  pair("dilation", dilation_);
  scale_ = attribute<float>("scale", "a float", [&](float* out) {
    return api().KernelInfoGetAttribute_float(info, "scale", out);
  });
}

Shape Node::shapeOf(const std::vector<int64_t>& sizes) const {
  const std::string heads = std::to_string(heads_), dim = std::to_string(head_dim_);
  if (layout_ == Layout::kPacked) {
    // Divided, not multiplied: attributes may be anything.
    const bool fits = sizes.size() == 4 && sizes[3] % 3 == 0 && sizes[3] / 3 % heads_ == 0 &&
                      sizes[3] / 3 / heads_ == head_dim_;
    if (!fits) {
      fail("qkv has the shape " + text(sizes) + "; expected [B, H, W, 3*num_heads*head_dim] with " +
           heads + " heads of " + dim + " channels");
    }
  } else if (sizes.size() != 5 || sizes[3] != heads_ || sizes[4] != head_dim_) {
    fail("query has the shape " + text(sizes) + "; expected [B, H, W, " + heads + ", " + dim +
         "], by the attributes num_heads and head_dim");
  }
  return {sizes[0], sizes[1], sizes[2], heads_, head_dim_};
}

Call Node::prepare(OrtKernelContext* context) const {
  const OrtValue* first = inputOf(context, 0);
  if (!first) fail("the first input is missing");
  std::vector<int64_t> sizes = sizesOf(first);
  const Shape shape = shapeOf(sizes);
  const std::string fault = faultOf(shape, kernel_size_, dilation_, scale_);
  if (!fault.empty()) fail(fault);

  const OrtValue* rpb = inputOf(context, rpbIndex(layout_));
  if (rpb) {
    const std::vector<int64_t> expected = {heads_, 2 * int64_t{kernel_size_[0]} - 1,
                                           2 * int64_t{kernel_size_[1]} - 1};
    const std::vector<int64_t> found = sizesOf(rpb);
    if (found != expected) {
      fail("rpb has the shape " + text(found) + "; expected " + text(expected) +
           ", [num_heads, 2*kh-1, 2*kw-1]");
    }
  }
  const void* table = rpb ? dataOf(rpb) : nullptr;

  Call call;
  if (layout_ == Layout::kPacked) {
    sizes[3] /= 3;
    call.problem = packedProblem(shape, kernel_size_, dilation_, scale_, type_);
    call.operands = packedOperands(call.problem, dataOf(first), table, nullptr);
  } else {
    const OrtValue* key = inputOf(context, 1);
    const OrtValue* value = inputOf(context, 2);
    for (const OrtValue* other : {key, value}) {
      if (!other) fail("key or value is missing; the operator needs query, key and value");
      if (sizesOf(other) != sizes) {
        fail("query has the shape " + text(sizes) + " and key or value " + text(sizesOf(other)) +
             "; all three must be the same");
      }
    }
    call.problem = splitProblem(shape, kernel_size_, dilation_, scale_, type_);
    call.operands = {dataOf(first), dataOf(key), dataOf(value), table, nullptr};
  }
  OrtValue* output = nullptr;
  check(api().KernelContext_GetOutput(context, 0, sizes.data(), sizes.size(), &output));
  call.operands.output = dataOf(output);
  return call;
}

void inferOutput(const OrtShapeInferContext* context, Layout layout) {
  OrtTensorTypeAndShapeInfo* input = nullptr;  // stays the context's
  check(api().ShapeInferContext_GetInputTypeShape(context, 0, &input));
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  check(api().GetTensorElementType(input, &type));
  std::vector<int64_t> sizes = sizesOf(input);
  const size_t rank = layout == Layout::kPacked ? 4 : 5;
  // Says nothing of a wrong or unknown rank: the kernel refuses it by name.
  if (sizes.size() != rank) return;
  std::vector<const char*> names(rank);
  check(api().GetSymbolicDimensions(input, names.data(), rank));
  if (layout == Layout::kPacked) {
    sizes[3] = sizes[3] > 0 ? sizes[3] / 3 : -1;
    names[3] = "";  // a name for 3*C is none for C
  }
  OrtTensorTypeAndShapeInfo* output = nullptr;
  check(api().CreateTensorTypeAndShapeInfo(&output));
  OrtStatus* status = api().SetTensorElementType(output, type);
  if (!status) status = api().SetDimensions(output, sizes.data(), rank);
  if (!status) status = api().SetSymbolicDimensions(output, names.data(), rank);
  if (!status) status = api().ShapeInferContext_SetOutputTypeShape(context, 0, output);
  api().ReleaseTensorTypeAndShapeInfo(output);
  check(status);
}

}  // namespace dinat::ort

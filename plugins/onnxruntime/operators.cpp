#include "onnxruntime/operators.h"

namespace dinat::ort {
namespace {

const Operator& self(const OrtCustomOp* op) { return *static_cast<const Operator*>(op); }

ONNXTensorElementDataType elementType(const OrtCustomOp* op, size_t) {
  switch (self(op).type) {
    case DataType::kFloat32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    case DataType::kFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    case DataType::kBFloat16:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

}  // namespace

Operator describe(Layout layout, DataType type, const char* provider) {
  Operator op{};
  op.layout = layout;
  op.type = type;
  op.provider = provider;
  op.version = kInterfaceVersion;
  op.GetName = [](const OrtCustomOp* op) { return operatorName(self(op).layout); };
  op.GetExecutionProviderType = [](const OrtCustomOp* op) { return self(op).provider; };
  op.GetInputType = elementType;
  op.GetInputTypeCount = [](const OrtCustomOp* op) { return rpbIndex(self(op).layout) + 1; };
  op.GetOutputType = elementType;
  op.GetOutputTypeCount = [](const OrtCustomOp*) { return size_t{1}; };
  op.GetInputCharacteristic = [](const OrtCustomOp* op, size_t index) {
    return index == rpbIndex(self(op).layout) ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  // No input or output is variadic, but some versions ask.
  const auto one = [](const OrtCustomOp*) { return 1; };
  op.GetVariadicInputMinArity = one;
  op.GetVariadicInputHomogeneity = one;
  op.GetVariadicOutputMinArity = one;
  op.GetVariadicOutputHomogeneity = one;
  op.GetStartVersion = one;
  op.GetEndVersion = one;
  op.InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) {
    return guarded([&] { inferOutput(context, self(op).layout); });
  };
  return op;
}

}  // namespace dinat::ort

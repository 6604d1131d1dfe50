// The names of interface.h, out of ONNX Runtime's own header.
#pragma once

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <cstdint>

namespace dinat::ort {

inline constexpr uint32_t kInterfaceVersion = 17;

using ::ONNXTensorElementDataType;
using ::OrtApi;
using ::OrtApiBase;
using ::OrtCustomOp;
using ::OrtCustomOpDomain;
using ::OrtCustomOpInputOutputCharacteristic;
using ::OrtErrorCode;
using ::OrtKernelContext;
using ::OrtKernelInfo;
using ::OrtMemType;
using ::OrtSessionOptions;
using ::OrtShapeInferContext;
using ::OrtStatus;
using ::OrtTensorTypeAndShapeInfo;
using ::OrtValue;

}  // namespace dinat::ort

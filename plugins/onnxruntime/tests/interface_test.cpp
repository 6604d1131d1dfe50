// Our declaration of ONNX Runtime's interface has the layout, values and signatures of the official
// one. Compiled when official headers are at hand; nothing runs.

#include "onnxruntime/interface.h"

#include <onnxruntime_c_api.h>

#include <cstddef>
#include <type_traits>

// The official functions carry attributes (warn_unused_result) that templates drop.
#pragma GCC diagnostic ignored "-Wignored-attributes"

namespace ours = dinat::ort;

namespace {

// Both declarations have the same shape if every parameter does: pointers match pointers, numbers
// match numbers of the same kind, enumerations match by their size.
template <class A, class B>
constexpr bool alike() {
  if constexpr (std::is_pointer_v<A> && std::is_pointer_v<B>) {
    using Target = std::remove_pointer_t<A>;
    using Other = std::remove_pointer_t<B>;
    return std::is_const_v<Target> == std::is_const_v<Other> &&
           (std::is_function_v<Target> || std::is_class_v<Target> || std::is_enum_v<Target> ||
            alike<std::remove_const_t<Target>, std::remove_const_t<Other>>());
  } else if constexpr (std::is_enum_v<A> && std::is_enum_v<B>) {
    return sizeof(A) == sizeof(B);
  } else {
    return std::is_same_v<A, B>;
  }
}

template <class A, class B>
struct Callbacks : std::false_type {};

template <class A, class... As, class B, class... Bs>
struct Callbacks<A (*)(As...), B (*)(Bs...)> {
  static constexpr bool same() {
    if constexpr (sizeof...(As) == sizeof...(Bs)) {
      return alike<A, B>() && (alike<As, Bs>() && ...);
    } else {
      return false;
    }
  }
  static constexpr bool value = same();
};

// The official types say `noexcept`, which is part of the type.
template <class Function>
struct Plain {
  using Type = Function;
};

template <class Result, class... Parameters>
struct Plain<Result (*)(Parameters...) noexcept> {
  using Type = Result (*)(Parameters...);
};

template <class A, class B>
constexpr bool kSameCall = Callbacks<typename Plain<A>::Type, typename Plain<B>::Type>::value;

#define SAME_FIELD(Struct, field)                                            \
  static_assert(offsetof(ours::Struct, field) == offsetof(::Struct, field)); \
  static_assert(kSameCall<decltype(ours::Struct::field), decltype(::Struct::field)>)
#define SAME_ENTRY(field) SAME_FIELD(OrtApi, field)
#define SAME_CALLBACK(field) SAME_FIELD(OrtCustomOp, field)
#define SAME_VALUE(name) static_assert(int{ours::name} == int{::name})

SAME_ENTRY(CreateStatus);
SAME_ENTRY(GetErrorMessage);
SAME_ENTRY(CreateCustomOpDomain);
SAME_ENTRY(CustomOpDomain_Add);
SAME_ENTRY(AddCustomOpDomain);
SAME_ENTRY(GetTensorMutableData);
SAME_ENTRY(CreateTensorTypeAndShapeInfo);
SAME_ENTRY(SetTensorElementType);
SAME_ENTRY(SetDimensions);
SAME_ENTRY(GetTensorElementType);
SAME_ENTRY(GetDimensionsCount);
SAME_ENTRY(GetDimensions);
SAME_ENTRY(GetSymbolicDimensions);
SAME_ENTRY(GetTensorTypeAndShape);
SAME_ENTRY(KernelInfoGetAttribute_float);
SAME_ENTRY(KernelInfoGetAttribute_int64);
SAME_ENTRY(KernelContext_GetInputCount);
SAME_ENTRY(KernelContext_GetInput);
SAME_ENTRY(KernelContext_GetOutput);
SAME_ENTRY(ReleaseStatus);
SAME_ENTRY(ReleaseTensorTypeAndShapeInfo);
SAME_ENTRY(KernelInfoGetAttributeArray_int64);
SAME_ENTRY(KernelContext_GetGPUComputeStream);
SAME_ENTRY(KernelInfo_GetNodeName);
SAME_ENTRY(ShapeInferContext_GetInputTypeShape);
SAME_ENTRY(ShapeInferContext_SetOutputTypeShape);
SAME_ENTRY(SetSymbolicDimensions);
SAME_ENTRY(KernelContext_ParallelFor);

SAME_FIELD(OrtApiBase, GetApi);
SAME_FIELD(OrtApiBase, GetVersionString);

static_assert(offsetof(ours::OrtCustomOp, version) == offsetof(::OrtCustomOp, version));
static_assert(
    std::is_same_v<decltype(ours::OrtCustomOp::version), decltype(::OrtCustomOp::version)>);
SAME_CALLBACK(CreateKernel);
SAME_CALLBACK(GetName);
SAME_CALLBACK(GetExecutionProviderType);
SAME_CALLBACK(GetInputType);
SAME_CALLBACK(GetInputTypeCount);
SAME_CALLBACK(GetOutputType);
SAME_CALLBACK(GetOutputTypeCount);
SAME_CALLBACK(KernelCompute);
SAME_CALLBACK(KernelDestroy);
SAME_CALLBACK(GetInputCharacteristic);
SAME_CALLBACK(GetOutputCharacteristic);
SAME_CALLBACK(GetInputMemoryType);
SAME_CALLBACK(GetVariadicInputMinArity);
SAME_CALLBACK(GetVariadicInputHomogeneity);
SAME_CALLBACK(GetVariadicOutputMinArity);
SAME_CALLBACK(GetVariadicOutputHomogeneity);
SAME_CALLBACK(CreateKernelV2);
SAME_CALLBACK(KernelComputeV2);
SAME_CALLBACK(InferOutputShapeFn);
SAME_CALLBACK(GetStartVersion);
SAME_CALLBACK(GetEndVersion);

SAME_VALUE(ORT_FAIL);
SAME_VALUE(ORT_INVALID_ARGUMENT);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16);
SAME_VALUE(INPUT_OUTPUT_REQUIRED);
SAME_VALUE(INPUT_OUTPUT_OPTIONAL);
SAME_VALUE(OrtMemTypeDefault);

static_assert(ours::kInterfaceVersion <= ORT_API_VERSION);

}  // namespace

#include "onnxruntime/api.h"

namespace dinat::ort {
namespace {

const OrtApi* table = nullptr;

}  // namespace

const OrtApi& api() { return *table; }

void setApi(const OrtApi& the_table) { table = &the_table; }

void check(OrtStatus* status) {
  if (!status) return;
  const std::string message = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  throw NodeError(message);
}

std::vector<int64_t> sizesOf(const OrtTensorTypeAndShapeInfo* info) {
  size_t count = 0;
  check(api().GetDimensionsCount(info, &count));
  std::vector<int64_t> sizes(count);
  if (count) check(api().GetDimensions(info, sizes.data(), count));
  return sizes;
}

std::vector<int64_t> sizesOf(const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api().GetTensorTypeAndShape(value, &info));
  try {
    std::vector<int64_t> sizes = sizesOf(info);
    api().ReleaseTensorTypeAndShapeInfo(info);
    return sizes;
  } catch (...) {
    api().ReleaseTensorTypeAndShapeInfo(info);
    throw;
  }
}

std::string text(const std::vector<int64_t>& sizes) {
  std::string list;
  for (const int64_t size : sizes) {
    list += (list.empty() ? "" : ", ") + std::to_string(size);
  }
  return "[" + list + "]";
}

void* dataOf(const OrtValue* value) {
  void* data = nullptr;
  // The interface has no call for constant data; inputs are only read.
  check(api().GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return data;
}

const OrtValue* inputOf(const OrtKernelContext* context, size_t index) {
  size_t count = 0;
  check(api().KernelContext_GetInputCount(context, &count));
  if (index >= count) return nullptr;
  const OrtValue* value = nullptr;
  check(api().KernelContext_GetInput(context, index, &value));
  return value;
}

}  // namespace dinat::ort

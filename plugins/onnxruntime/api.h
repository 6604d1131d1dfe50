// Small helpers over ONNX Runtime's C interface: status to exception and back, shapes.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#if DINAT_OFFICIAL_ONNXRUNTIME
#include "onnxruntime/official.h"
#else
#include "onnxruntime/interface.h"
#endif

namespace dinat::ort {

// A mistake in a node or its inputs; the message is what the user reads.
class NodeError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The table that the runtime handed us at registration.
const OrtApi& api();
void setApi(const OrtApi& table);

// Throws NodeError with the runtime's message if a call failed.
void check(OrtStatus* status);

// Runs `work` and turns what it throws into a status: nothing may leave a callback as an exception.
template <class Work>
OrtStatus* guarded(const Work& work) noexcept {
  try {
    work();
    return nullptr;
  } catch (const NodeError& error) {
    return api().CreateStatus(ORT_INVALID_ARGUMENT, error.what());
  } catch (const std::exception& error) {
    return api().CreateStatus(ORT_FAIL, error.what());
  } catch (...) {
    return api().CreateStatus(ORT_FAIL, "unknown error in a dinat operator");
  }
}

std::vector<int64_t> sizesOf(const OrtTensorTypeAndShapeInfo* info);

// Sizes of a tensor.
std::vector<int64_t> sizesOf(const OrtValue* value);

// "[1, 56, 56, 192]".
std::string text(const std::vector<int64_t>& sizes);

// The start of a tensor's memory.
void* dataOf(const OrtValue* value);

// The input at `index`, or null if the node has none there.
const OrtValue* inputOf(const OrtKernelContext* context, size_t index);

}  // namespace dinat::ort

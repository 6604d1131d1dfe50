// Places, sizes, values and types in TensorRT's classes, from its headers or from nvinfer_slice.h;
// tests/examples/test_cpp_layout.py compares what this prints. That it compiles says that the
// functions in use have the same types in both.
#include <cstdio>
#include <cstring>

#ifdef DINAT_TENSORRT_HEADERS
#include <NvInferRuntime.h>
#else
#include "nvinfer_slice.h"
#endif

using namespace nvinfer1;
using namespace nvinfer1::apiv;

namespace {

template <class Value>
void show(const char* name, Value value) {
  std::printf("%s %lld\n", name, static_cast<long long>(value));
}

// Index of a virtual function in its class's table, which a pointer to member begins with: one more
// than the offset (x86-64).
template <class Class, class Result, class... Arguments>
void slot(const char* name, Result (Class::*function)(Arguments...) noexcept) {
  ptrdiff_t offset;
  std::memcpy(&offset, &function, sizeof offset);
  show(name, offset % 8 == 1 ? offset / 8 : -1);
}

template <class Class, class Result, class... Arguments>
void slot(const char* name, Result (Class::*function)(Arguments...) const noexcept) {
  ptrdiff_t offset;
  std::memcpy(&offset, &function, sizeof offset);
  show(name, offset % 8 == 1 ? offset / 8 : -1);
}

void showSlots() {
  slot<VRuntime, ICudaEngine*, void const*, std::size_t>("deserializeCudaEngine",
                                                         &VRuntime::deserializeCudaEngine);
  slot<VRuntime, void, int32_t>("setDLACore", &VRuntime::setDLACore);
  slot<VRuntime, int32_t>("getNbDLACores", &VRuntime::getNbDLACores);
  slot<VRuntime, IPluginRegistry&>("getPluginRegistry", &VRuntime::getPluginRegistry);
  slot<VRuntime, void, bool>("setEngineHostCodeAllowed", &VRuntime::setEngineHostCodeAllowed);
  slot<VRuntime, bool>("getEngineHostCodeAllowed", &VRuntime::getEngineHostCodeAllowed);

  slot<VCudaEngine, IExecutionContext*, ExecutionContextAllocationStrategy>(
      "createExecutionContext", &VCudaEngine::createExecutionContext);
  slot<VCudaEngine, int32_t>("getNbOptimizationProfiles", &VCudaEngine::getNbOptimizationProfiles);
  slot<VCudaEngine, Dims, char const*>("getTensorShape", &VCudaEngine::getTensorShape);
  slot<VCudaEngine, DataType, char const*>("getTensorDataType", &VCudaEngine::getTensorDataType);
  slot<VCudaEngine, TensorLocation, char const*>("getTensorLocation",
                                                 &VCudaEngine::getTensorLocation);
  slot<VCudaEngine, TensorIOMode, char const*>("getTensorIOMode", &VCudaEngine::getTensorIOMode);
  slot<VCudaEngine, Dims, char const*, int32_t, OptProfileSelector>("getProfileShape",
                                                                    &VCudaEngine::getProfileShape);
  slot<VCudaEngine, int32_t>("getNbIOTensors", &VCudaEngine::getNbIOTensors);
  slot<VCudaEngine, char const*, int32_t>("getIOTensorName", &VCudaEngine::getIOTensorName);

  slot<VExecutionContext, bool, int32_t, cudaStream_t>(
      "setOptimizationProfileAsync", &VExecutionContext::setOptimizationProfileAsync);
  slot<VExecutionContext, bool, char const*, Dims const&>("setInputShape",
                                                          &VExecutionContext::setInputShape);
  slot<VExecutionContext, Dims, char const*>("context getTensorShape",
                                             &VExecutionContext::getTensorShape);
  slot<VExecutionContext, bool, char const*, void*>("setTensorAddress",
                                                    &VExecutionContext::setTensorAddress);
  slot<VExecutionContext, bool, cudaStream_t>("enqueueV3", &VExecutionContext::enqueueV3);

  slot<IPluginRegistry, IPluginRegistry::PluginLibraryHandle, char const*>(
      "loadLibrary", &IPluginRegistry::loadLibrary);
  slot<ILogger, void, ILogger::Severity, char const*>("log", &ILogger::log);
}

// Where the pointer to the implementation is in the library's objects.
template <class Shell>
class Probe final : public Shell {
 public:
  ptrdiff_t offset() const {
    return reinterpret_cast<const char*>(&this->mImpl) - reinterpret_cast<const char*>(this);
  }
};

class Logger final : public ILogger {
 public:
  void log(Severity, char const*) noexcept override {}
};

}  // namespace

int main() {
  showSlots();
  show("IRuntime mImpl", Probe<IRuntime>().offset());
  show("ICudaEngine mImpl", Probe<ICudaEngine>().offset());
  show("IExecutionContext mImpl", Probe<IExecutionContext>().offset());
  show("IRuntime size", sizeof(IRuntime));
  show("ICudaEngine size", sizeof(ICudaEngine));
  show("IExecutionContext size", sizeof(IExecutionContext));
  show("Dims size", sizeof(Dims));
  show("Dims alignment", alignof(Dims));
  show("Dims nbDims", offsetof(Dims, nbDims));
  show("Dims d", offsetof(Dims, d));
  show("Dims MAX_DIMS", +Dims::MAX_DIMS);
  show("DataType size", sizeof(DataType));
  show("kFLOAT", DataType::kFLOAT);
  show("kHALF", DataType::kHALF);
  show("kBF16", DataType::kBF16);
  show("kUINT8", DataType::kUINT8);
  show("kDEVICE", TensorLocation::kDEVICE);
  show("kHOST", TensorLocation::kHOST);
  show("kNONE", TensorIOMode::kNONE);
  show("kINPUT", TensorIOMode::kINPUT);
  show("kOUTPUT", TensorIOMode::kOUTPUT);
  show("kMIN", OptProfileSelector::kMIN);
  show("kOPT", OptProfileSelector::kOPT);
  show("kMAX", OptProfileSelector::kMAX);
  show("kSTATIC", ExecutionContextAllocationStrategy::kSTATIC);
  show("Severity size", sizeof(ILogger::Severity));
  show("kINTERNAL_ERROR", ILogger::Severity::kINTERNAL_ERROR);
  show("kERROR", ILogger::Severity::kERROR);
  show("kWARNING", ILogger::Severity::kWARNING);
  show("kINFO", ILogger::Severity::kINFO);
  show("kVERBOSE", ILogger::Severity::kVERBOSE);
#if DINAT_TENSORRT_LAYOUT == 11
  const InterfaceInfo info = Logger().getInterfaceInfo();
  std::printf("logger %s %d.%d\n", info.kind, info.major, info.minor);
#endif
}

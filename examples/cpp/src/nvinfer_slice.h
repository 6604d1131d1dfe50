// The slice of TensorRT's runtime interface that this program uses, declared by us.
//
// It stands in for NvInferRuntime.h where TensorRT's development package is not installed (the
// Python wheels come without headers). What program and library exchange is a C++ binary interface:
// the order of virtual functions, the layout of a few classes, the values of a few enumerations.
// Within a major version TensorRT only appends functions; TensorRT 11, and TensorRT-RTX since 1.5,
// removed those that 10 had deprecated. So the file that includes this one is compiled once for
// each of the two (DINAT_TENSORRT_LAYOUT), into a namespace of its own. Names are NVIDIA's, as the
// same code also compiles against the official headers; tests/examples/test_cpp_runner.py compares
// both. DINAT_SLOT is a function that is not called here and only holds its place, so its type does
// not matter. Functions behind the last one in use are left out.
#pragma once

#include <cstddef>
#include <cstdint>

#if DINAT_TENSORRT_LAYOUT == 10
#define DINAT_LAYOUT_NAMESPACE layout10
#define DINAT_SLOT_OF_10(name) DINAT_SLOT(name)
#elif DINAT_TENSORRT_LAYOUT == 11
#define DINAT_LAYOUT_NAMESPACE layout11
#define DINAT_SLOT_OF_10(name)
#else
#error "DINAT_TENSORRT_LAYOUT must be 10 or 11"
#endif
#ifndef DINAT_SLOT
#define DINAT_SLOT(name) virtual void name() noexcept = 0;
#endif

struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace nvinfer1 {
inline namespace DINAT_LAYOUT_NAMESPACE {

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kUINT8 = 5, kBF16 = 7 };
enum class TensorLocation : int32_t { kDEVICE = 0, kHOST = 1 };
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class OptProfileSelector : int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };
enum class ExecutionContextAllocationStrategy : int32_t { kSTATIC = 0 };

// An entry of -1 is not known yet.
struct Dims64 {
  static constexpr int32_t MAX_DIMS{8};
  int32_t nbDims;
  int64_t d[MAX_DIMS];
};
using Dims = Dims64;

// ---- The logger, which the program implements ---------------------------------------------------

struct InterfaceInfo {
  char const* kind;
  int32_t major;
  int32_t minor;
};

enum class APILanguage : int32_t { kCPP = 0, kPYTHON = 1 };
class IVersionedInterface {
 public:
  virtual APILanguage getAPILanguage() const noexcept { return APILanguage::kCPP; }
  virtual InterfaceInfo getInterfaceInfo() const noexcept = 0;
  virtual ~IVersionedInterface() noexcept = default;
};

#if DINAT_TENSORRT_LAYOUT == 10
class ILogger {
#else
class ILogger : public IVersionedInterface {
#endif
 public:
  enum class Severity : int32_t {
    kINTERNAL_ERROR = 0,
    kERROR = 1,
    kWARNING = 2,
    kINFO = 3,
    kVERBOSE = 4
  };
  virtual void log(Severity severity, char const* message) noexcept = 0;
#if DINAT_TENSORRT_LAYOUT == 10
  virtual ~ILogger() = default;
#else
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILogger", 1, 0}; }
#endif
};

// ---- The plugin registry ------------------------------------------------------------------------

class IPluginRegistry {
 public:
  using PluginLibraryHandle = void*;
  DINAT_SLOT_OF_10(registerCreator)
  DINAT_SLOT_OF_10(getPluginCreatorList)
  DINAT_SLOT_OF_10(getPluginCreator)

 protected:
  virtual ~IPluginRegistry() noexcept = default;

 public:
  DINAT_SLOT(setErrorRecorder)
  DINAT_SLOT(getErrorRecorder)
  DINAT_SLOT_OF_10(deregisterCreator)
  DINAT_SLOT(isParentSearchEnabled)
  DINAT_SLOT(setParentSearchEnabled)
  virtual PluginLibraryHandle loadLibrary(char const* path) noexcept = 0;
};

// ---- What the library's objects are shells around -----------------------------------------------
class ICudaEngine;
class IExecutionContext;

namespace apiv {

class VRoot {
 public:
  virtual ~VRoot() noexcept = default;
};

class VRuntime : public VRoot {
 public:
  DINAT_SLOT(getPImpl)
  virtual ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept = 0;
#if DINAT_TENSORRT_LAYOUT == 10
  virtual ICudaEngine* deserializeCudaEngine(void* stream) noexcept = 0;  // not called
#endif
  virtual void setDLACore(int32_t core) noexcept = 0;
  DINAT_SLOT(getDLACore)
  virtual int32_t getNbDLACores() const noexcept = 0;
  DINAT_SLOT(setGpuAllocator)
  DINAT_SLOT(setErrorRecorder)
  DINAT_SLOT(getErrorRecorder)
  DINAT_SLOT(getLogger)
  DINAT_SLOT(setMaxThreads)
  DINAT_SLOT(getMaxThreads)
  DINAT_SLOT(setTemporaryDirectory)
  DINAT_SLOT(getTemporaryDirectory)
  DINAT_SLOT(setTempfileControlFlags)
  DINAT_SLOT(getTempfileControlFlags)
  virtual IPluginRegistry& getPluginRegistry() noexcept = 0;
  DINAT_SLOT(setPluginRegistryParent)
  DINAT_SLOT(loadRuntime)
  virtual void setEngineHostCodeAllowed(bool allowed) noexcept = 0;
  virtual bool getEngineHostCodeAllowed() const noexcept = 0;
};

class VCudaEngine : public VRoot {
 public:
  DINAT_SLOT(getPImpl)
  DINAT_SLOT(getNbLayers)
  DINAT_SLOT(serialize)
  virtual IExecutionContext* createExecutionContext(
      ExecutionContextAllocationStrategy strategy) noexcept = 0;
  DINAT_SLOT_OF_10(createExecutionContextWithoutDeviceMemory)
  DINAT_SLOT_OF_10(getDeviceMemorySize)
  DINAT_SLOT(isRefittable)
  DINAT_SLOT(getName)
  virtual int32_t getNbOptimizationProfiles() const noexcept = 0;
  DINAT_SLOT_OF_10(getProfileTensorValues)
  DINAT_SLOT(getEngineCapability)
  DINAT_SLOT(setErrorRecorder)
  DINAT_SLOT(getErrorRecorder)
  DINAT_SLOT_OF_10(hasImplicitBatchDimension)
  DINAT_SLOT(getTacticSources)
  DINAT_SLOT(getProfilingVerbosity)
  DINAT_SLOT(createEngineInspector)
  virtual Dims getTensorShape(char const* name) const noexcept = 0;
  virtual DataType getTensorDataType(char const* name) const noexcept = 0;
  virtual TensorLocation getTensorLocation(char const* name) const noexcept = 0;
  DINAT_SLOT(isShapeInferenceIO)
  virtual TensorIOMode getTensorIOMode(char const* name) const noexcept = 0;
  DINAT_SLOT(getTensorBytesPerComponent)
  DINAT_SLOT(getTensorComponentsPerElement)
  DINAT_SLOT(getTensorFormat)
  DINAT_SLOT(getTensorFormatDesc)
  DINAT_SLOT(getTensorVectorizedDim)
  virtual Dims getProfileShape(char const* name, int32_t profile,
                               OptProfileSelector select) const noexcept = 0;
  virtual int32_t getNbIOTensors() const noexcept = 0;
  virtual char const* getIOTensorName(int32_t index) const noexcept = 0;
};

class VExecutionContext : public VRoot {
 public:
  DINAT_SLOT(getPImpl)
  DINAT_SLOT(setDebugSync)
  DINAT_SLOT(getDebugSync)
  DINAT_SLOT(setProfiler)
  DINAT_SLOT(getProfiler)
  DINAT_SLOT(getEngine)
  DINAT_SLOT(setName)
  DINAT_SLOT(getName)
  DINAT_SLOT(setDeviceMemory)
  DINAT_SLOT(getOptimizationProfile)
  DINAT_SLOT(allInputDimensionsSpecified)
  DINAT_SLOT_OF_10(allInputShapesSpecified)
  DINAT_SLOT(setErrorRecorder)
  DINAT_SLOT(getErrorRecorder)
  DINAT_SLOT(executeV2)
  virtual bool setOptimizationProfileAsync(int32_t profile, cudaStream_t stream) noexcept = 0;
  DINAT_SLOT(setEnqueueEmitsProfile)
  DINAT_SLOT(getEnqueueEmitsProfile)
  DINAT_SLOT(reportToProfiler)
  virtual bool setInputShape(char const* name, Dims const& dims) noexcept = 0;
  virtual Dims getTensorShape(char const* name) const noexcept = 0;
  DINAT_SLOT(getTensorStrides)
  virtual bool setTensorAddress(char const* name, void* data) noexcept = 0;
  DINAT_SLOT(getTensorAddress)
  DINAT_SLOT(setInputTensorAddress)
  DINAT_SLOT(setOutputTensorAddress)
  DINAT_SLOT(inferShapes)
  DINAT_SLOT(setInputConsumedEvent)
  DINAT_SLOT(getInputConsumedEvent)
  DINAT_SLOT(getOutputTensorAddress)
  DINAT_SLOT(setOutputAllocator)
  DINAT_SLOT(getOutputAllocator)
  DINAT_SLOT(getMaxOutputSize)
  DINAT_SLOT(setTemporaryStorageAllocator)
  DINAT_SLOT(getTemporaryStorageAllocator)
  virtual bool enqueueV3(cudaStream_t stream) noexcept = 0;
};

}  // namespace apiv

// ---- The shells; the library deletes what is behind them with them ------------------------------

class INoCopy {
 protected:
  INoCopy() = default;
  virtual ~INoCopy() = default;
  INoCopy(INoCopy const&) = delete;
  INoCopy& operator=(INoCopy const&) = delete;
};

class IExecutionContext : public INoCopy {
 public:
  virtual ~IExecutionContext() noexcept = default;
  bool setOptimizationProfileAsync(int32_t profile, cudaStream_t stream) noexcept {
    return mImpl->setOptimizationProfileAsync(profile, stream);
  }
  bool setInputShape(char const* name, Dims const& dims) noexcept {
    return mImpl->setInputShape(name, dims);
  }
  Dims getTensorShape(char const* name) const noexcept { return mImpl->getTensorShape(name); }
  bool setTensorAddress(char const* name, void* data) noexcept {
    return mImpl->setTensorAddress(name, data);
  }
  bool enqueueV3(cudaStream_t stream) noexcept { return mImpl->enqueueV3(stream); }

 protected:
  apiv::VExecutionContext* mImpl;
};

class ICudaEngine : public INoCopy {
 public:
  virtual ~ICudaEngine() noexcept = default;
  IExecutionContext* createExecutionContext() noexcept {
    return mImpl->createExecutionContext(ExecutionContextAllocationStrategy::kSTATIC);
  }
  int32_t getNbOptimizationProfiles() const noexcept { return mImpl->getNbOptimizationProfiles(); }
  Dims getTensorShape(char const* name) const noexcept { return mImpl->getTensorShape(name); }
  DataType getTensorDataType(char const* name) const noexcept {
    return mImpl->getTensorDataType(name);
  }
  TensorLocation getTensorLocation(char const* name) const noexcept {
    return mImpl->getTensorLocation(name);
  }
  TensorIOMode getTensorIOMode(char const* name) const noexcept {
    return mImpl->getTensorIOMode(name);
  }
  Dims getProfileShape(char const* name, int32_t profile,
                       OptProfileSelector select) const noexcept {
    return mImpl->getProfileShape(name, profile, select);
  }
  int32_t getNbIOTensors() const noexcept { return mImpl->getNbIOTensors(); }
  char const* getIOTensorName(int32_t index) const noexcept {
    return mImpl->getIOTensorName(index);
  }

 protected:
  apiv::VCudaEngine* mImpl;
};

class IRuntime : public INoCopy {
 public:
  virtual ~IRuntime() noexcept = default;
  ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
    return mImpl->deserializeCudaEngine(blob, size);
  }
  void setDLACore(int32_t core) noexcept { mImpl->setDLACore(core); }
  int32_t getNbDLACores() const noexcept { return mImpl->getNbDLACores(); }
  IPluginRegistry& getPluginRegistry() noexcept { return mImpl->getPluginRegistry(); }
  void setEngineHostCodeAllowed(bool allowed) noexcept { mImpl->setEngineHostCodeAllowed(allowed); }

 protected:
  apiv::VRuntime* mImpl;
};

}  // namespace DINAT_LAYOUT_NAMESPACE
}  // namespace nvinfer1

// Loads a plan and runs it, through TensorRT's C++ interface.
#include "tensorrt_layout.h"

#include <cstdio>
#include <mutex>
#include <utility>

#include "error.h"

#ifdef DINAT_TENSORRT_HEADERS
#include <NvInferRuntime.h>
#else
#include "nvinfer_slice.h"
#endif

#if DINAT_TENSORRT_LAYOUT == 10
namespace dinat::layout10 {
#else
namespace dinat::layout11 {
#endif
namespace {

// Keeps TensorRT's last errors, which say more than its return values.
class Logger final : public nvinfer1::ILogger {
 public:
  explicit Logger(bool verbose) : verbose_(verbose) {}

  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) {
      if (verbose_ || severity == Severity::kWARNING) std::fprintf(stderr, "%s\n", message);
      return;
    }
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      errors_ += std::string("\n  ") + message;
    } catch (...) {  // out of memory: this message is lost
    }
  }

  // What was said since the last call.
  std::string takeErrors() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::move(errors_);
  }

 private:
  const bool verbose_;
  std::mutex mutex_;
  std::string errors_;
};

nvinfer1::Dims toDims(const Shape& shape) {
  nvinfer1::Dims dims{};
  if (shape.size() > static_cast<size_t>(nvinfer1::Dims::MAX_DIMS)) {
    throw Error("The shape " + text(shape) + " has more dimensions than TensorRT takes.", "");
  }
  dims.nbDims = static_cast<int32_t>(shape.size());
  for (int i = 0; i < dims.nbDims; ++i) dims.d[i] = shape[i];
  return dims;
}

Shape toShape(const nvinfer1::Dims& dims) {
  return dims.nbDims < 0 ? Shape{} : Shape(dims.d, dims.d + dims.nbDims);
}

ElementType toType(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return ElementType::kFloat32;
    case nvinfer1::DataType::kHALF:
      return ElementType::kFloat16;
    case nvinfer1::DataType::kBF16:
      return ElementType::kBfloat16;
    case nvinfer1::DataType::kUINT8:
      return ElementType::kUint8;
    default:
      return ElementType::kOther;
  }
}

class LoadedEngine final : public Engine {
 public:
  LoadedEngine(Factory factory, const std::vector<uint8_t>& plan, const LoadOptions& options)
      : logger_(options.verbose) {
    runtime_.reset(static_cast<nvinfer1::IRuntime*>(factory.create(&logger_, factory.version)));
    if (!runtime_)
      fail("TensorRT's runtime cannot be created", "Check the driver with nvidia-smi.");
    runtime_->setEngineHostCodeAllowed(options.host_code_allowed);
    if (!options.plugin.empty() &&
        runtime_->getPluginRegistry().loadLibrary(options.plugin.c_str()) == nullptr) {
      fail("The plugin " + options.plugin + " cannot be loaded",
           "Build it again with `dinat-deploy plugin build`.");
    }
    if (options.dla_core) chooseDla(*options.dla_core);
    engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine_) fail("TensorRT cannot load the plan", "Build the engine again on this machine.");
    context_.reset(engine_->createExecutionContext());
    if (!context_) fail("TensorRT cannot make an execution context", "Free memory of the GPU.");
    listTensors();
  }

  const std::vector<TensorInfo>& tensors() const override { return tensors_; }

  int profiles() const override { return engine_->getNbOptimizationProfiles(); }

  ShapeRange range(const std::string& input, int profile) const override {
    using Select = nvinfer1::OptProfileSelector;
    return {toShape(engine_->getProfileShape(input.c_str(), profile, Select::kMIN)),
            toShape(engine_->getProfileShape(input.c_str(), profile, Select::kMAX))};
  }

  void chooseProfile(int profile, CUstream_st* stream) override {
    if (!context_->setOptimizationProfileAsync(profile, stream)) {
      fail("Profile " + std::to_string(profile) + " cannot be chosen", "");
    }
  }

  void setShape(const std::string& input, const Shape& shape) override {
    if (!context_->setInputShape(input.c_str(), toDims(shape))) {
      fail("The engine does not take " + input + " of shape " + text(shape),
           "Build it with a --profile that covers this shape.");
    }
  }

  Shape shape(const std::string& tensor) const override {
    return toShape(context_->getTensorShape(tensor.c_str()));
  }

  void setAddress(const std::string& tensor, void* device_memory) override {
    if (!context_->setTensorAddress(tensor.c_str(), device_memory)) {
      fail("The memory of " + tensor + " is refused", "");
    }
  }

  void enqueue(CUstream_st* stream) override {
    if (!context_->enqueueV3(stream)) fail("The engine cannot be run", "");
  }

 private:
  void chooseDla(int core) {
    const int count = runtime_->getNbDLACores();
    if (core >= count) {
      throw Error("The engine runs on core " + std::to_string(core) +
                      " of the deep learning accelerator, and this machine has " +
                      std::to_string(count) + ", numbered from 0.",
                  "Build it again without --dla-core, for the GPU.");
    }
    runtime_->setDLACore(core);
  }

  void listTensors() {
    for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* const name = engine_->getIOTensorName(i);
      if (engine_->getTensorLocation(name) != nvinfer1::TensorLocation::kDEVICE) {
        throw Error(std::string("The engine's tensor ") + name +
                        " is a shape in the host's memory, which this program does not support.",
                    "Build the engine from a model that dinat-deploy exported.");
      }
      tensors_.push_back({name, engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT,
                          toType(engine_->getTensorDataType(name)),
                          toShape(engine_->getTensorShape(name))});
    }
  }

  [[noreturn]] void fail(const std::string& what, const std::string& cure) {
    const std::string errors = logger_.takeErrors();
    throw Error(what + (errors.empty() ? "." : ":" + errors), cure);
  }

  // In this order, as each needs those before it until it is deleted.
  Logger logger_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::vector<TensorInfo> tensors_;
};

}  // namespace

std::unique_ptr<Engine> load(Factory factory, const std::vector<uint8_t>& plan,
                             const LoadOptions& options) {
  return std::make_unique<LoadedEngine>(factory, plan, options);
}

}  // namespace dinat::layout10

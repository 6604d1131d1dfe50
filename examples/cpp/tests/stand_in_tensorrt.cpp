// A TensorRT without a GPU, for tests of dinat_run: its engines are one linear layer.
//
// It has the runtime's classes in the layout of TensorRT 10 or 11 (DINAT_TENSORRT_LAYOUT); the test
// holds that against TensorRT's own Python bindings, which run these engines too.
//
// STAND_IN_FAIL=FUNCTION makes a function fail, and STAND_IN_LEAKS names a file to which the number
// of live objects is written at the end.
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "stand_in_cuda.h"

// Functions that the program should not call.
#define DINAT_SLOT(name)                                              \
  virtual void name() noexcept {                                      \
    std::fprintf(stderr, "stand-in: unexpected call of %s\n", #name); \
    std::abort();                                                     \
  }
#include "nvinfer_slice.h"
#include "stand_in_plan.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace nvinfer1;
using namespace stand_in;

namespace {

int live_objects = 0;

struct Counted {
  Counted() { ++live_objects; }
  ~Counted() { --live_objects; }
};

struct ReportLeaks {
  ~ReportLeaks() {
    const char* const file = std::getenv("STAND_IN_LEAKS");
    if (file == nullptr) return;
    std::FILE* const out = std::fopen(file, "a");
    std::fprintf(out, "tensorrt=%d\n", live_objects);
    std::fclose(out);
  }
} report_leaks;

bool fails(const char* function) {
  const char* const failing = std::getenv("STAND_IN_FAIL");
  return failing != nullptr && std::strcmp(failing, function) == 0;
}

// The driver's stand-in; only a run needs it.
template <class Function>
Function* cuda(const char* name) {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW);
  return library ? reinterpret_cast<Function*>(dlsym(library, name)) : nullptr;
}

class Registry final : public IPluginRegistry {
 public:
  PluginLibraryHandle loadLibrary(char const* path) noexcept override {
    std::FILE* const file = fails("loadLibrary") ? nullptr : std::fopen(path, "rb");
    if (file == nullptr) return nullptr;
    std::fclose(file);
    loaded = true;
    return this;
  }
  bool loaded = false;
};

void logError(ILogger& logger, const char* message) {
  logger.log(ILogger::Severity::kERROR, message);
}

class Context final : public IExecutionContext, Counted {
 public:
  Context(const Plan& plan, ILogger& logger) : impl_(plan, logger) { mImpl = &impl_; }

 private:
  class Impl final : public apiv::VExecutionContext {
   public:
    Impl(const Plan& plan, ILogger& logger)
        : plan_(plan), logger_(logger), shape_(plan.input_shape) {}

    bool setOptimizationProfileAsync(int32_t profile, cudaStream_t) noexcept override {
      profile_ = profile;
      return profile >= 0 && profile < static_cast<int32_t>(plan_.profiles.size());
    }

    bool setInputShape(char const* name, Dims const& dims) noexcept override {
      bool fits = plan_.input == name && dims.nbDims == plan_.input_shape.nbDims;
      for (int i = 0; fits && i < dims.nbDims; ++i) {
        const int64_t own = plan_.input_shape.d[i];
        const bool covered = own >= 0 ? dims.d[i] == own
                                      : dims.d[i] >= plan_.profiles[profile_].least.d[i] &&
                                            dims.d[i] <= plan_.profiles[profile_].largest.d[i];
        fits = covered;
      }
      if (fits) shape_ = dims;
      if (!fits) logError(logger_, "setInputShape: the profile does not cover this");
      return fits;
    }

    Dims getTensorShape(char const* name) const noexcept override {
      if (plan_.input == name) return shape_;
      if (plan_.output != name) return {-1, {}};
      return {2, {shape_.d[0], plan_.classes}};
    }

    bool setTensorAddress(char const* name, void* data) noexcept override {
      if (plan_.input != name && plan_.output != name) return false;
      addresses_[name] = data;
      return true;
    }

    bool enqueueV3(cudaStream_t stream) noexcept override {
      if (fails("enqueueV3") || addresses_.size() != 2 || shape_.d[0] < 0) {
        logError(logger_, "enqueueV3: an address or a shape was not set");
        return false;
      }
      ReachDevice* const at = cuda<ReachDevice>("standInReach");
      const void* const input = at(addresses_[plan_.input]);
      void* const output = at(addresses_[plan_.output]);
      const Plan* const plan = &plan_;
      const int64_t batch = shape_.d[0];
      cuda<EnqueueWork>("standInEnqueue")(stream, [=] {
        const size_t inputs = plan->weights.size() / plan->classes;
        for (int64_t row = 0; row < batch * plan->classes; ++row) {
          double sum = 0.0;
          for (size_t i = 0; i < inputs; ++i) {
            const size_t pixel = row / plan->classes * inputs + i;
            sum += static_cast<double>(element(input, plan->input_type, pixel)) *
                   plan->weights[row % plan->classes * inputs + i];
          }
          store(output, plan->output_type, row, static_cast<float>(sum));
        }
      });
      return true;
    }

   private:
    const Plan& plan_;
    ILogger& logger_;
    Dims shape_;
    int profile_ = 0;
    std::map<std::string, void*> addresses_;
  };
  Impl impl_;
};

class LinearEngine final : public ICudaEngine, Counted {
 public:
  LinearEngine(Plan plan, ILogger& logger) : impl_(std::move(plan), logger) { mImpl = &impl_; }

 private:
  class Impl final : public apiv::VCudaEngine {
   public:
    Impl(Plan plan, ILogger& logger) : plan_(std::move(plan)), logger_(logger) {}

    IExecutionContext* createExecutionContext(
        ExecutionContextAllocationStrategy) noexcept override {
      return fails("createExecutionContext") ? nullptr : new Context(plan_, logger_);
    }
    int32_t getNbOptimizationProfiles() const noexcept override {
      return plan_.profiles.empty() ? 1 : static_cast<int32_t>(plan_.profiles.size());
    }
    Dims getTensorShape(char const* name) const noexcept override {
      if (plan_.input == name) return plan_.input_shape;
      return {2, {plan_.input_shape.d[0], plan_.classes}};
    }
    DataType getTensorDataType(char const* name) const noexcept override {
      return plan_.input == name ? plan_.input_type : plan_.output_type;
    }
    TensorLocation getTensorLocation(char const*) const noexcept override {
      return TensorLocation::kDEVICE;
    }
    TensorIOMode getTensorIOMode(char const* name) const noexcept override {
      return plan_.input == name    ? TensorIOMode::kINPUT
             : plan_.output == name ? TensorIOMode::kOUTPUT
                                    : TensorIOMode::kNONE;
    }
    Dims getProfileShape(char const* name, int32_t profile,
                         OptProfileSelector select) const noexcept override {
      if (plan_.input != name || profile >= static_cast<int32_t>(plan_.profiles.size())) {
        return {-1, {}};
      }
      const Range& range = plan_.profiles[profile];
      return select == OptProfileSelector::kMIN ? range.least : range.largest;
    }
    int32_t getNbIOTensors() const noexcept override { return 2; }
    char const* getIOTensorName(int32_t index) const noexcept override {
      return (index == 0 ? plan_.input : plan_.output).c_str();
    }

   private:
    const Plan plan_;
    ILogger& logger_;
  };
  Impl impl_;
};

class Runtime final : public IRuntime, Counted {
 public:
  explicit Runtime(ILogger& logger) : impl_(logger) { mImpl = &impl_; }

 private:
  class Impl final : public apiv::VRuntime {
   public:
    explicit Impl(ILogger& logger) : logger_(logger) {}

    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept override {
      Plan plan;
      if (!readPlan(static_cast<const char*>(blob), size, plan)) {
        logError(logger_, "deserializeCudaEngine: this is no plan");
        return nullptr;
      }
      if (plan.plugin && !registry_.loaded) {
        logError(logger_, "deserializeCudaEngine: the plugin was not registered");
        return nullptr;
      }
      if (plan.host_code && !host_code_allowed_) {
        logError(logger_, "deserializeCudaEngine: host code is not allowed");
        return nullptr;
      }
      return new LinearEngine(std::move(plan), logger_);
    }
#if DINAT_TENSORRT_LAYOUT == 10
    ICudaEngine* deserializeCudaEngine(void*) noexcept override { return nullptr; }
#endif
    void setDLACore(int32_t) noexcept override {}
    int32_t getNbDLACores() const noexcept override { return 0; }
    IPluginRegistry& getPluginRegistry() noexcept override { return registry_; }
    void setEngineHostCodeAllowed(bool allowed) noexcept override { host_code_allowed_ = allowed; }
    bool getEngineHostCodeAllowed() const noexcept override { return host_code_allowed_; }

   private:
    ILogger& logger_;
    Registry registry_;
    bool host_code_allowed_ = false;
  };
  Impl impl_;
};

// STAND_IN_VERSION=10.16.1.11 instead of the version that it was compiled as.
int32_t versionPart(int part) {
  const int compiled[] = VERSION;
  const char* text = std::getenv("STAND_IN_VERSION");
  for (int i = 0; text != nullptr && i < part; ++i) text = std::strchr(text, '.') + 1;
  return text == nullptr ? compiled[part] : std::atoi(text);
}

}  // namespace

EXPORT int32_t getInferLibMajorVersion() noexcept { return versionPart(0); }
EXPORT int32_t getInferLibMinorVersion() noexcept { return versionPart(1); }
EXPORT int32_t getInferLibPatchVersion() noexcept { return versionPart(2); }
EXPORT int32_t getInferLibBuildVersion() noexcept { return versionPart(3); }
EXPORT int32_t getInferLibVersion() noexcept {
  return versionPart(0) * 10000 + versionPart(1) * 100 + versionPart(2);
}

EXPORT void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept {
  auto& log = *static_cast<ILogger*>(logger);
  if (fails("createInferRuntime")) {
    logError(log, "createInferRuntime: no GPU");
    return nullptr;
  }
  // The Python bindings pass the version that they were built for.
  if (version / 10000 != getInferLibMajorVersion()) {
    logError(log, "createInferRuntime: another version was asked for");
    return nullptr;
  }
  return static_cast<IRuntime*>(new Runtime(log));
}

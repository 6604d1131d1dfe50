// A host for the plugin without TensorRT: C functions that call it as the library would, for
// tests/plugins/tensorrt_driver.py. Structures cross as TensorRT declares them.
#include <cstring>
#include <deque>
#include <string>

#include "fake_runner.h"
#include "tensorrt/logger_abi.h"

namespace nvinfer1 {

// The finder of TensorRT 10 by its real name, by which the plugin recognises it.
class ILoggerFinder : public dinat::tensorrt::before11::LoggerFinder {};

}  // namespace nvinfer1

extern "C" {
nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
void setLoggerFinder(void* finder);
}

namespace {

using namespace nvinfer1;
namespace before11 = dinat::tensorrt::before11;
namespace since11 = dinat::tensorrt::since11;
using dinat::tensorrt::Severity;

std::string messages;

void keep(const char* logger, Severity severity, const char* message) {
  messages +=
      std::string(logger) + " " + std::to_string(static_cast<int>(severity)) + " " + message + "\n";
}

class OldLogger : public before11::Logger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    keep("old", severity, message);
  }
};

class NewLogger : public since11::Logger {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILogger", 1, 0}; }
  void log(Severity severity, const char* message) noexcept override {
    keep("new", severity, message);
  }
};

bool has_logger = true;

class OldFinder : public ILoggerFinder {
 public:
  before11::Logger* findLogger() override { return has_logger ? &logger_ : nullptr; }

 private:
  OldLogger logger_;
};

class NewFinder : public since11::LoggerFinder {
 public:
  InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILoggerFinder", 1, 0}; }
  since11::Logger* findLogger() override { return has_logger ? &logger_ : nullptr; }

 private:
  NewLogger logger_;
};

// Derives from nothing that the plugin knows.
class StrangeFinder {
 public:
  virtual ~StrangeFinder() = default;
  virtual void* findLogger() { return nullptr; }
};

class Dimension : public IDimensionExpr {
 public:
  // -1 stands for an expression.
  explicit Dimension(int64_t value) : value_(value) { mImpl = &implementation_; }
  ~Dimension() noexcept override = default;
  Dimension(Dimension&&) = delete;

 private:
  class Implementation : public apiv::VDimensionExpr {
   public:
    explicit Implementation(const int64_t& value) : value_(value) {}
    bool isConstant() const override { return value_ != -1; }
    int64_t getConstantValue() const override { return value_; }
    bool isSizeTensor() const override { return false; }

   private:
    const int64_t& value_;
  };

  const int64_t value_;
  Implementation implementation_{value_};
};

class Builder : public IExprBuilder {
 public:
  Builder() { mImpl = &implementation_; }
  ~Builder() noexcept override = default;
  const Dimension* make(int64_t value) { return &implementation_.dimensions.emplace_back(value); }

 private:
  class Implementation : public apiv::VExprBuilder {
   public:
    const IDimensionExpr* constant(int64_t value) override {
      return &dimensions.emplace_back(value);
    }
    const IDimensionExpr* operation(DimensionOperation, const IDimensionExpr&,
                                    const IDimensionExpr&) override {
      return &dimensions.emplace_back(-1);
    }
    const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&,
                                            const IDimensionExpr&) override {
      return nullptr;
    }
    std::deque<Dimension> dimensions;
  };

  Implementation implementation_;
};

IPluginV3OneCore* core(IPluginV3* plugin) {
  return static_cast<IPluginV3OneCore*>(
      plugin->getCapabilityInterface(PluginCapabilityType::kCORE));
}

IPluginV3OneBuild* build(IPluginV3* plugin) {
  return static_cast<IPluginV3OneBuild*>(
      plugin->getCapabilityInterface(PluginCapabilityType::kBUILD));
}

IPluginV3OneRuntime* runtime(IPluginV3* plugin) {
  return static_cast<IPluginV3OneRuntime*>(
      plugin->getCapabilityInterface(PluginCapabilityType::kRUNTIME));
}

IPluginCreatorV3One* creator(const char* name) {
  int32_t count = 0;
  IPluginCreatorInterface* const* creators = getCreators(count);
  for (int32_t i = 0; i < count; ++i) {
    auto* candidate = static_cast<IPluginCreatorV3One*>(creators[i]);
    if (std::strcmp(candidate->getPluginName(), name) == 0) return candidate;
  }
  return nullptr;
}

}  // namespace

extern "C" {

// ---- The library's side ----

// `kind`: 10 or 11 for the interface of that TensorRT, 0 for an unknown one, -1 for none.
void driverSetFinder(int32_t kind, bool with_logger) {
  static OldFinder old_finder;
  static NewFinder new_finder;
  static StrangeFinder strange_finder;
  has_logger = with_logger;
  setLoggerFinder(kind == 10   ? static_cast<void*>(static_cast<ILoggerFinder*>(&old_finder))
                  : kind == 11 ? static_cast<void*>(&new_finder)
                  : kind == 0  ? static_cast<void*>(&strange_finder)
                               : nullptr);
}

// Messages since the last call, a line each: logger, severity, text.
const char* driverMessages() {
  static std::string taken;
  taken.swap(messages);
  messages.clear();
  return taken.c_str();
}

const PluginFieldCollection* driverFieldNames(const char* name) {
  return creator(name)->getFieldNames();
}

IPluginV3* driverCreate(const char* name, const char* layer, const PluginFieldCollection* fields,
                        int32_t phase) {
  return creator(name)->createPlugin(layer, fields, static_cast<TensorRTPhase>(phase));
}

void driverDestroy(IPluginV3* plugin) { delete plugin; }
IPluginV3* driverClone(IPluginV3* plugin) { return plugin->clone(); }
IPluginV3* driverAttach(IPluginV3* plugin) { return runtime(plugin)->attachToContext(nullptr); }

const PluginFieldCollection* driverSerialize(IPluginV3* plugin) {
  return runtime(plugin)->getFieldsToSerialize();
}

// `text`: name, version, namespace, timing cache id, metadata.
const char* driverText(IPluginV3* plugin, int32_t text) {
  switch (text) {
    case 0:
      return core(plugin)->getPluginName();
    case 1:
      return core(plugin)->getPluginVersion();
    case 2:
      return core(plugin)->getPluginNamespace();
    case 3:
      return build(plugin)->getTimingCacheID();
    default:
      return build(plugin)->getMetadataString();
  }
}

int32_t driverOutputTypes(IPluginV3* plugin, const int32_t* inputs, int32_t count, int32_t* output,
                          int32_t outputs) {
  return build(plugin)->getOutputDataTypes(reinterpret_cast<DataType*>(output), outputs,
                                           reinterpret_cast<const DataType*>(inputs), count);
}

// In `output`, -1 stands for an expression.
int32_t driverOutputShape(IPluginV3* plugin, const Dims* inputs, int32_t count, Dims* output) {
  Builder builder;
  std::deque<DimsExprs> expressions;
  std::vector<DimsExprs> in(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) {
    in[i].nbDims = inputs[i].nbDims;
    for (int32_t d = 0; d < inputs[i].nbDims; ++d) in[i].d[d] = builder.make(inputs[i].d[d]);
  }
  DimsExprs out{};
  const int32_t status =
      build(plugin)->getOutputShapes(in.data(), count, nullptr, 0, &out, 1, builder);
  output->nbDims = out.nbDims;
  for (int32_t d = 0; d < out.nbDims; ++d) {
    output->d[d] = out.d[d]->isConstant() ? out.d[d]->getConstantValue() : -1;
  }
  return status;
}

bool driverSupports(IPluginV3* plugin, int32_t position, const DynamicPluginTensorDesc* tensors,
                    int32_t inputs, int32_t outputs) {
  return build(plugin)->supportsFormatCombination(position, tensors, inputs, outputs);
}

int32_t driverConfigure(IPluginV3* plugin, const DynamicPluginTensorDesc* in, int32_t inputs,
                        const DynamicPluginTensorDesc* out, int32_t outputs) {
  return build(plugin)->configurePlugin(in, inputs, out, outputs);
}

int32_t driverTacticCount(IPluginV3* plugin) { return build(plugin)->getNbTactics(); }

int32_t driverTactics(IPluginV3* plugin, int32_t* tactics, int32_t count) {
  return build(plugin)->getValidTactics(tactics, count);
}

int32_t driverSetTactic(IPluginV3* plugin, int32_t tactic) {
  return runtime(plugin)->setTactic(tactic);
}

int32_t driverShapeChange(IPluginV3* plugin, const PluginTensorDesc* in, int32_t inputs,
                          const PluginTensorDesc* out, int32_t outputs) {
  return runtime(plugin)->onShapeChange(in, inputs, out, outputs);
}

int32_t driverEnqueue(IPluginV3* plugin, const void* const* inputs, void* const* outputs,
                      void* stream) {
  return runtime(plugin)->enqueue(nullptr, nullptr, inputs, outputs, nullptr,
                                  static_cast<cudaStream_t>(stream));
}

// ---- The GPU's side ----

// Status codes of the CUDA runtime; forgets launches.
void gpuReset(int32_t device, int32_t prepare, int32_t launch) {
  dinat::fake::gpu() = {};
  dinat::fake::gpu().device_status = static_cast<cudaError_t>(device);
  dinat::fake::gpu().prepare_status = static_cast<cudaError_t>(prepare);
  dinat::fake::gpu().launch_status = static_cast<cudaError_t>(launch);
}

int32_t gpuQuestions() { return dinat::fake::gpu().questions; }
int32_t gpuLaunchCount() { return static_cast<int32_t>(dinat::fake::gpu().launches.size()); }

// The launch of that number.
void gpuLaunch(int32_t index, dinat::Problem* problem, dinat::Operands* operands, int32_t* tactic,
               void** stream) {
  const dinat::fake::Launch& launch = dinat::fake::gpu().launches[static_cast<size_t>(index)];
  *problem = launch.problem;
  *operands = launch.operands;
  *tactic = launch.tactic;
  *stream = launch.stream;
}
}

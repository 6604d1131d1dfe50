#include "tensorrt/plugin.h"

#include <algorithm>
#include <memory>

#include "tensorrt/logging.h"

namespace dinat::tensorrt {
namespace {

using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using TensorRTType = nvinfer1::DataType;

constexpr int32_t kFailed = 1;

Dims knownPart(const DimsExprs& expressions) {
  Dims dims{};
  dims.nbDims = expressions.nbDims;
  for (int32_t i = 0; i < dims.nbDims && i < Dims::MAX_DIMS; ++i) {
    const nvinfer1::IDimensionExpr* size = expressions.d[i];
    dims.d[i] = size->isConstant() ? size->getConstantValue() : -1;
  }
  return dims;
}

// One shape of every tensor: of the network, or at a point of a profile.
template <class Desc, class Select>
Shapes shapesOf(const Desc* tensors, int32_t count, Select select) {
  Shapes shapes;
  for (int32_t i = 0; i < count; ++i) shapes.push_back(select(tensors[i]));
  return shapes;
}

template <class Desc>
std::vector<TensorRTType> typesOf(const Desc* tensors, int32_t count) {
  std::vector<TensorRTType> types;
  for (int32_t i = 0; i < count; ++i) types.push_back(tensors[i].type);
  return types;
}

// Points of a profile at which shapes are checked.
struct ProfilePoint {
  const char* where;
  Dims DynamicPluginTensorDesc::* shape;
};

constexpr ProfilePoint kProfilePoints[] = {
    {"minimum", &DynamicPluginTensorDesc::min},
    {"optimum", &DynamicPluginTensorDesc::opt},
    {"maximum", &DynamicPluginTensorDesc::max},
};

// Tactics that compute all of `problems` on the current device; none without a device.
std::vector<int32_t> commonTactics(const std::vector<Problem>& problems) {
  cuda::Device device{};
  if (problems.empty() || cuda::currentDevice(&device) != cudaSuccess) return {};
  std::vector<int32_t> common;
  for (const cuda::Tactic tactic : cuda::tactics(problems.front(), device)) {
    const auto can = [&](const Problem& p) { return cuda::canImplement(p, tactic, device); };
    if (std::all_of(problems.begin(), problems.end(), can)) {
      common.push_back(static_cast<int32_t>(tactic));
    }
  }
  return common;
}

}  // namespace

Plugin::Plugin(Layout layout, const Attributes& attributes, const std::string& layer)
    : layout_(layout),
      attributes_(attributes),
      layer_(layer),
      title_(std::string(operatorName(layout)) + " '" + layer + "'"),
      metadata_(toJson(attributes)),
      timing_id_(operatorName(layout) + metadata_),
      stored_(attributes, layer) {}

int32_t Plugin::report(const std::string& fault) const {
  if (fault.empty()) return 0;
  log(Severity::kError, title_ + ": " + fault + ".");
  return kFailed;
}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
  return guarded<nvinfer1::IPluginV3*>(title_.c_str(), nullptr, [&] {
    auto copy = std::make_unique<Plugin>(layout_, attributes_, layer_);
    copy->tactics_ = tactics_;
    copy->execution_ = execution_;
    return copy.release();
  });
}

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return clone();
}

const char* Plugin::getPluginName() const noexcept { return operatorName(layout_); }
const char* Plugin::getPluginVersion() const noexcept { return kPluginVersion; }
const char* Plugin::getPluginNamespace() const noexcept { return kPluginNamespace; }
int32_t Plugin::getNbOutputs() const noexcept { return 1; }
const char* Plugin::getTimingCacheID() noexcept { return timing_id_.c_str(); }
const char* Plugin::getMetadataString() noexcept { return metadata_.c_str(); }

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
  return &stored_.collection();
}

int32_t Plugin::getOutputDataTypes(TensorRTType* output_types, int32_t outputs,
                                   const TensorRTType* input_types, int32_t inputs) const noexcept {
  return guarded(title_.c_str(), kFailed, [&] {
    std::string fault = faultOfCounts(layout_, inputs, outputs);
    if (fault.empty()) {
      fault = faultOfTypes(layout_, {input_types, input_types + inputs}, nullptr);
    }
    if (fault.empty()) output_types[0] = input_types[0];
    return report(fault);
  });
}

int32_t Plugin::getOutputShapes(const DimsExprs* in, int32_t inputs, const DimsExprs*, int32_t,
                                DimsExprs* out, int32_t outputs,
                                nvinfer1::IExprBuilder& builder) noexcept {
  return guarded(title_.c_str(), kFailed, [&] {
    std::string fault = faultOfCounts(layout_, inputs, outputs);
    if (fault.empty()) {
      fault = faultOfShapes(layout_, attributes_, shapesOf(in, inputs, knownPart), nullptr);
    }
    if (!fault.empty()) return report(fault);
    out[0] = in[0];
    if (layout_ == Layout::kPacked) {
      // Three blocks of channels come in and one goes out.
      const int64_t channels = static_cast<int64_t>(attributes_.num_heads) * attributes_.head_dim;
      out[0].d[out[0].nbDims - 1] = builder.constant(channels);
    }
    return 0;
  });
}

bool Plugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors,
                                       int32_t inputs, int32_t outputs) noexcept {
  if (position < 0 || position >= inputs + outputs) return false;
  const PluginTensorDesc& tensor = tensors[position].desc;
  return tensor.format == nvinfer1::TensorFormat::kLINEAR && isSupported(tensor.type) &&
         tensor.type == tensors[0].desc.type;
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs,
                                const DynamicPluginTensorDesc* out, int32_t outputs) noexcept {
  return guarded(title_.c_str(), kFailed, [&] {
    tactics_.clear();
    std::string fault = faultOfCounts(layout_, inputs, outputs);
    if (!fault.empty()) return report(fault);

    std::vector<TensorRTType> types;
    for (int32_t i = 0; i < inputs; ++i) types.push_back(in[i].desc.type);
    fault = faultOfTypes(layout_, types, &out[0].desc.type);
    const auto network_shape = [](const DynamicPluginTensorDesc& tensor) {
      return tensor.desc.dims;
    };
    if (fault.empty()) {
      fault = faultOfShapes(layout_, attributes_, shapesOf(in, inputs, network_shape),
                            &out[0].desc.dims);
    }
    if (!fault.empty()) return report(fault);

    // A tactic is used for every shape of the profile, so it must be able to do its bounds.
    std::vector<Problem> problems;
    for (const ProfilePoint& point : kProfilePoints) {
      const auto shape = [&](const DynamicPluginTensorDesc& tensor) { return tensor.*point.shape; };
      const Shapes shapes = shapesOf(in, inputs, shape);
      fault = faultOfShapes(layout_, attributes_, shapes, &(out[0].*point.shape));
      if (!fault.empty()) {
        return report("at the " + std::string(point.where) + " of the optimization profile, " +
                      fault);
      }
      if (known(shapes)) problems.push_back(problemOf(layout_, attributes_, shapes, types[0]));
    }
    if (problems.size() == std::size(kProfilePoints)) tactics_ = commonTactics(problems);
    return 0;
  });
}

int32_t Plugin::getNbTactics() noexcept { return static_cast<int32_t>(tactics_.size()); }

int32_t Plugin::getValidTactics(int32_t* tactics, int32_t count) noexcept {
  if (count != getNbTactics()) return kFailed;
  std::copy(tactics_.begin(), tactics_.end(), tactics);
  return 0;
}

std::string Plugin::makeReady() {
  Execution& now = execution_;
  now.is_ready = false;
  if (!now.has_problem) return {};
  if (cuda::currentDevice(&now.device) != cudaSuccess) return {};
  // An engine may run on another GPU than it was built for, or at a shape that its tactic cannot
  // do: then the heuristic decides.
  const bool can = now.requested != cuda::Tactic::kHeuristic &&
                   cuda::canImplement(now.problem, now.requested, now.device);
  now.tactic = can ? now.requested : cuda::choose(now.problem, now.device);
  const cudaError_t status = cuda::prepare(now.problem, now.tactic, now.device);
  if (status != cudaSuccess) {
    return std::string("kernel ") + cuda::name(now.tactic) +
           " cannot be loaded: " + cudaGetErrorString(status) +
           "; build the plugin for this GPU's architecture";
  }
  now.is_ready = true;
  return {};
}

int32_t Plugin::setTactic(int32_t tactic) noexcept {
  return guarded(title_.c_str(), kFailed, [&] {
    const auto requested = static_cast<cuda::Tactic>(tactic);
    if (requested == execution_.requested) return 0;
    execution_.requested = requested;
    return report(makeReady());
  });
}

int32_t Plugin::onShapeChange(const PluginTensorDesc* in, int32_t inputs,
                              const PluginTensorDesc* out, int32_t outputs) noexcept {
  return guarded(title_.c_str(), kFailed, [&] {
    execution_.has_problem = false;
    execution_.is_ready = false;
    std::string fault = faultOfCounts(layout_, inputs, outputs);
    if (fault.empty()) fault = faultOfTypes(layout_, typesOf(in, inputs), &out[0].type);
    if (!fault.empty()) return report(fault);
    const Shapes shapes =
        shapesOf(in, inputs, [](const PluginTensorDesc& tensor) { return tensor.dims; });
    fault = faultOfShapes(layout_, attributes_, shapes, &out[0].dims);
    if (!fault.empty()) return report(fault);
    if (!known(shapes)) return report("a shape is not known at run time; set all input shapes");
    execution_.problem = problemOf(layout_, attributes_, shapes, in[0].type);
    execution_.has_rpb = inputs > requiredInputs(layout_);
    execution_.has_problem = true;
    return report(makeReady());
  });
}

int32_t Plugin::enqueue(const PluginTensorDesc*, const PluginTensorDesc*, const void* const* inputs,
                        void* const* outputs, void*, cudaStream_t stream) noexcept {
  return guarded(title_.c_str(), kFailed, [&] {
    const Execution& now = execution_;
    if (!now.is_ready) {
      return report("there is no CUDA device; run the engine on a machine with a GPU and driver");
    }
    const void* const rpb = now.has_rpb ? inputs[requiredInputs(layout_)] : nullptr;
    const Operands operands = layout_ == Layout::kPacked
                                  ? packedOperands(now.problem, inputs[0], rpb, outputs[0])
                                  : Operands{inputs[0], inputs[1], inputs[2], rpb, outputs[0]};
    const cudaError_t status = cuda::launch(now.problem, operands, now.tactic, now.device, stream);
    if (status == cudaSuccess) return 0;
    return report(std::string("kernel ") + cuda::name(now.tactic) +
                  " cannot be launched: " + cudaGetErrorString(status) +
                  "; check the device with compute-sanitizer, and build the plugin for its "
                  "architecture");
  });
}

}  // namespace dinat::tensorrt

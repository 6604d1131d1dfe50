#include "tensorrt/creator.h"

#include "tensorrt/logging.h"
#include "tensorrt/plugin.h"

namespace dinat::tensorrt {

nvinfer1::IPluginV3* Creator::createPlugin(const char* name,
                                           const nvinfer1::PluginFieldCollection* fields,
                                           nvinfer1::TensorRTPhase phase) noexcept {
  return guarded<nvinfer1::IPluginV3*>(operatorName(layout_), nullptr, [&]() -> Plugin* {
    std::string layer = name == nullptr ? "" : name;
    Attributes attributes;
    const std::string fault = parse(fields, phase, &attributes);
    if (!fault.empty()) {
      log(Severity::kError,
          std::string(operatorName(layout_)) + " '" + layer + "': " + fault + ".");
      return nullptr;
    }
    if (phase == nvinfer1::TensorRTPhase::kRUNTIME) {
      const std::string stored = storedLayer(*fields);
      if (!stored.empty()) layer = stored;
    }
    return new Plugin(layout_, attributes, layer);
  });
}

const nvinfer1::PluginFieldCollection* Creator::getFieldNames() noexcept {
  return guarded<const nvinfer1::PluginFieldCollection*>(operatorName(layout_), nullptr,
                                                         [] { return &fieldNames(); });
}

const char* Creator::getPluginName() const noexcept { return operatorName(layout_); }
const char* Creator::getPluginVersion() const noexcept { return kPluginVersion; }
const char* Creator::getPluginNamespace() const noexcept { return kPluginNamespace; }

}  // namespace dinat::tensorrt

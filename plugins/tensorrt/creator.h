// Makes plugins from the attributes of a node or the fields of an engine.
#pragma once

#include "tensorrt/attributes.h"

namespace dinat::tensorrt {

// The creator of one operator, found in TensorRT's registry by name, version and namespace.
class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(Layout layout) : layout_(layout) {}

  // Null, after a message that names the layer, for attributes that cannot be computed.
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override;
  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;

 private:
  const Layout layout_;
};

}  // namespace dinat::tensorrt

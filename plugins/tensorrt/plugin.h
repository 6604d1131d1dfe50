// The TensorRT plugin over the CUDA kernels (kernels/runner.h).
#pragma once

#include <string>
#include <vector>

#include "kernels/runner.h"
#include "tensorrt/attributes.h"
#include "tensorrt/tensors.h"

namespace dinat::tensorrt {

// One node of a network or engine, in all three roles: identity, building, running.
//
// Loading, parsing and building need neither a GPU nor a driver; only timing and running do.
// Attributes never change, and everything that does is copied by `clone`, so plugins share nothing
// and different execution contexts may run on different threads.
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  // `layer` names the node in messages; attributes come from `parse`.
  Plugin(Layout layout, const Attributes& attributes, const std::string& layer);

  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;

  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out,
                          int32_t outputs) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t outputs,
                             const nvinfer1::DataType* input_types,
                             int32_t inputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs,
                          const nvinfer1::DimsExprs* shape_in, int32_t shape_inputs,
                          nvinfer1::DimsExprs* out, int32_t outputs,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                 int32_t inputs, int32_t outputs) noexcept override;
  int32_t getNbOutputs() const noexcept override;
  int32_t getNbTactics() noexcept override;
  int32_t getValidTactics(int32_t* tactics, int32_t count) noexcept override;
  const char* getTimingCacheID() noexcept override;
  const char* getMetadataString() noexcept override;

  int32_t setTactic(int32_t tactic) noexcept override;
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs,
                        const nvinfer1::PluginTensorDesc* out, int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* input_desc,
                  const nvinfer1::PluginTensorDesc* output_desc, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  // What `onShapeChange` and `setTactic` leave to `enqueue`.
  struct Execution {
    cuda::Tactic requested = cuda::Tactic::kHeuristic;
    cuda::Tactic tactic = cuda::Tactic::kHeuristic;
    Problem problem{};
    cuda::Device device{};
    bool has_rpb = false;
    bool has_problem = false;
    bool is_ready = false;  // there is a device, and the kernel is loaded
  };

  // Logs the fault with the node's name; non-zero, for TensorRT to stop on. 0 if there is no fault.
  int32_t report(const std::string& fault) const;

  // Chooses and loads the kernel for the current problem and requested tactic. Without a device
  // it leaves the plugin not ready, which is no fault before `enqueue`.
  std::string makeReady();

  const Layout layout_;
  const Attributes attributes_;
  const std::string layer_;
  const std::string title_;     // the node in messages
  const std::string metadata_;  // attributes as JSON
  const std::string timing_id_;
  const StoredFields stored_;

  std::vector<int32_t> tactics_;  // of the configured combination
  Execution execution_;
};

}  // namespace dinat::tensorrt

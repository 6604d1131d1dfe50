// The attributes of a node: read from the fields that TensorRT hands over, checked, stored.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensorrt/trt.h"

namespace dinat::tensorrt {

// How query, key and value come in; each is an operator with a creator of its own.
enum class Layout {
  kPacked,  // NeighborhoodAttention2D: one tensor [B, H, W, 3*heads*dim]
  kSplit,   // NeighborhoodAttention2DSplit: three tensors [B, H, W, heads, dim]
};

// The operator's name, in ONNX and in the plugin registry.
const char* operatorName(Layout layout);

inline constexpr char kPluginVersion[] = "1";
inline constexpr char kPluginNamespace[] = "dinat";

// docs/operator.md, "ONNX node".
struct Attributes {
  int32_t num_heads = 0;
  int32_t head_dim = 0;
  int32_t kernel_size[2] = {0, 0};
  int32_t dilation[2] = {0, 0};
  float scale = 0;
  int32_t size[2] = {0, 0};  // height and width of the map; 0 where it is not static
};

// The fields that a parser should look for on a node, in the order of the table in attributes.cpp.
const nvinfer1::PluginFieldCollection& fieldNames();

// Reads fields into `attributes`; returns what is wrong with them as one sentence and a cure, empty
// if nothing is. When an engine is read (`phase`), unknown fields are TensorRT's own and ignored.
std::string parse(const nvinfer1::PluginFieldCollection* fields, nvinfer1::TensorRTPhase phase,
                  Attributes* attributes);

// All attributes in one line of JSON, `scale` with every digit.
std::string toJson(const Attributes& attributes);

// Name of the layer among the fields of an engine; empty if it is not there.
std::string storedLayer(const nvinfer1::PluginFieldCollection& fields);

// Attributes and the layer's name as fields to be stored in an engine, with the memory that they
// point to.
class StoredFields {
 public:
  StoredFields(const Attributes& attributes, const std::string& layer);
  StoredFields(const StoredFields&) = delete;
  StoredFields& operator=(const StoredFields&) = delete;

  const nvinfer1::PluginFieldCollection& collection() const { return collection_; }

 private:
  Attributes attributes_;
  std::string layer_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace dinat::tensorrt

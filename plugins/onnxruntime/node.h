// A node of either operator as ONNX Runtime hands it over: attributes, and problems on its inputs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/problem.h"
#include "onnxruntime/api.h"

namespace dinat::ort {

// How query, key and value arrive.
enum class Layout {
  kPacked,  // NeighborhoodAttention2D: one tensor [B, H, W, 3*heads*dim]
  kSplit,   // NeighborhoodAttention2DSplit: three tensors [B, H, W, heads, dim]
};

const char* operatorName(Layout layout);

// Inputs before the optional rpb.
size_t rpbIndex(Layout layout);

// Everything that one run needs. `operands` point into the runtime's tensors.
struct Call {
  Problem problem;
  Operands operands;
};

class Node {
 public:
  // Reads and checks the attributes; throws NodeError.
  Node(const OrtKernelInfo* info, Layout layout, DataType type);

  // Checks the inputs' sizes and allocates the output; throws NodeError.
  Call prepare(OrtKernelContext* context) const;

 private:
  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void failFor(const char* attribute, const char* kind) const;
  template <class Value, class Read>
  Value attribute(const char* name, const char* kind, const Read& read) const;
  Shape shapeOf(const std::vector<int64_t>& sizes) const;

  Layout layout_;
  DataType type_;
  std::string name_;
  int64_t heads_;
  int64_t head_dim_;
  int32_t kernel_size_[2];
  int32_t dilation_[2];
  float scale_;
};

// The output's type and sizes, known ones and names of unknown ones, from those of the first input.
void inferOutput(const OrtShapeInferContext* context, Layout layout);

}  // namespace dinat::ort

// The operator's problem as every implementation receives it: sizes, strides, attributes.
//
// The definition of the operator is docs/operator.md; common/window.h has its index arithmetic.
// Plain data on purpose: it crosses C interfaces (Python tests mirror it with ctypes).
#pragma once

#include <cstdint>
#include <string>

namespace dinat {

enum class DataType : int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

// Distances in elements; the channels of one head are contiguous.
struct Strides {
  int64_t batch;
  int64_t row;
  int64_t column;
  int64_t head;
};

struct Problem {
  int64_t batch;
  int32_t size[2];  // rows and columns of the map, in tokens
  int32_t heads;
  int32_t head_dim;        // channels of a head
  int32_t kernel_size[2];  // window, in members of the dilation group
  int32_t dilation[2];
  float scale;    // factor on <query, key>; the bias is added after it
  DataType type;  // of all tensors; sums and softmax are float32
  Strides input;  // of query, key and value
  Strides output;
};

// Base addresses. `rpb` is [heads, 2*kh-1, 2*kw-1], contiguous, or null.
struct Operands {
  const void* query;
  const void* key;
  const void* value;
  const void* rpb;
  void* output;
};

// What a node and its input say, before strides follow from the layout.
struct Shape {
  int64_t batch;
  int64_t height;
  int64_t width;
  int64_t heads;
  int64_t head_dim;
};

// Bytes of one element.
int64_t elementSize(DataType type);

// `float32`, `float16`, `bfloat16`.
const char* name(DataType type);

// A problem on one packed tensor [B, H, W, 3*heads*dim] with output [B, H, W, heads*dim].
Problem packedProblem(const Shape& shape, const int32_t (&kernel_size)[2],
                      const int32_t (&dilation)[2], float scale, DataType type);

// A problem on three tensors [B, H, W, heads, dim] with output of the same shape.
Problem splitProblem(const Shape& shape, const int32_t (&kernel_size)[2],
                     const int32_t (&dilation)[2], float scale, DataType type);

// Where query, key and value begin in a packed tensor.
Operands packedOperands(const Problem& problem, const void* qkv, const void* rpb, void* output);

// What is wrong with a node's sizes and attributes, as one sentence that names both sides of the
// mismatch; empty if nothing is. Call it before making a Problem, whose fields are narrower.
std::string faultOf(const Shape& shape, const int32_t (&kernel_size)[2],
                    const int32_t (&dilation)[2], float scale);

// The same for a Problem.
std::string faultOf(const Problem& problem);

}  // namespace dinat

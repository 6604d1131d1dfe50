// What the plugin's tensors must look like, and what they say about the problem to solve.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/problem.h"
#include "tensorrt/attributes.h"

namespace dinat::tensorrt {

// Shapes of the inputs in the node's order; -1 where a size is not known yet.
using Shapes = std::vector<nvinfer1::Dims>;

// Inputs without the optional rpb: 1 packed, 3 split.
int32_t requiredInputs(Layout layout);

// Each of these returns what is wrong as one sentence and a cure, empty if nothing is.

// `inputs` and `outputs` are the numbers of tensors.
std::string faultOfCounts(Layout layout, int32_t inputs, int32_t outputs);

// `output` may be null, here and below, if it is not known yet.
std::string faultOfTypes(Layout layout, const std::vector<nvinfer1::DataType>& inputs,
                         const nvinfer1::DataType* output);

// Only known sizes are checked.
std::string faultOfShapes(Layout layout, const Attributes& attributes, const Shapes& inputs,
                          const nvinfer1::Dims* output);

// Whether no size is -1.
bool known(const Shapes& shapes);

// float32, float16 and bfloat16.
bool isSupported(nvinfer1::DataType type);

// The problem of known shapes and a supported type in which there is no fault.
Problem problemOf(Layout layout, const Attributes& attributes, const Shapes& inputs,
                  nvinfer1::DataType type);

}  // namespace dinat::tensorrt

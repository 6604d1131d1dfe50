// The operators that the library registers.
#pragma once

#include <vector>

#include "common/problem.h"
#include "onnxruntime/node.h"

namespace dinat::ort {

// One operator for one element type and one execution provider, with its callbacks filled in.
struct Operator : OrtCustomOp {
  Layout layout;
  DataType type;
  const char* provider;
};

// What all operators share; the caller sets CreateKernelV2, KernelComputeV2 and KernelDestroy.
Operator describe(Layout layout, DataType type, const char* provider);

// On the CPU, float32, float16, bfloat16 in both layouts.
std::vector<Operator> cpuOperators();

// The same on CUDA, when the library was built with it.
std::vector<Operator> cudaOperators();

}  // namespace dinat::ort

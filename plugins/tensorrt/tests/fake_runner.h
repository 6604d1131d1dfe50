// Stands in for the CUDA kernels in tests of the plugin's host code: records what is launched.
#pragma once

#include <vector>

#include "kernels/runner.h"

namespace dinat::fake {

struct Launch {
  Problem problem;
  Operands operands;
  int32_t tactic;
  cudaStream_t stream;
};

struct Gpu {
  cudaError_t device_status = cudaErrorInsufficientDriver;  // as on a machine without a GPU
  cudaError_t prepare_status = cudaSuccess;
  cudaError_t launch_status = cudaSuccess;
  int32_t questions = 0;  // calls other than `launch`
  std::vector<Launch> launches;
  std::vector<int32_t> prepared;
};

Gpu& gpu();

}  // namespace dinat::fake

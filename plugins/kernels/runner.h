// The CUDA kernels behind one interface: which of them can run a problem, which is best, run it.
//
// No TensorRT and no ONNX Runtime types. Nothing here allocates, synchronises or asks the device
// anything except `currentDevice` and `prepare`, so `launch` is safe inside a CUDA graph capture.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "common/problem.h"

namespace dinat::cuda {

// Values are stable: TensorRT stores them in plans (0 is its "default").
enum class Tactic : int32_t {
  kHeuristic = 0,  // whatever `choose` says for the problem at hand
  kPortable = 1,   // any kernel size, head dim, type; no tensor cores
  kTile4 = 2,      // tensor cores, query tiles of 4 x 8
  kTile8 = 3,      // ... 8 x 8
  kTile16 = 4,     // ... 16 x 8
  kGroup = 5,      // tensor cores, where a whole dilation group fits one tile of 8 x 8
};

// What dispatch needs to know of a GPU.
struct Device {
  int32_t compute_capability;  // 87 for 8.7
  int32_t multiprocessors;
  int32_t shared_memory;  // bytes a block may opt in to
};

const char* name(Tactic tactic);

// Properties of the current device; cached per device, so cheap after the first call.
cudaError_t currentDevice(Device* device);

// Whether `tactic` computes `problem` on `device`. kHeuristic and kPortable can do every problem
// that `faultOf` finds nothing wrong with.
bool canImplement(const Problem& problem, Tactic tactic, const Device& device);

// All that can, without kHeuristic; never empty for a valid problem.
std::vector<Tactic> tactics(const Problem& problem, const Device& device);

// The expected fastest.
Tactic choose(const Problem& problem, const Device& device);

// Loads the kernel and sets its attributes, so that `launch` does not do it inside a capture.
cudaError_t prepare(const Problem& problem, Tactic tactic, const Device& device);

// Enqueues the computation. A valid problem with an empty batch enqueues nothing.
// Returns cudaErrorInvalidValue for an invalid problem or a tactic that cannot implement it.
cudaError_t launch(const Problem& problem, const Operands& operands, Tactic tactic,
                   const Device& device, cudaStream_t stream);

}  // namespace dinat::cuda

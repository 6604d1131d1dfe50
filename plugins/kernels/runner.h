// The CUDA kernels behind one interface: which of them can run a problem, which is best, run it.
//
// No TensorRT and no ONNX Runtime types. Nothing here allocates device memory or synchronises, and
// `launch` asks the device nothing once `prepare` has run, so it is safe inside a CUDA graph
// capture.
//
// Errors are return values, taken from the calls made here. An earlier error of the caller is
// neither reported nor cleared; a launch that fails also leaves its error for cudaGetLastError, as
// every runtime call does.
#pragma once

#include <cuda_runtime_api.h>

#include "common/problem.h"
#include "kernels/dispatch.h"

namespace dinat::cuda {

// Properties of the current device; cached per device, so cheap after the first call.
cudaError_t currentDevice(Device* device);

// Loads the kernel on the current device and sets its attributes, so that `launch` does not do it
// inside a capture. cudaErrorNoKernelImageForDevice (or cudaErrorUnsupportedPtxVersion) says that
// this build holds no code for the GPU.
cudaError_t prepare(const Problem& problem, Tactic tactic, const Device& device);

// Enqueues the computation. A valid problem with an empty batch enqueues nothing.
// Returns cudaErrorInvalidValue for an invalid problem, a null tensor or a tactic that cannot
// implement the problem; the tensor-core tactics also need operands aligned to 16 bytes (kHeuristic
// falls back to the portable kernel when they are not).
cudaError_t launch(const Problem& problem, const Operands& operands, Tactic tactic,
                   const Device& device, cudaStream_t stream);

}  // namespace dinat::cuda

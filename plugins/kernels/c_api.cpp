// The kernels behind a C interface, libdinat_kernels.so: for ctypes, that is, for tests and
// benchmarks on a GPU. Nothing throws.
#include <algorithm>

#include "kernels/runner.h"

#define DINAT_EXPORT extern "C" __attribute__((visibility("default")))

using dinat::cuda::Tactic;

// Enqueues one computation on a stream (a cudaStream_t) of the current device.
// `tactic` is a value of dinat::cuda::Tactic. Returns a cudaError_t.
DINAT_EXPORT int dinat_cuda_attention(const dinat::Problem* problem,
                                      const dinat::Operands* operands, int tactic,
                                      void* stream) noexcept try {
  if (!problem || !operands) return cudaErrorInvalidValue;
  dinat::cuda::Device device;
  const cudaError_t error = dinat::cuda::currentDevice(&device);
  if (error != cudaSuccess) return error;
  return dinat::cuda::launch(*problem, *operands, static_cast<Tactic>(tactic), device,
                             static_cast<cudaStream_t>(stream));
} catch (...) {
  return cudaErrorMemoryAllocation;
}

// Writes up to `capacity` tactics that can compute the problem on the current device and returns
// how many there are, or a cudaError_t as a negative number.
DINAT_EXPORT int dinat_cuda_tactics(const dinat::Problem* problem, int* out, int capacity) noexcept
    try {
  if (!problem || (capacity > 0 && !out)) return -cudaErrorInvalidValue;
  dinat::cuda::Device device;
  const cudaError_t error = dinat::cuda::currentDevice(&device);
  if (error != cudaSuccess) return -error;
  const std::vector<Tactic> found = dinat::cuda::tactics(*problem, device);
  const int count = static_cast<int>(found.size());
  for (int i = 0; i < std::min(count, capacity); ++i) out[i] = static_cast<int>(found[i]);
  return count;
} catch (...) {
  return -cudaErrorMemoryAllocation;
}

// `portable`, `tile8`, ...; `unknown` for a number that is no tactic.
DINAT_EXPORT const char* dinat_cuda_tactic_name(int tactic) noexcept {
  return dinat::cuda::name(static_cast<Tactic>(tactic));
}

// What a cudaError_t means.
DINAT_EXPORT const char* dinat_cuda_error(int code) noexcept {
  return cudaGetErrorString(static_cast<cudaError_t>(code));
}

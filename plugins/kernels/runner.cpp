#include "kernels/runner.h"

#include <array>
#include <map>
#include <mutex>
#include <utility>

#include "kernels/launch_plan.h"

namespace dinat::cuda {
namespace {

constexpr int kDevices = 64;                 // whose properties are kept
constexpr int32_t kPlainShared = 48 * 1024;  // bytes a block may have without asking

const void* entryOf(KernelFunction function) { return reinterpret_cast<const void*>(function); }

cudaError_t readDevice(int index, Device* device) {
  int major = 0;
  int minor = 0;
  const std::pair<cudaDeviceAttr, int*> wanted[] = {
      {cudaDevAttrComputeCapabilityMajor, &major},
      {cudaDevAttrComputeCapabilityMinor, &minor},
      {cudaDevAttrMultiProcessorCount, &device->multiprocessors},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, &device->shared_memory},
  };
  for (const auto& [attribute, value] : wanted) {
    const cudaError_t error = cudaDeviceGetAttribute(value, attribute, index);
    if (error != cudaSuccess) return error;
  }
  device->compute_capability = 10 * major + minor;
  return cudaSuccess;
}

// Loads a kernel on the current device, by asking for its attributes, and allows it what it needs.
cudaError_t configure(KernelFunction function, const Launch& launch) {
  const void* entry = entryOf(function);
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, entry);
  if (error != cudaSuccess || launch.shared_bytes == 0) return error;
  // Several blocks on a multiprocessor hide each other's copies; the cache has little to keep.
  return cudaFuncSetAttribute(entry, cudaFuncAttributePreferredSharedMemoryCarveout,
                              cudaSharedmemCarveoutMaxShared);
}

// Remembers what was done, so that a launch repeats nothing and asks the device nothing.
class Kernels {
 public:
  cudaError_t require(const Launch& launch, KernelFunction* function) {
    *function = findKernel(launch.kernel);
    if (*function == nullptr) return cudaErrorInvalidDeviceFunction;
    int device = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error != cudaSuccess) return error;
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto known = allowed_.find({device, *function});
    uint32_t allowed = known == allowed_.end() ? 0 : known->second;
    if (known == allowed_.end()) {
      error = configure(*function, launch);
      if (error != cudaSuccess) return error;
      allowed = kPlainShared;
    }
    if (launch.shared_bytes > allowed) {
      error = cudaFuncSetAttribute(entryOf(*function), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(launch.shared_bytes));
      if (error != cudaSuccess) return error;
      allowed = launch.shared_bytes;
    }
    allowed_[{device, *function}] = allowed;
    return cudaSuccess;
  }

 private:
  std::mutex mutex_;
  std::map<std::pair<int, KernelFunction>, uint32_t> allowed_;  // dynamic shared memory, bytes
};

Kernels& kernels() {
  static Kernels instance;
  return instance;
}

}  // namespace

cudaError_t currentDevice(Device* device) {
  static std::mutex mutex;
  static std::array<Device, kDevices> known{};
  int index = 0;
  cudaError_t error = cudaGetDevice(&index);
  if (error != cudaSuccess) return error;
  if (index >= kDevices) return readDevice(index, device);
  const std::lock_guard<std::mutex> lock(mutex);
  Device& entry = known[index];
  if (entry.compute_capability == 0) {
    Device read{};
    error = readDevice(index, &read);
    if (error != cudaSuccess) return error;
    entry = read;
  }
  *device = entry;
  return cudaSuccess;
}

cudaError_t prepare(const Problem& problem, Tactic tactic, const Device& device) {
  if (!canImplement(problem, tactic, device)) return cudaErrorInvalidValue;
  const Tactic chosen = tactic == Tactic::kHeuristic ? choose(problem, device) : tactic;
  // Which of the portable kernels runs depends on the operands' alignment, and so does whether the
  // heuristic's choice runs at all.
  std::array<Tactic, 2> needed{chosen, tactic == Tactic::kHeuristic ? Tactic::kPortable : chosen};
  Problem one = problem;
  one.batch = 1;
  for (const Tactic each : needed) {
    for (const uintptr_t address : {uintptr_t{16}, uintptr_t{1}}) {
      void* pointer = reinterpret_cast<void*>(address);
      const LaunchPlan plan(one, {pointer, pointer, pointer, nullptr, pointer}, each);
      KernelFunction function;
      const cudaError_t error = kernels().require(plan.at(0), &function);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

cudaError_t launch(const Problem& problem, const Operands& operands, Tactic tactic,
                   const Device& device, cudaStream_t stream) {
  if (!canImplement(problem, tactic, device)) return cudaErrorInvalidValue;
  if (problem.batch == 0) return cudaSuccess;
  if (!operands.query || !operands.key || !operands.value || !operands.output) {
    return cudaErrorInvalidValue;
  }
  if (tactic == Tactic::kHeuristic) {
    tactic = aligned(operands) ? choose(problem, device) : Tactic::kPortable;
  }
  if (tactic != Tactic::kPortable && !aligned(operands)) return cudaErrorInvalidValue;
  const LaunchPlan plan(problem, operands, tactic);
  for (int64_t i = 0; i < plan.count(); ++i) {
    Launch part = plan.at(i);
    KernelFunction function;
    cudaError_t error = kernels().require(part, &function);
    if (error != cudaSuccess) return error;
    void* arguments[] = {part.parameters()};
    error = cudaLaunchKernel(entryOf(function), dim3(part.blocks), dim3(part.threads), arguments,
                             part.shared_bytes, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace dinat::cuda

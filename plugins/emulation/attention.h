// The CUDA kernels and their launch plan, run by the emulation.
#pragma once

#include <cstdint>
#include <string>

#include "common/problem.h"
#include "emulation/scheduler.h"
#include "kernels/dispatch.h"
#include "kernels/launch_plan.h"

namespace dinat::emulation {

// A GPU of compute capability `compute_capability` (87 for 8.7) as dispatch sees it.
cuda::Device deviceOf(int32_t compute_capability);

// What the emulation pretends to be where nothing else is said: the largest shared memory.
constexpr int32_t kComputeCapability = 90;

// Computes the problem as the runner would on a device of kComputeCapability. Returns what is wrong
// with the problem, the tactic or the kernel, as a sentence; empty if nothing is. Operands must be
// readable, and the output writable, over exactly what the problem's sizes and strides span.
std::string attention(const Problem& problem, const Operands& operands, cuda::Tactic tactic,
                      uint64_t seed, const cuda::LaunchLimits& limits, Statistics& statistics);

}  // namespace dinat::emulation

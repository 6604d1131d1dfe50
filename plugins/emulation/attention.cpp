#include "emulation/attention.h"

#include "emulation/failure.h"
#include "emulation/launch.h"
#include "kernels/kernel_table.h"

namespace dinat::emulation {
namespace {

using cuda::Launch;
using cuda::Tactic;

// Bytes from the first to behind the last element that the strides reach.
size_t span(const Problem& problem, const Strides& strides) {
  const int64_t last = (problem.batch - 1) * strides.batch +
                       int64_t{problem.size[0] - 1} * strides.row +
                       int64_t{problem.size[1] - 1} * strides.column +
                       int64_t{problem.heads - 1} * strides.head + problem.head_dim;
  return static_cast<size_t>(last * elementSize(problem.type));
}

GlobalMemory memoryOf(const Problem& problem, const Operands& operands) {
  GlobalMemory global;
  global.allow("the query", operands.query, span(problem, problem.input), false);
  global.allow("the key", operands.key, span(problem, problem.input), false);
  global.allow("the value", operands.value, span(problem, problem.input), false);
  if (operands.rpb != nullptr) {
    const int64_t entries = int64_t{problem.heads} * (2 * problem.kernel_size[0] - 1) *
                            (2 * problem.kernel_size[1] - 1);
    global.allow("rpb", operands.rpb, static_cast<size_t>(entries * elementSize(problem.type)),
                 false);
  }
  global.allow("the output", operands.output, span(problem, problem.output), true);
  return global;
}

void run(const Launch& launched, const GlobalMemory& global, uint64_t seed,
         Statistics& statistics) {
  const cuda::KernelFunction function = cuda::findKernel(launched.kernel);
  if (function == nullptr) fail("there is no such kernel in this build");
  const Grid grid{{launched.blocks, 1, 1}, launched.threads, launched.shared_bytes};
  launch(grid, global, seed, statistics, [&] {
    if (launched.kernel.family == cuda::Family::kPortable) {
      reinterpret_cast<void (*)(cuda::PortableParameters)>(function)(launched.portable);
    } else {
      reinterpret_cast<void (*)(cuda::TileParameters)>(function)(launched.tile);
    }
  });
}

}  // namespace

cuda::Device deviceOf(int32_t compute_capability) {
  int32_t kilobytes = 227;  // 9.0, 10.x, 11.x
  if (compute_capability < 80) {
    kilobytes = 64;
  } else if (compute_capability == 80 || compute_capability == 87) {
    kilobytes = 163;
  } else if (compute_capability < 90 || compute_capability >= 120) {
    kilobytes = 99;
  }
  return {compute_capability, 16, kilobytes * 1024};
}

std::string attention(const Problem& problem, const Operands& operands, Tactic tactic,
                      uint64_t seed, const cuda::LaunchLimits& limits, Statistics& statistics) {
  const std::string fault = faultOf(problem);
  if (!fault.empty()) return fault;
  const cuda::Device device = deviceOf(kComputeCapability);
  if (!cuda::canImplement(problem, tactic, device)) {
    return std::string("the tactic ") + cuda::name(tactic) + " cannot compute this problem";
  }
  if (problem.batch == 0) return "";
  if (tactic == Tactic::kHeuristic) {
    tactic = cuda::aligned(operands) ? cuda::choose(problem, device) : Tactic::kPortable;
  }
  try {
    const GlobalMemory global = memoryOf(problem, operands);
    const cuda::LaunchPlan plan(problem, operands, tactic, limits);
    for (int64_t index = 0; index < plan.count(); ++index) {
      run(plan.at(index), global, seed + static_cast<uint64_t>(index), statistics);
    }
  } catch (const Failure& failure) {
    return failure.what();
  }
  return "";
}

}  // namespace dinat::emulation

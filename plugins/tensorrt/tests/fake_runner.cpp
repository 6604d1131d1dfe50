#include "fake_runner.h"

#include <algorithm>

#include "common/window.h"

namespace dinat::fake {

Gpu& gpu() {
  static Gpu instance;
  return instance;
}

}  // namespace dinat::fake

namespace dinat::cuda {

const char* name(Tactic tactic) {
  constexpr const char* kNames[] = {"heuristic", "portable", "tile4", "tile8", "tile16", "group"};
  return kNames[static_cast<int32_t>(tactic)];
}

cudaError_t currentDevice(Device* device) {
  ++fake::gpu().questions;
  *device = {80, 108, 166912};
  return fake::gpu().device_status;
}

// Tensor cores for 16-bit types; kGroup where a whole group fits a tile, as in the real runner.
bool canImplement(const Problem& problem, Tactic tactic, const Device&) {
  ++fake::gpu().questions;
  const bool fits = groupLength(problem.size[0], 0, problem.dilation[0]) <= 8 &&
                    groupLength(problem.size[1], 0, problem.dilation[1]) <= 8;
  switch (tactic) {
    case Tactic::kHeuristic:
    case Tactic::kPortable:
      return true;
    case Tactic::kTile8:
      return problem.type != DataType::kFloat32;
    case Tactic::kGroup:
      return problem.type != DataType::kFloat32 && fits;
    default:
      return false;
  }
}

std::vector<Tactic> tactics(const Problem& problem, const Device& device) {
  std::vector<Tactic> can;
  for (const Tactic tactic : {Tactic::kPortable, Tactic::kTile8, Tactic::kGroup}) {
    if (canImplement(problem, tactic, device)) can.push_back(tactic);
  }
  return can;
}

Tactic choose(const Problem& problem, const Device& device) {
  return tactics(problem, device).back();
}

cudaError_t prepare(const Problem&, Tactic tactic, const Device&) {
  ++fake::gpu().questions;
  fake::gpu().prepared.push_back(static_cast<int32_t>(tactic));
  return fake::gpu().prepare_status;
}

cudaError_t launch(const Problem& problem, const Operands& operands, Tactic tactic, const Device&,
                   cudaStream_t stream) {
  const std::vector<int32_t>& prepared = fake::gpu().prepared;
  const int32_t number = static_cast<int32_t>(tactic);
  if (std::find(prepared.begin(), prepared.end(), number) == prepared.end()) {
    return cudaErrorInvalidValue;
  }
  fake::gpu().launches.push_back({problem, operands, number, stream});
  return fake::gpu().launch_status;
}

}  // namespace dinat::cuda

extern "C" const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorNoKernelImageForDevice ? "no kernel image is available" : "an error";
}

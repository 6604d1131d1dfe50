// The C interface of the CUDA kernels, computed by the definition on the CPU: lets the binding, the
// benchmark's contestants and the sanitizer program be tested where there is no GPU.
//
// DINAT_STAND_IN_BUG=1 makes tactic 2 leave its last value unwritten.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "common/problem.h"
#include "cpu/attention.h"

#define DINAT_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kInvalidValue = 1;
const char* const kNames[] = {"heuristic", "portable", "tile4"};

int last(const dinat::Problem& problem) {
  return problem.type == dinat::DataType::kFloat32 ? 1 : 2;
}

}  // namespace

DINAT_EXPORT int dinat_cuda_tactics(const dinat::Problem* problem, int* out, int capacity) {
  if (!dinat::faultOf(*problem).empty()) return 0;
  int count = 0;
  for (int tactic = 1; tactic <= last(*problem) && count < capacity; ++tactic) {
    out[count++] = tactic;
  }
  return count;
}

DINAT_EXPORT int dinat_cuda_attention(const dinat::Problem* problem,
                                      const dinat::Operands* operands, int tactic, void*) {
  if (!dinat::faultOf(*problem).empty() || tactic < 0 || tactic > last(*problem)) {
    return kInvalidValue;
  }
  const dinat::Strides& strides = problem->output;
  char* end = static_cast<char*>(operands->output) +
              dinat::elementSize(problem->type) *
                  ((problem->batch - 1) * strides.batch + (problem->size[0] - 1) * strides.row +
                   (problem->size[1] - 1) * strides.column + (problem->heads - 1) * strides.head +
                   problem->head_dim - 1);
  std::vector<char> before(end, end + dinat::elementSize(problem->type));
  dinat::cpu::reference(*problem, *operands);
  if (tactic == 2 && std::getenv("DINAT_STAND_IN_BUG")) {
    std::memcpy(end, before.data(), before.size());
  }
  return 0;
}

DINAT_EXPORT const char* dinat_cuda_tactic_name(int tactic) {
  return tactic >= 0 && tactic <= 2 ? kNames[tactic] : "unknown";
}

DINAT_EXPORT const char* dinat_cuda_error(int code) {
  return code == kInvalidValue ? "invalid argument" : "no error";
}

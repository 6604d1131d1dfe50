#include "cpu/isa.h"

#include <cstdlib>
#include <cstring>

namespace dinat::cpu {
namespace {

constexpr Isa kWidestFirst[] = {Isa::kAvx512, Isa::kAvx2, Isa::kNeon, Isa::kScalar};

Isa detect() {
  const char* wish = std::getenv("DINAT_CPU_ISA");
  for (const Isa isa : kWidestFirst) {
    if (wish && std::strcmp(wish, name(isa)) == 0 && supported(isa)) return isa;
  }
  for (const Isa isa : kWidestFirst) {
    if (supported(isa)) return isa;
  }
  return Isa::kScalar;
}

}  // namespace

const char* name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kNeon:
      return "neon";
  }
  return "unknown";
}

bool supported(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return true;
#if defined(__x86_64__)
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    case Isa::kAvx512:
      return supported(Isa::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
#elif defined(__aarch64__)
    case Isa::kNeon:
      return true;
#endif
    default:
      return false;
  }
}

const Kernel& kernelOf(Isa isa) {
  if (!supported(isa)) return kScalarKernel;
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2:
      return kAvx2Kernel;
    case Isa::kAvx512:
      return kAvx512Kernel;
#elif defined(__aarch64__)
    case Isa::kNeon:
      return kNeonKernel;
#endif
    default:
      return kScalarKernel;
  }
}

Isa bestIsa() {
  static const Isa best = detect();
  return best;
}

}  // namespace dinat::cpu

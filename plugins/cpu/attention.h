// Neighborhood attention on the CPU: AVX-512, AVX2 or NEON where the machine has it, else scalar.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "common/problem.h"

namespace dinat::cpu {

// Runs `task(i)` for every i in [0, count), in any order, possibly on several threads.
using ParallelFor = std::function<void(size_t count, const std::function<void(size_t)>& task)>;

enum class Isa { kScalar, kAvx2, kAvx512, kNeon };

const char* name(Isa isa);

// The widest that this CPU and this build have; the environment variable DINAT_CPU_ISA
// (scalar, avx2, avx512, neon) lowers it.
Isa bestIsa();

// A problem prepared for repeated runs: index tables by shape, no tensor contents. Thread-safe.
class Attention {
 public:
  // The problem must be valid (`faultOf` empty).
  explicit Attention(const Problem& problem, Isa isa = bestIsa());
  ~Attention();
  Attention(const Attention&) = delete;
  Attention& operator=(const Attention&) = delete;

  void run(const Operands& operands, const ParallelFor& parallel_for) const;

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

// The definition, term by term, in double precision: what the kernels are tested against.
void reference(const Problem& problem, const Operands& operands);

}  // namespace dinat::cpu

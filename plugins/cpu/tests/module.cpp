// The CPU kernel behind a C interface, for tests and benchmarks in Python (tests/plugins).

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "common/problem.h"
#include "cpu/attention.h"
#include "cpu/isa.h"

#define DINAT_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using dinat::Operands;
using dinat::Problem;
using dinat::cpu::Isa;

// Tasks in reverse on one thread, or shared between several.
dinat::cpu::ParallelFor parallelFor(int threads) {
  return [threads](size_t count, const std::function<void(size_t)>& task) {
    std::atomic<size_t> left{count};
    const auto work = [&] {
      for (size_t now = left.load(); now != 0;) {
        if (left.compare_exchange_weak(now, now - 1)) task(now - 1);
      }
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
  };
}

double secondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

// Whether this machine and build have the kernels of `isa` (dinat::cpu::Isa).
DINAT_EXPORT int dinat_cpu_supports(int isa) {
  return dinat::cpu::supported(static_cast<Isa>(isa)) ? 1 : 0;
}

// Computes the problem; returns 0, or 1 after writing why not to `fault` (256 characters).
DINAT_EXPORT int dinat_cpu_attention(const Problem* problem, const Operands* operands, int isa,
                                     int threads, char* fault) {
  const std::string wrong = dinat::faultOf(*problem);
  if (!wrong.empty()) {
    std::snprintf(fault, 256, "%s", wrong.c_str());
    return 1;
  }
  const dinat::cpu::Attention attention(*problem, static_cast<Isa>(isa));
  attention.run(*operands, parallelFor(threads));
  return 0;
}

// Seconds of the fastest of `rounds` runs on the calling thread, planning excluded.
DINAT_EXPORT double dinat_cpu_time(const Problem* problem, const Operands* operands, int isa,
                                   int rounds) {
  const dinat::cpu::Attention attention(*problem, static_cast<Isa>(isa));
  double best = 1e30;
  for (int round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    attention.run(*operands, parallelFor(1));
    best = std::min(best, secondsSince(start));
  }
  return best;
}

DINAT_EXPORT void dinat_cpu_reference(const Problem* problem, const Operands* operands) {
  dinat::cpu::reference(*problem, *operands);
}

// Fused multiply-adds that all threads together do in a second, counted as two operations each.
DINAT_EXPORT double dinat_cpu_peak(int isa, int threads, double seconds) {
  const dinat::cpu::Kernel& kernel = dinat::cpu::kernelOf(static_cast<Isa>(isa));
  std::atomic<int> ready{0};
  std::vector<double> rates(threads);
  const auto work = [&](int thread) {
    ready.fetch_add(1);
    while (ready.load() < threads) std::this_thread::yield();
    const auto start = std::chrono::steady_clock::now();
    double operations = 0.0, elapsed = 0.0;
    while (elapsed < seconds) {
      float result = 0.5f;
      operations += kernel.multiply(100000, &result);
      elapsed = secondsSince(start);
      if (result == 0.0f) elapsed = -1.0;  // never; keeps the loop alive
    }
    rates[thread] = operations / elapsed;
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
  work(0);
  for (std::thread& other : others) other.join();
  double total = 0.0;
  for (double rate : rates) total += rate;
  return total;
}

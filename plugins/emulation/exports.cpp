// The emulation behind a C interface, for tests in Python (tests/plugins/emulator.py).

#include <string>

#include "emulation/attention.h"

#define DINAT_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using dinat::Operands;
using dinat::Problem;
using dinat::cuda::LaunchLimits;
using dinat::cuda::Tactic;

thread_local std::string latest_message;
thread_local dinat::emulation::Statistics latest_statistics;

const char* attention(const Problem* problem, const Operands* operands, int tactic, unsigned seed,
                      const LaunchLimits& limits) {
  latest_statistics = {};
  latest_message = dinat::emulation::attention(*problem, *operands, static_cast<Tactic>(tactic),
                                               seed, limits, latest_statistics);
  return latest_message.empty() ? nullptr : latest_message.c_str();
}

}  // namespace

// Computes the problem; null, or what went wrong, valid until the thread's next call.
DINAT_EXPORT const char* dinat_emulated_attention(const Problem* problem, const Operands* operands,
                                                  int tactic, unsigned seed) {
  return attention(problem, operands, tactic, seed, {});
}

// The same in launches of at most `blocks` blocks and `items` work items of the portable kernel.
DINAT_EXPORT const char* dinat_emulated_attention_in_parts(const Problem* problem,
                                                           const Operands* operands, int tactic,
                                                           unsigned seed, int64_t blocks,
                                                           int64_t items) {
  return attention(problem, operands, tactic, seed, {blocks, items});
}

DINAT_EXPORT int dinat_emulated_can_implement(const Problem* problem, int tactic,
                                              int compute_capability) {
  return dinat::cuda::canImplement(*problem, static_cast<Tactic>(tactic),
                                   dinat::emulation::deviceOf(compute_capability));
}

// Bytes of shared memory of a block.
DINAT_EXPORT int dinat_emulated_shared_bytes(const Problem* problem, int tactic) {
  return dinat::cuda::sharedBytes(*problem, static_cast<Tactic>(tactic));
}

// Of the thread's latest call.
DINAT_EXPORT void dinat_emulated_statistics(dinat::emulation::Statistics* statistics) {
  *statistics = latest_statistics;
}

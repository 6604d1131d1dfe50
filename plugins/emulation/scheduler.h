// Runs one block of CUDA threads on one CPU thread: every CUDA thread is a fiber.
//
// Fibers run until they reach a barrier, a warp collective or their end. The order is adversarial:
// one warp at a time runs up to its next barrier, lanes in random order, so that a kernel which
// lacks a barrier meets data that is not there yet.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "emulation/memory.h"
#include "emulation/random.h"

namespace dinat::emulation {

constexpr unsigned kWarp = 32;

struct Index {
  unsigned x = 0;
  unsigned y = 0;
  unsigned z = 0;
};

class Block;

// What the lanes of a warp do together. `arguments[lane]` is what each passed to `Block::join`,
// `first` the thread number of lane 0.
struct Collective {
  const char* name;
  void (*execute)(Block& block, unsigned first, void* const (&arguments)[kWarp]);
};

// Events over all blocks of a launch.
struct Statistics {
  uint64_t blocks = 0;
  uint64_t barriers = 0;
  uint64_t collectives = 0;
  uint64_t products = 0;        // warp-wide multiply-accumulates
  uint64_t matrix_loads = 0;    // ldmatrix of four 8 x 8 matrices
  uint64_t bank_conflicts = 0;  // extra passes that those need
  uint64_t copies = 0;          // 16-byte asynchronous copies
};

class Block {
 public:
  // `threads` must be a multiple of a warp. `global` and `statistics` must outlive the block.
  Block(unsigned threads, size_t shared_bytes, const GlobalMemory& global, uint64_t seed,
        Statistics& statistics);
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // Runs `kernel` in every thread to its end. Throws Failure.
  void run(Index index, const std::function<void()>& kernel);

  // The block that the calling fiber belongs to.
  static Block& current();

  // For the device interface, called in fibers.
  unsigned thread() const { return running_; }
  unsigned threads() const { return static_cast<unsigned>(fibers_.size()); }
  Index index() const { return index_; }
  SharedMemory& shared() { return shared_; }
  const GlobalMemory& global() const { return global_; }
  Statistics& statistics() { return statistics_; }
  CopyQueue& copies() { return copies_[running_]; }
  bool copyAtOnce() { return eager_ && random_.below(2) == 0; }
  void synchronize();
  void join(const Collective& collective, void* argument);

 private:
  enum class State { kReady, kCollective, kBarrier, kEnded };
  struct Fiber;

  static void enter();
  void start(unsigned thread);
  void resume(unsigned thread);
  void suspend(State state);
  void runWarp(unsigned first);
  bool meet(unsigned first);
  [[noreturn]] void failMeeting(unsigned first);
  std::string describe(const Fiber& fiber) const;

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<CopyQueue> copies_;
  std::vector<unsigned> warps_;
  std::vector<unsigned> lanes_;
  SharedMemory shared_;
  const GlobalMemory& global_;
  Random random_;
  Statistics& statistics_;
  Index index_;
  const std::function<void()>* kernel_ = nullptr;
  unsigned running_ = 0;
  bool eager_ = false;
  std::string failure_;
  bool failed_ = false;
  std::jmp_buf scheduler_;
  void* scheduler_stack_ = nullptr;  // for AddressSanitizer
  const void* scheduler_bottom_ = nullptr;
  size_t scheduler_bytes_ = 0;
};

}  // namespace dinat::emulation

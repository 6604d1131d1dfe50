// longjmp between stacks is what fibers are; the fortified one refuses it.
#undef _FORTIFY_SOURCE
#define _FORTIFY_SOURCE 0

#include "emulation/scheduler.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <exception>
#include <new>

#include "emulation/failure.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace dinat::emulation {
namespace {

constexpr size_t kStack = 256 * 1024;
constexpr size_t kPage = 4096;

thread_local Block* current_block = nullptr;

// A fiber's stack; touching the page below it is a segmentation fault.
class Stack {
 public:
  Stack() {
    memory_ = mmap(nullptr, kStack + kPage, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory_, kPage, PROT_NONE);
  }
  ~Stack() {
    unpoison();
    munmap(memory_, kStack + kPage);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  void* bottom() const { return static_cast<char*>(memory_) + kPage; }

  // Frames that were left without returning keep their red zones.
  void unpoison() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(bottom(), kStack);
#endif
  }

 private:
  void* memory_;
};

void beginSwitch([[maybe_unused]] void** own_stack, [[maybe_unused]] const void* bottom,
                 [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(own_stack, bottom, bytes);
#endif
}

void endSwitch([[maybe_unused]] void* own_stack, [[maybe_unused]] const void** left_bottom,
               [[maybe_unused]] size_t* left_bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(own_stack, left_bottom, left_bytes);
#endif
}

}  // namespace

struct Block::Fiber {
  Stack stack;
  ucontext_t context;
  std::jmp_buf jump;
  void* sanitizer_stack = nullptr;
  State state = State::kEnded;
  bool entered = false;
  const Collective* collective = nullptr;
  void* argument = nullptr;
};

Block::Block(unsigned threads, size_t shared_bytes, const GlobalMemory& global, uint64_t seed,
             Statistics& statistics)
    : copies_(threads),
      shared_(shared_bytes),
      global_(global),
      random_(seed),
      statistics_(statistics) {
  if (threads == 0 || threads % kWarp != 0) {
    fail("a block of ", threads, " threads; the emulation runs whole warps of 32");
  }
  for (unsigned thread = 0; thread < threads; ++thread) {
    fibers_.push_back(std::make_unique<Fiber>());
  }
  for (unsigned first = 0; first < threads; first += kWarp) warps_.push_back(first);
  for (unsigned lane = 0; lane < kWarp; ++lane) lanes_.push_back(lane);
}

Block::~Block() = default;

Block& Block::current() {
  if (current_block == nullptr) fail("a device function was called outside an emulated launch");
  return *current_block;
}

void Block::run(Index index, const std::function<void()>& kernel) {
  index_ = index;
  kernel_ = &kernel;
  failed_ = false;
  eager_ = random_.below(2) == 0;
  shared_.reset();
  for (unsigned thread = 0; thread < threads(); ++thread) start(thread);
  struct Current {
    explicit Current(Block* block) { current_block = block; }
    ~Current() { current_block = nullptr; }
  } current(this);
  while (true) {
    random_.shuffle(warps_);
    for (unsigned first : warps_) runWarp(first);
    unsigned waiting = 0;
    const Fiber* example[2] = {nullptr, nullptr};
    unsigned number[2] = {0, 0};
    for (unsigned thread = 0; thread < threads(); ++thread) {
      const bool at_barrier = fibers_[thread]->state == State::kBarrier;
      waiting += at_barrier;
      example[at_barrier] = fibers_[thread].get();
      number[at_barrier] = thread;
    }
    if (waiting == 0) break;
    if (waiting < threads()) {
      fail("deadlock in block ", index.x, ",", index.y, ",", index.z, ": ", waiting, " of ",
           threads(), " threads wait at a barrier (thread ", number[1], " among them), thread ",
           number[0], " ", describe(*example[0]));
    }
    for (auto& fiber : fibers_) fiber->state = State::kReady;
    shared_.passBarrier();
    ++statistics_.barriers;
  }
  for (unsigned thread = 0; thread < threads(); ++thread) {
    if (!copies_[thread].empty()) {
      fail("thread ", thread, " ended with asynchronous copies that it never waited for");
    }
  }
  shared_.checkGuard();
  ++statistics_.blocks;
}

void Block::start(unsigned thread) {
  Fiber& fiber = *fibers_[thread];
  fiber.stack.unpoison();
  copies_[thread].reset();
  fiber.state = State::kReady;
  fiber.entered = false;
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.bottom();
  fiber.context.uc_stack.ss_size = kStack;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, &Block::enter, 0);
}

// The first function of every fiber. It never returns: the scheduler leaves the fiber behind.
void Block::enter() {
  Block& block = *current_block;
  endSwitch(nullptr, &block.scheduler_bottom_, &block.scheduler_bytes_);
  try {
    (*block.kernel_)();
  } catch (const std::exception& error) {
    block.failure_ = error.what();
    block.failed_ = true;
  }
  block.suspend(State::kEnded);
}

// ucontext makes the stacks; switching is by setjmp and longjmp, which spare the two system calls
// of swapcontext.
__attribute__((noinline)) void Block::resume(unsigned thread) {
  running_ = thread;
  Fiber& fiber = *fibers_[thread];
  beginSwitch(&scheduler_stack_, fiber.stack.bottom(), kStack);
  if (_setjmp(scheduler_) == 0) {
    if (fiber.entered) _longjmp(fiber.jump, 1);
    fiber.entered = true;
    setcontext(&fiber.context);
  }
  endSwitch(current_block->scheduler_stack_, nullptr, nullptr);
}

__attribute__((noinline)) void Block::suspend(State state) {
  Fiber& fiber = *fibers_[running_];
  fiber.state = state;
  beginSwitch(state == State::kEnded ? nullptr : &fiber.sanitizer_stack, scheduler_bottom_,
              scheduler_bytes_);
  if (_setjmp(fiber.jump) == 0) _longjmp(scheduler_, 1);
  Block& block = *current_block;
  endSwitch(block.fibers_[block.running_]->sanitizer_stack, &block.scheduler_bottom_,
            &block.scheduler_bytes_);
}

// Lets a warp run until all its threads wait at a barrier or have ended.
void Block::runWarp(unsigned first) {
  do {
    random_.shuffle(lanes_);
    for (unsigned lane : lanes_) {
      if (fibers_[first + lane]->state != State::kReady) continue;
      resume(first + lane);
      if (failed_) {
        fail(failure_, " (thread ", first + lane, " of block ", index_.x, ",", index_.y, ",",
             index_.z, ")");
      }
    }
  } while (meet(first));
}

// If the warp's lanes are at a collective, executes it and makes them ready.
bool Block::meet(unsigned first) {
  void* arguments[kWarp];
  const Collective* collective = fibers_[first]->collective;
  unsigned present = 0;
  bool same = true;
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const Fiber& fiber = *fibers_[first + lane];
    const bool at_collective = fiber.state == State::kCollective;
    present += at_collective;
    same = same && at_collective && fiber.collective == collective;
    arguments[lane] = fiber.argument;
  }
  if (present == 0) return false;
  if (!same) failMeeting(first);
  collective->execute(*this, first, arguments);
  ++statistics_.collectives;
  for (unsigned lane = 0; lane < kWarp; ++lane) fibers_[first + lane]->state = State::kReady;
  return true;
}

void Block::failMeeting(unsigned first) {
  const std::string one = describe(*fibers_[first]);
  for (unsigned lane = 1; lane < kWarp; ++lane) {
    const std::string other = describe(*fibers_[first + lane]);
    if (other != one) {
      fail("warp ", first / kWarp, " of block ", index_.x, ",", index_.y, ",", index_.z,
           " diverged at a collective: thread ", first, " ", one, ", thread ", first + lane, " ",
           other);
    }
  }
  fail("warp ", first / kWarp, " diverged at a collective");
}

std::string Block::describe(const Fiber& fiber) const {
  switch (fiber.state) {
    case State::kCollective:
      return std::string("is at ") + fiber.collective->name;
    case State::kBarrier:
      return "waits at a barrier";
    case State::kEnded:
      return "has ended";
    case State::kReady:
      break;
  }
  return "is ready";
}

void Block::synchronize() { suspend(State::kBarrier); }

void Block::join(const Collective& collective, void* argument) {
  Fiber& fiber = *fibers_[running_];
  fiber.collective = &collective;
  fiber.argument = argument;
  suspend(State::kCollective);
}

}  // namespace dinat::emulation

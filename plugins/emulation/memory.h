// The memory of an emulated block: shared memory with hazard tracking, asynchronous copies, and the
// ranges of global memory that a kernel may touch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "emulation/random.h"

namespace dinat::emulation {

// Shared memory in chunks of 16 bytes, the unit of ldmatrix rows and of asynchronous copies.
//
// Accesses through the device interface are checked: bounds, alignment, and that a barrier lies
// between what two threads do to the same chunk. Accesses through plain pointers are not seen; the
// NaN fill, the guard behind the end and the scheduler's order are there for those.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes);

  unsigned char* data() { return bytes_.get(); }
  size_t size() const { return size_; }

  // Fills everything with NaN (in any floating type) and forgets all hazards.
  void reset();

  // Offset of a pointer into this memory; fails for any other pointer.
  uint32_t offsetOf(const void* pointer) const;

  // Whether `thread` may read the chunk at `offset` now; fails if not. Returns its bytes.
  const unsigned char* read(uint32_t offset, unsigned thread, const char* operation);

  // `thread` starts an asynchronous copy into the chunk at `offset`.
  void beginCopy(uint32_t offset, unsigned thread);

  // The copy into the chunk has been waited for.
  void endCopy(uint32_t offset, unsigned thread);

  void passBarrier() { ++epoch_; }

  // Fails if something was written behind the end.
  void checkGuard() const;

 private:
  struct Chunk {
    int32_t writer = -1;
    int32_t reader = -1;
    uint32_t write_epoch = 0;
    uint32_t read_epoch = 0;
    bool pending = false;
    bool several_readers = false;
  };

  Chunk& chunkAt(uint32_t offset, unsigned thread, const char* operation);

  struct Free {
    void operator()(unsigned char* bytes) const;
  };

  size_t size_;
  std::unique_ptr<unsigned char, Free> bytes_;
  std::vector<Chunk> chunks_;
  uint32_t epoch_ = 0;
};

// The cp.async groups of one thread. Data arrives at the wait that covers it or, where `eager` says
// so at random, at once: hardware may do either.
class CopyQueue {
 public:
  void reset();
  void issue(SharedMemory& shared, unsigned thread, uint32_t offset, const void* global, bool valid,
             bool at_once);
  void commit();
  // Completes all but the newest `allowed` groups.
  void wait(SharedMemory& shared, unsigned thread, size_t allowed);
  bool empty() const { return groups_.empty() && open_.empty(); }

 private:
  struct Copy {
    uint32_t offset;
    const void* global;
    bool valid;
  };

  static void transfer(SharedMemory& shared, const Copy& copy);

  std::vector<Copy> open_;
  std::vector<std::vector<Copy>> groups_;
};

// What of global memory a kernel may read and write.
class GlobalMemory {
 public:
  void allow(const char* name, const void* begin, size_t bytes, bool writable);

  // Fails unless `bytes` at `pointer` lie in one allowed range and are aligned to `alignment`.
  void check(const void* pointer, size_t bytes, size_t alignment, bool write,
             const char* operation) const;

 private:
  struct Range {
    const char* name;
    uintptr_t begin;
    uintptr_t end;
    bool writable;
  };

  std::vector<Range> ranges_;
};

}  // namespace dinat::emulation

#include "emulation/memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "emulation/failure.h"

#if defined(__SANITIZE_ADDRESS__)
#define DINAT_GUARD 0  // AddressSanitizer's own red zone must begin where the memory ends
#else
#define DINAT_GUARD 256
#endif

namespace dinat::emulation {
namespace {

constexpr size_t kChunk = 16;
constexpr size_t kGuard = DINAT_GUARD;
constexpr unsigned char kPoison = 0xff;  // NaN as float16, bfloat16 and float32

}  // namespace

void SharedMemory::Free::operator()(unsigned char* bytes) const { std::free(bytes); }

SharedMemory::SharedMemory(size_t bytes) : size_(bytes), chunks_((bytes + kChunk - 1) / kChunk) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, size_ + kGuard) != 0) throw std::bad_alloc();
  bytes_.reset(static_cast<unsigned char*>(memory));
}

void SharedMemory::reset() {
  std::memset(bytes_.get(), kPoison, size_ + kGuard);
  chunks_.assign(chunks_.size(), Chunk{});
  epoch_ = 0;
}

uint32_t SharedMemory::offsetOf(const void* pointer) const {
  const auto base = reinterpret_cast<uintptr_t>(bytes_.get());
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (address < base || address > base + size_) {
    fail("a pointer that is not into the block's ", size_, " bytes of shared memory was converted");
  }
  return static_cast<uint32_t>(address - base);
}

SharedMemory::Chunk& SharedMemory::chunkAt(uint32_t offset, unsigned thread,
                                           const char* operation) {
  if (offset % kChunk != 0) {
    fail(operation, " of thread ", thread, " at shared address ", offset,
         ", which is not a multiple of 16");
  }
  if (offset > size_ || size_ - offset < kChunk) {
    fail(operation, " of thread ", thread, " at shared address ", offset, ", out of the block's ",
         size_, " bytes");
  }
  return chunks_[offset / kChunk];
}

const unsigned char* SharedMemory::read(uint32_t offset, unsigned thread, const char* operation) {
  Chunk& chunk = chunkAt(offset, thread, operation);
  if (chunk.pending) {
    fail(operation, " of thread ", thread, " at shared address ", offset, " reads what thread ",
         chunk.writer, " is still copying: a wait is missing");
  }
  const auto reader = static_cast<int32_t>(thread);
  if (chunk.writer >= 0 && chunk.writer != reader && chunk.write_epoch == epoch_) {
    fail(operation, " of thread ", thread, " at shared address ", offset, " reads what thread ",
         chunk.writer, " copied since the last barrier: a barrier is missing");
  }
  if (chunk.reader >= 0 && chunk.read_epoch == epoch_) {
    chunk.several_readers = chunk.several_readers || chunk.reader != reader;
  } else {
    chunk.several_readers = false;
  }
  chunk.reader = reader;
  chunk.read_epoch = epoch_;
  return bytes_.get() + offset;
}

void SharedMemory::beginCopy(uint32_t offset, unsigned thread) {
  Chunk& chunk = chunkAt(offset, thread, "cp.async");
  const auto writer = static_cast<int32_t>(thread);
  if (chunk.reader >= 0 && chunk.read_epoch == epoch_ &&
      (chunk.several_readers || chunk.reader != writer)) {
    fail("cp.async of thread ", thread, " at shared address ", offset, " overwrites what thread ",
         chunk.reader, " read since the last barrier: a barrier is missing");
  }
  if (chunk.writer >= 0 && chunk.writer != writer &&
      (chunk.pending || chunk.write_epoch == epoch_)) {
    fail("cp.async of thread ", thread, " at shared address ", offset, " overwrites what thread ",
         chunk.writer, " copied since the last barrier");
  }
  chunk.writer = writer;
  chunk.pending = true;
}

void SharedMemory::endCopy(uint32_t offset, unsigned thread) {
  Chunk& chunk = chunkAt(offset, thread, "cp.async");
  chunk.pending = false;
  chunk.write_epoch = epoch_;
}

void SharedMemory::checkGuard() const {
  for (size_t index = size_; index < size_ + kGuard; ++index) {
    if (bytes_.get()[index] != kPoison) {
      fail("a plain store wrote ", index - size_, " bytes behind the block's ", size_,
           " bytes of shared memory");
    }
  }
}

void CopyQueue::reset() {
  open_.clear();
  groups_.clear();
}

void CopyQueue::transfer(SharedMemory& shared, const Copy& copy) {
  unsigned char* target = shared.data() + copy.offset;
  if (copy.valid) {
    std::memcpy(target, copy.global, kChunk);
  } else {
    std::memset(target, 0, kChunk);
  }
}

void CopyQueue::issue(SharedMemory& shared, unsigned thread, uint32_t offset, const void* global,
                      bool valid, bool at_once) {
  shared.beginCopy(offset, thread);
  const Copy copy{offset, global, valid};
  if (at_once) transfer(shared, copy);
  open_.push_back(copy);
}

void CopyQueue::commit() {
  groups_.push_back(std::move(open_));
  open_.clear();
}

void CopyQueue::wait(SharedMemory& shared, unsigned thread, size_t allowed) {
  size_t completed = 0;
  for (; groups_.size() - completed > allowed; ++completed) {
    for (const Copy& copy : groups_[completed]) {
      transfer(shared, copy);
      shared.endCopy(copy.offset, thread);
    }
  }
  groups_.erase(groups_.begin(), groups_.begin() + static_cast<ptrdiff_t>(completed));
}

void GlobalMemory::allow(const char* name, const void* begin, size_t bytes, bool writable) {
  const auto address = reinterpret_cast<uintptr_t>(begin);
  ranges_.push_back({name, address, address + bytes, writable});
}

void GlobalMemory::check(const void* pointer, size_t bytes, size_t alignment, bool write,
                         const char* operation) const {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const Range* nearest = nullptr;
  uintptr_t distance = 0;
  for (const Range& range : ranges_) {
    if (write && !range.writable) continue;
    if (address >= range.begin && address + bytes <= range.end) {
      if (address % alignment != 0) {
        fail(operation, " of ", bytes, " bytes of ", range.name, ", misaligned by ",
             address % alignment, " bytes");
      }
      return;
    }
    const uintptr_t away = address < range.begin ? range.begin - address : address - range.begin;
    if (nearest == nullptr || away < distance) {
      nearest = &range;
      distance = away;
    }
  }
  if (nearest == nullptr) fail(operation, ": the kernel may not touch global memory this way");
  fail(operation, " of ", bytes, " bytes at byte ",
       static_cast<int64_t>(address) - static_cast<int64_t>(nearest->begin), " of ", nearest->name,
       ", which has ", nearest->end - nearest->begin);
}

}  // namespace dinat::emulation

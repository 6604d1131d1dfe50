// A CUDA driver without a GPU, for tests of dinat_run.
//
// It is stricter than a GPU: device addresses cannot be read by accident, and nothing that a stream
// is given happens before somebody waits for the stream. At the end it writes what was not freed to
// the file that STAND_IN_LEAKS names. STAND_IN_FAIL=FUNCTION makes a function fail.
#include "stand_in_cuda.h"

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kSuccess = 0;
constexpr int kInvalidValue = 1;
constexpr int kOutOfMemory = 2;
constexpr int kNoDevice = 100;
constexpr int kLaunchFailed = 719;
constexpr uintptr_t kDeviceBit = uintptr_t{1} << 63;  // no address of the host has it

std::map<uintptr_t, std::vector<uint8_t>> device_memory;
std::map<void*, size_t> host_memory;
int live_streams = 0;
int live_events = 0;
int retained_contexts = 0;
bool current_context = false;

struct ReportLeaks {
  ~ReportLeaks() {
    const char* const file = std::getenv("STAND_IN_LEAKS");
    if (file == nullptr) return;
    std::FILE* const out = std::fopen(file, "a");
    std::fprintf(out, "device=%zu host=%zu streams=%d events=%d contexts=%d\n",
                 device_memory.size(), host_memory.size(), live_streams, live_events,
                 retained_contexts);
    std::fclose(out);
  }
} report_leaks;

int number(const char* variable, int otherwise) {
  const char* const text = std::getenv(variable);
  return text == nullptr ? otherwise : std::atoi(text);
}

bool fails(const char* function) {
  const char* const failing = std::getenv("STAND_IN_FAIL");
  return failing != nullptr && std::strcmp(failing, function) == 0;
}

// Finds the block that holds an address, and the bytes behind it.
uint8_t* reach(uintptr_t address, size_t bytes) {
  auto block = device_memory.upper_bound(address);
  if (block == device_memory.begin()) return nullptr;
  --block;
  const size_t offset = address - block->first;
  if (offset > block->second.size() || block->second.size() - offset < bytes) return nullptr;
  return block->second.data() + offset;
}

}  // namespace

struct CUctx_st {};
struct CUstream_st {
  std::vector<std::function<void()>> work;
};
struct CUevent_st {
  std::chrono::steady_clock::time_point time;
  bool recorded = false;
};

EXPORT void standInEnqueue(CUstream_st* stream, std::function<void()> work) {
  stream->work.push_back(std::move(work));
}

EXPORT void* standInReach(void* device) {
  uint8_t* const found = reach(reinterpret_cast<uintptr_t>(device), 1);
  if (found == nullptr) {
    std::fprintf(stderr, "stand-in: %p is no device memory\n", device);
    std::abort();
  }
  return found;
}

EXPORT int cuInit(unsigned) { return number("STAND_IN_GPUS", 1) == 0 ? kNoDevice : kSuccess; }

EXPORT int cuDeviceGetCount(int* count) {
  *count = number("STAND_IN_GPUS", 1);
  return kSuccess;
}

EXPORT int cuDeviceGet(int* device, int index) {
  *device = index;
  return kSuccess;
}

EXPORT int cuDeviceGetName(char* name, int size, int) {
  std::snprintf(name, size, "Stand-in GPU");
  return kSuccess;
}

EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
  const int capability = number("STAND_IN_CAPABILITY", 89);
  if (attribute == 75) *value = capability / 10;
  if (attribute == 76) *value = capability % 10;
  return attribute == 75 || attribute == 76 ? kSuccess : kInvalidValue;
}

EXPORT int cuDevicePrimaryCtxRetain(CUctx_st** context, int) {
  static CUctx_st primary;
  *context = &primary;
  ++retained_contexts;
  return kSuccess;
}

EXPORT int cuDevicePrimaryCtxRelease_v2(int) {
  --retained_contexts;
  return kSuccess;
}

EXPORT int cuCtxSetCurrent(CUctx_st* context) {
  current_context = context != nullptr;
  return kSuccess;
}

EXPORT int cuMemAlloc_v2(uintptr_t* address, size_t bytes) {
  if (!current_context || bytes == 0) return kInvalidValue;
  if (fails("cuMemAlloc")) return kOutOfMemory;
  std::vector<uint8_t> memory(bytes, 0xA5);
  *address = reinterpret_cast<uintptr_t>(memory.data()) | kDeviceBit;
  device_memory.emplace(*address, std::move(memory));
  return kSuccess;
}

EXPORT int cuMemFree_v2(uintptr_t address) {
  return device_memory.erase(address) == 1 ? kSuccess : kInvalidValue;
}

EXPORT int cuMemAllocHost_v2(void** memory, size_t bytes) {
  if (!current_context || bytes == 0) return kInvalidValue;
  *memory = std::malloc(bytes);
  std::memset(*memory, 0x5A, bytes);
  host_memory.emplace(*memory, bytes);
  return kSuccess;
}

EXPORT int cuMemFreeHost(void* memory) {
  if (host_memory.erase(memory) != 1) return kInvalidValue;
  std::free(memory);
  return kSuccess;
}

EXPORT int cuMemcpyHtoDAsync_v2(uintptr_t to, const void* from, size_t bytes, CUstream_st* stream) {
  uint8_t* const memory = reach(to, bytes);
  if (memory == nullptr) return kInvalidValue;
  standInEnqueue(stream, [=] { std::memcpy(memory, from, bytes); });
  return kSuccess;
}

EXPORT int cuMemcpyDtoHAsync_v2(void* to, uintptr_t from, size_t bytes, CUstream_st* stream) {
  const uint8_t* const memory = reach(from, bytes);
  if (memory == nullptr) return kInvalidValue;
  standInEnqueue(stream, [=] { std::memcpy(to, memory, bytes); });
  return kSuccess;
}

EXPORT int cuStreamCreate(CUstream_st** stream, unsigned) {
  if (fails("cuStreamCreate")) return kOutOfMemory;
  *stream = new CUstream_st;
  ++live_streams;
  return kSuccess;
}

EXPORT int cuStreamDestroy_v2(CUstream_st* stream) {
  delete stream;
  --live_streams;
  return kSuccess;
}

EXPORT int cuStreamSynchronize(CUstream_st* stream) {
  if (fails("cuStreamSynchronize")) return kLaunchFailed;
  for (const auto& work : stream->work) work();
  stream->work.clear();
  return kSuccess;
}

EXPORT int cuEventCreate(CUevent_st** event, unsigned) {
  *event = new CUevent_st;
  ++live_events;
  return kSuccess;
}

EXPORT int cuEventDestroy_v2(CUevent_st* event) {
  delete event;
  --live_events;
  return kSuccess;
}

EXPORT int cuEventRecord(CUevent_st* event, CUstream_st* stream) {
  event->recorded = false;
  standInEnqueue(stream, [=] {
    event->time = std::chrono::steady_clock::now();
    event->recorded = true;
  });
  return kSuccess;
}

EXPORT int cuEventElapsedTime(float* milliseconds, CUevent_st* first, CUevent_st* second) {
  if (!first->recorded || !second->recorded) return kInvalidValue;
  *milliseconds = std::chrono::duration<float, std::milli>(second->time - first->time).count();
  return kSuccess;
}

EXPORT int cuGetErrorString(int status, const char** text) {
  *text = status == kOutOfMemory    ? "out of memory"
          : status == kLaunchFailed ? "unspecified launch failure"
                                    : "invalid argument";
  return kSuccess;
}

#include "cuda.h"

#include <dlfcn.h>

#include <utility>

#include "error.h"

namespace dinat {
namespace {

constexpr int kSuccess = 0;
constexpr int kOutOfMemory = 2;
constexpr int kNoDevice = 100;
constexpr unsigned kNonBlocking = 1;  // streams need not wait for the default stream
constexpr int kCapabilityMajor = 75;
constexpr int kCapabilityMinor = 76;

}  // namespace

// A device address is an integer of the host's width in the driver's interface.
struct Driver {
  int (*cuInit)(unsigned);
  int (*cuDeviceGetCount)(int*);
  int (*cuDeviceGet)(int*, int);
  int (*cuDeviceGetName)(char*, int, int);
  int (*cuDeviceGetAttribute)(int*, int, int);
  int (*cuDevicePrimaryCtxRetain)(CUctx_st**, int);
  int (*cuDevicePrimaryCtxRelease)(int);
  int (*cuCtxSetCurrent)(CUctx_st*);
  int (*cuMemAlloc)(uintptr_t*, size_t);
  int (*cuMemFree)(uintptr_t);
  int (*cuMemAllocHost)(void**, size_t);
  int (*cuMemFreeHost)(void*);
  int (*cuMemcpyHtoDAsync)(uintptr_t, const void*, size_t, CUstream_st*);
  int (*cuMemcpyDtoHAsync)(void*, uintptr_t, size_t, CUstream_st*);
  int (*cuStreamCreate)(CUstream_st**, unsigned);
  int (*cuStreamDestroy)(CUstream_st*);
  int (*cuStreamSynchronize)(CUstream_st*);
  int (*cuEventCreate)(CUevent_st**, unsigned);
  int (*cuEventDestroy)(CUevent_st*);
  int (*cuEventRecord)(CUevent_st*, CUstream_st*);
  int (*cuEventElapsedTime)(float*, CUevent_st*, CUevent_st*);
  int (*cuGetErrorString)(int, const char**);

  Driver() {
    void* const library = dlopen("libcuda.so.1", RTLD_NOW);  // stays loaded
    if (library == nullptr) {
      throw Error(std::string("This needs an NVIDIA GPU and its driver, which is not here: ") +
                      dlerror() + ".",
                  "Run it on a machine with a GPU.");
    }
    load(library, "cuInit", cuInit);
    load(library, "cuDeviceGetCount", cuDeviceGetCount);
    load(library, "cuDeviceGet", cuDeviceGet);
    load(library, "cuDeviceGetName", cuDeviceGetName);
    load(library, "cuDeviceGetAttribute", cuDeviceGetAttribute);
    load(library, "cuDevicePrimaryCtxRetain", cuDevicePrimaryCtxRetain);
    load(library, "cuDevicePrimaryCtxRelease_v2", cuDevicePrimaryCtxRelease);
    load(library, "cuCtxSetCurrent", cuCtxSetCurrent);
    load(library, "cuMemAlloc_v2", cuMemAlloc);
    load(library, "cuMemFree_v2", cuMemFree);
    load(library, "cuMemAllocHost_v2", cuMemAllocHost);
    load(library, "cuMemFreeHost", cuMemFreeHost);
    load(library, "cuMemcpyHtoDAsync_v2", cuMemcpyHtoDAsync);
    load(library, "cuMemcpyDtoHAsync_v2", cuMemcpyDtoHAsync);
    load(library, "cuStreamCreate", cuStreamCreate);
    load(library, "cuStreamDestroy_v2", cuStreamDestroy);
    load(library, "cuStreamSynchronize", cuStreamSynchronize);
    load(library, "cuEventCreate", cuEventCreate);
    load(library, "cuEventDestroy_v2", cuEventDestroy);
    load(library, "cuEventRecord", cuEventRecord);
    load(library, "cuEventElapsedTime", cuEventElapsedTime);
    load(library, "cuGetErrorString", cuGetErrorString);
  }

  void check(int status, const std::string& what) const {
    if (status == kSuccess) return;
    const char* reason = nullptr;
    if (cuGetErrorString(status, &reason) != kSuccess || reason == nullptr) reason = "unknown";
    throw Error(what + " failed: " + reason + " (CUDA error " + std::to_string(status) + ").",
                status == kOutOfMemory ? "Free memory of the GPU, or use a smaller --batch."
                                       : "Check the GPU with nvidia-smi.");
  }

 private:
  template <class Function>
  static void load(void* library, const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    if (function == nullptr) {
      throw Error(std::string("The NVIDIA driver has no ") + name + ".", "Install a newer driver.");
    }
  }
};

Gpu::Gpu(int index) : driver_(std::make_unique<Driver>()) {
  const int status = driver_->cuInit(0);
  if (status == kNoDevice) {
    throw Error("This needs an NVIDIA GPU, and the driver sees none.",
                "Run it on a machine with a GPU; check CUDA_VISIBLE_DEVICES.");
  }
  driver_->check(status, "Starting CUDA");
  int count = 0;
  driver_->check(driver_->cuDeviceGetCount(&count), "Counting GPUs");
  if (index >= count) {
    throw Error("There is no GPU " + std::to_string(index) + "; this machine has " +
                    std::to_string(count) + ", counted from 0.",
                "Choose one of them with --device.");
  }
  driver_->check(driver_->cuDeviceGet(&device_, index), "Finding the GPU");
  char name[256] = {};
  driver_->check(driver_->cuDeviceGetName(name, sizeof name - 1, device_), "Naming the GPU");
  name_ = name;
  int major = 0;
  int minor = 0;
  driver_->check(driver_->cuDeviceGetAttribute(&major, kCapabilityMajor, device_),
                 "Asking the GPU");
  driver_->check(driver_->cuDeviceGetAttribute(&minor, kCapabilityMinor, device_),
                 "Asking the GPU");
  capability_ = std::to_string(major) + std::to_string(minor);
  CUctx_st* context = nullptr;
  driver_->check(driver_->cuDevicePrimaryCtxRetain(&context, device_), "Opening the GPU");
  const int current = driver_->cuCtxSetCurrent(context);
  if (current != kSuccess) driver_->cuDevicePrimaryCtxRelease(device_);
  driver_->check(current, "Opening the GPU");
}

Gpu::~Gpu() { driver_->cuDevicePrimaryCtxRelease(device_); }

Buffer::Buffer(const Gpu& gpu, size_t bytes) : driver_(&gpu.driver()), bytes_(bytes) {
  const std::string what = "Allocating " + std::to_string(bytes) + " bytes";
  driver_->check(driver_->cuMemAllocHost(&host_, bytes), what + " on the host");
  const int status = driver_->cuMemAlloc(&device_, bytes);
  if (status != kSuccess) driver_->cuMemFreeHost(host_);
  driver_->check(status, what + " on the GPU");
}

Buffer::Buffer(Buffer&& other) noexcept
    : driver_(other.driver_),
      bytes_(other.bytes_),
      host_(std::exchange(other.host_, nullptr)),
      device_(std::exchange(other.device_, 0)) {}

Buffer::~Buffer() {
  if (device_ != 0) driver_->cuMemFree(device_);
  if (host_ != nullptr) driver_->cuMemFreeHost(host_);
}

void Buffer::toDevice(CUstream_st* stream) const {
  driver_->check(driver_->cuMemcpyHtoDAsync(device_, host_, bytes_, stream), "Copying to the GPU");
}

void Buffer::toHost(CUstream_st* stream) const {
  driver_->check(driver_->cuMemcpyDtoHAsync(host_, device_, bytes_, stream),
                 "Copying from the GPU");
}

Stream::Stream(const Gpu& gpu) : driver_(gpu.driver()) {
  driver_.check(driver_.cuStreamCreate(&stream_, kNonBlocking), "Making a stream");
}

Stream::~Stream() { driver_.cuStreamDestroy(stream_); }

void Stream::wait() const { driver_.check(driver_.cuStreamSynchronize(stream_), "The run"); }

Event::Event(const Gpu& gpu) : driver_(gpu.driver()) {
  driver_.check(driver_.cuEventCreate(&event_, 0), "Making an event");
}

Event::~Event() { driver_.cuEventDestroy(event_); }

void Event::record(const Stream& stream) const {
  driver_.check(driver_.cuEventRecord(event_, stream.get()), "Recording an event");
}

double Event::millisecondsSince(const Event& earlier) const {
  float milliseconds = 0.0F;
  driver_.check(driver_.cuEventElapsedTime(&milliseconds, earlier.event_, event_), "Timing");
  return milliseconds;
}

}  // namespace dinat

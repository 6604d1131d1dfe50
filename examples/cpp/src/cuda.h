// The slice of CUDA's driver interface that is needed here, loaded when the program runs: it comes
// with the driver, so nothing of the CUDA toolkit is needed. Every failure throws Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

struct CUctx_st;
struct CUevent_st;
struct CUstream_st;

namespace dinat {

struct Driver;  // the loaded functions

// A GPU, and the context that TensorRT uses on it, made current in the calling thread.
class Gpu {
 public:
  explicit Gpu(int index);
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const std::string& name() const { return name_; }
  const std::string& capability() const { return capability_; }  // like 89
  const Driver& driver() const { return *driver_; }

 private:
  std::unique_ptr<const Driver> driver_;
  int device_ = 0;
  std::string name_;
  std::string capability_;
};

// Memory on the GPU and as much on the host, page-locked so that copies run beside the program.
class Buffer {
 public:
  Buffer(const Gpu& gpu, size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&&) = delete;

  void* host() const { return host_; }
  void* device() const { return reinterpret_cast<void*>(device_); }
  size_t bytes() const { return bytes_; }

  // Copies that are done when the stream comes to them.
  void toDevice(CUstream_st* stream) const;
  void toHost(CUstream_st* stream) const;

 private:
  const Driver* driver_;
  size_t bytes_;
  void* host_ = nullptr;
  uintptr_t device_ = 0;
};

class Stream {
 public:
  explicit Stream(const Gpu& gpu);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  CUstream_st* get() const { return stream_; }
  void wait() const;

 private:
  const Driver& driver_;
  CUstream_st* stream_ = nullptr;
};

// A point in a stream, with its time.
class Event {
 public:
  explicit Event(const Gpu& gpu);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record(const Stream& stream) const;
  double millisecondsSince(const Event& earlier) const;

 private:
  const Driver& driver_;
  CUevent_st* event_ = nullptr;
};

}  // namespace dinat

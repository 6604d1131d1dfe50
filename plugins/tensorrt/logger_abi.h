// TensorRT's logger and logger finder, whose binary interface changed with TensorRT 11.
//
// Until 10.16 (and in TensorRT for RTX 1.4) they are plain abstract classes; since 11.0 (and RTX
// 1.5) they derive from the versioned interface, which puts other functions before theirs. One
// plugin library meets both, so both are declared here, whichever headers the rest is compiled
// with.
#pragma once

#include <cstdint>

#include "tensorrt/trt.h"

namespace dinat::tensorrt {

enum class Severity : int32_t { kInternalError = 0, kError = 1, kWarning = 2, kInfo = 3 };

namespace before11 {

class Logger {
 public:
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~Logger() = default;
};

class LoggerFinder {
 public:
  virtual Logger* findLogger() = 0;

 protected:
  virtual ~LoggerFinder() = default;
};

}  // namespace before11

namespace since11 {

class Logger : public nvinfer1::IVersionedInterface {
 public:
  virtual void log(Severity severity, const char* message) noexcept = 0;
};

class LoggerFinder : public nvinfer1::IVersionedInterface {
 public:
  virtual Logger* findLogger() = 0;

 protected:
  ~LoggerFinder() override = default;
};

}  // namespace since11
}  // namespace dinat::tensorrt

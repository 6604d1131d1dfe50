// Messages of the plugin: through TensorRT's logger, else to stderr.
#pragma once

#include <exception>
#include <string>

#include "tensorrt/logger_abi.h"

namespace dinat::tensorrt {

// Takes TensorRT's logger finder, of either binary interface; null forgets it.
void setLoggerFinder(void* finder) noexcept;

// Never throws: what cannot be logged is lost.
void log(Severity severity, const std::string& message) noexcept;

// Runs `function`; a thrown exception becomes an error message about `what` and the value `failed`.
// No exception may leave a function that TensorRT calls.
template <class Result, class Function>
Result guarded(const char* what, Result failed, Function&& function) noexcept {
  try {
    return function();
  } catch (const std::exception& error) {
    try {
      log(Severity::kError, std::string(what) + ": " + error.what());
    } catch (...) {
    }
  } catch (...) {
  }
  return failed;
}

}  // namespace dinat::tensorrt

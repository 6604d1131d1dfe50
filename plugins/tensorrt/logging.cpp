#include "tensorrt/logging.h"

#include <cxxabi.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <typeinfo>

namespace dinat::tensorrt {
namespace {

std::atomic<void*> finder_address{nullptr};

enum class Interface { kUnknown, kBefore11, kSince11 };

// The run-time type of an object with virtual functions stands before its virtual table; null if
// its library was compiled without such types.
const std::type_info* typeOf(const void* object) {
  const void* const* table;
  std::memcpy(&table, object, sizeof table);
  return static_cast<const std::type_info*>(table[-1]);
}

// Which binary interface a logger finder has, told by the classes that it derives from. Calling
// the wrong entry of its virtual table would be a crash, so nothing is tried out.
Interface interfaceOf(const void* finder) {
  for (const std::type_info* type = typeOf(finder); type != nullptr;) {
    if (std::strcmp(type->name(), "N8nvinfer119IVersionedInterfaceE") == 0) {
      return Interface::kSince11;
    }
    if (std::strcmp(type->name(), "N8nvinfer113ILoggerFinderE") == 0) return Interface::kBefore11;
    const auto* derived = dynamic_cast<const abi::__si_class_type_info*>(type);
    type = derived == nullptr ? nullptr : derived->__base_type;
  }
  return Interface::kUnknown;
}

// TensorRT's logger of the calling thread; false if there is none.
bool logThroughFinder(void* finder, Severity severity, const char* message) {
  switch (interfaceOf(finder)) {
    case Interface::kBefore11:
      if (auto* logger = static_cast<before11::LoggerFinder*>(finder)->findLogger()) {
        logger->log(severity, message);
        return true;
      }
      return false;
    case Interface::kSince11:
      if (auto* logger = static_cast<since11::LoggerFinder*>(finder)->findLogger()) {
        logger->log(severity, message);
        return true;
      }
      return false;
    case Interface::kUnknown:
      return false;
  }
  return false;
}

}  // namespace

void setLoggerFinder(void* finder) noexcept { finder_address.store(finder); }

void log(Severity severity, const std::string& message) noexcept {
  try {
    void* const finder = finder_address.load();
    if (finder != nullptr && logThroughFinder(finder, severity, message.c_str())) return;
  } catch (...) {
  }
  std::fprintf(stderr, "%s\n", message.c_str());
}

}  // namespace dinat::tensorrt

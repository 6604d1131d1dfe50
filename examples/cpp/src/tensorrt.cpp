#include "tensorrt.h"

#include <dlfcn.h>

#include <cstdlib>

#include "error.h"
#include "tensorrt_layout.h"

namespace dinat {
namespace {

constexpr const char* kTensorRt = "tensorrt";
constexpr const char* kTensorRtRtx = "tensorrt-rtx";

int leadingNumber(const std::string& version) { return std::atoi(version.c_str()); }

// Names under which the loader may find a library, the likeliest first.
std::vector<std::string> libraryNames(const std::string& flavor, const std::string& version) {
  std::vector<std::string> names;
  if (flavor != kTensorRtRtx) {
    names = {"libnvinfer.so.11", "libnvinfer.so.10"};
    if (leadingNumber(version) == 10) names = {"libnvinfer.so.10", "libnvinfer.so.11"};
  }
  if (flavor != kTensorRt) names.push_back("libtensorrt_rtx.so.1");
  return names;
}

std::string titleOf(const std::string& flavor) {
  return flavor == kTensorRtRtx ? "TensorRT-RTX" : "TensorRT";
}

template <class Function>
Function* entry(void* library, const std::string& file, const char* name) {
  void* const found = dlsym(library, name);
  if (found == nullptr) {
    throw Error(file + " is no TensorRT: it has no function " + name + ".",
                "Name libnvinfer.so.10, libnvinfer.so.11 or libtensorrt_rtx.so.1.");
  }
  return reinterpret_cast<Function*>(found);
}

[[noreturn]] void unknownVersion(const std::string& title) {
#ifdef DINAT_TENSORRT_HEADERS
  throw Error("This program was compiled with the headers of TensorRT " +
                  std::to_string(NV_TENSORRT_MAJOR) + "." + std::to_string(NV_TENSORRT_MINOR) +
                  ", and the library is " + title + ".",
              "Compile it with the headers of that version, or without TENSORRT_ROOT.");
#else
  throw Error(
      "This program runs TensorRT 10 and 11 and TensorRT-RTX 1.5 to 1.x, and the library is " +
          title + ".",
      "Install one of these, or use a newer version of this program.");
#endif
}

}  // namespace

std::string text(const Shape& shape) {
  std::string result;
  for (int64_t size : shape) result += (result.empty() ? "" : "x") + std::to_string(size);
  return result.empty() ? "scalar" : result;
}

TensorRt::TensorRt(const std::string& file) : library_(dlopen(file.c_str(), RTLD_NOW)) {
  if (library_ == nullptr) {
    throw Error(std::string("TensorRT cannot be loaded: ") + dlerror() + ".",
                "Install it, put its folder on LD_LIBRARY_PATH, or name it with --tensorrt FILE.");
  }
  using Number = int32_t();
  std::vector<int> numbers;
  for (const char* part : {"Major", "Minor", "Patch", "Build"}) {
    const std::string function = std::string("getInferLib") + part + "Version";
    numbers.push_back(entry<Number>(library_, file, function.c_str())());
    version_ += (version_.empty() ? "" : ".") + std::to_string(numbers.back());
  }
  // TensorRT-RTX counts its versions from 1.
  flavor_ = numbers[0] < 5 ? kTensorRtRtx : kTensorRt;
  before_11_ = numbers[0] == 10;
  // Before 1.5, TensorRT-RTX had a layout of its own.
  const bool known = flavor_ == kTensorRtRtx ? numbers[0] == 1 && numbers[1] >= 5
                                             : numbers[0] == 10 || numbers[0] == 11;
  if (!known) unknownVersion(title());
}

TensorRt TensorRt::find(const std::string& flavor, const std::string& version) {
  std::string tried;
  for (const std::string& name : libraryNames(flavor, version)) {
    if (void* const library = dlopen(name.c_str(), RTLD_NOW)) {
      dlclose(library);
      return TensorRt(name);
    }
    tried += std::string("\n  ") + dlerror();
  }
  throw Error(titleOf(flavor) + (version.empty() ? "" : " " + version) + " is not found:" + tried,
              "Install it, put its folder on LD_LIBRARY_PATH, or name it with --tensorrt FILE.");
}

std::string TensorRt::title() const { return titleOf(flavor_) + " " + version_; }

std::unique_ptr<Engine> TensorRt::load(const std::vector<uint8_t>& plan,
                                       const LoadOptions& options) const {
  using Version = int32_t();
  const Factory factory{entry<CreateRuntime>(library_, "it", "createInferRuntime_INTERNAL"),
                        entry<Version>(library_, "it", "getInferLibVersion")()};
#ifdef DINAT_HAVE_LAYOUT_10
  if (before_11_) return layout10::load(factory, plan, options);
#endif
#ifdef DINAT_HAVE_LAYOUT_11
  if (!before_11_) return layout11::load(factory, plan, options);
#endif
  unknownVersion(title());
}

}  // namespace dinat

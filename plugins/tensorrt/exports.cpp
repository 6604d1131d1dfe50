// The library's entry points: what TensorRT's plugin registry looks up, and the version.
#include <iterator>

#include "tensorrt/creator.h"
#include "tensorrt/logging.h"

#ifndef DINAT_PLUGIN_VERSION
#error "DINAT_PLUGIN_VERSION is set by the build"
#endif

#define DINAT_EXPORT extern "C" __attribute__((visibility("default")))

// The creators of this library. They live as long as it is loaded.
DINAT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  using dinat::tensorrt::Creator;
  using dinat::tensorrt::Layout;
  static Creator packed(Layout::kPacked);
  static Creator split(Layout::kSplit);
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&packed, &split};
  count = static_cast<int32_t>(std::size(creators));
  return creators;
}

// Called by TensorRT after loading. `finder` is an ILoggerFinder, whose layout depends on
// TensorRT's version (logger_abi.h).
DINAT_EXPORT void setLoggerFinder(void* finder) { dinat::tensorrt::setLoggerFinder(finder); }

// Version, CUDA release and GPU architectures, for logs and manifests.
DINAT_EXPORT const char* dinat_plugin_version() { return DINAT_PLUGIN_VERSION; }

// tensorrt_layout.cpp is compiled once for each layout of TensorRT's classes that the build knows.
#pragma once

#include <memory>
#include <vector>

#include "tensorrt.h"

// Official headers are of one version and know its layout only; without them it is both.
#ifdef DINAT_TENSORRT_HEADERS
#include <NvInferVersion.h>
#if NV_TENSORRT_MAJOR == 11 || (NV_TENSORRT_MAJOR == 1 && NV_TENSORRT_MINOR >= 5)
#define DINAT_TENSORRT_LAYOUT 11
#define DINAT_HAVE_LAYOUT_11
#elif NV_TENSORRT_MAJOR == 10
#define DINAT_TENSORRT_LAYOUT 10
#define DINAT_HAVE_LAYOUT_10
#else
#error "This program is written for TensorRT 10 and 11 and TensorRT-RTX 1.5."
#endif
#else
#define DINAT_HAVE_LAYOUT_10
#define DINAT_HAVE_LAYOUT_11
#endif

namespace dinat {

// The library's entry point: makes a runtime, given a logger and a version.
using CreateRuntime = void*(void* logger, int32_t version);

struct Factory {
  CreateRuntime* create;
  int32_t version;
};

namespace layout10 {
std::unique_ptr<Engine> load(Factory factory, const std::vector<uint8_t>& plan,
                             const LoadOptions& options);
}
namespace layout11 {
std::unique_ptr<Engine> load(Factory factory, const std::vector<uint8_t>& plan,
                             const LoadOptions& options);
}

}  // namespace dinat

// TensorRT's plugin interface: the official headers if the build has them, else our declaration.
#pragma once

#ifdef DINAT_TENSORRT_HEADERS
#include <NvInferRuntime.h>
#else
#include "tensorrt/interface.h"
#endif

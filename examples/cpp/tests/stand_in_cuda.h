// What the stand-in for TensorRT needs of the one for CUDA.
#pragma once

#include <functional>

struct CUstream_st;

// Adds work to a stream; it is done when the stream is waited for, like a GPU that is slow.
using EnqueueWork = void(CUstream_st* stream, std::function<void()> work);
// Host address of device memory; aborts for an address that is none.
using ReachDevice = void*(void* device);

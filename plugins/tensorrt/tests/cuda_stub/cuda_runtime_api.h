// The few names of the CUDA runtime that the plugin's host code and TensorRT's headers use, so that
// tests compile them without a CUDA toolkit.
#pragma once

struct CUstream_st;
typedef struct CUstream_st* cudaStream_t;
struct CUevent_st;
typedef struct CUevent_st* cudaEvent_t;

enum cudaError {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoKernelImageForDevice = 209,
};
typedef enum cudaError cudaError_t;

extern "C" const char* cudaGetErrorString(cudaError_t error);

// Instances of the tile kernel for one head dim and kernel size, both 16-bit types. CMake writes a
// file for each head dim that includes this one for each kernel size, and defines the two.
#include "kernels/kernel_table.h"
#include "kernels/tensor_core.cuh"

#if !defined(DINAT_HEAD_DIM) || !defined(DINAT_KERNEL_SIZE)
#error "define DINAT_HEAD_DIM and DINAT_KERNEL_SIZE"
#endif

#define DINAT_TILE_NAME(dim, size) DINAT_JOIN_TILE(dim, size)
#define DINAT_JOIN_TILE(dim, size) tileKernel_##dim##_##size

namespace dinat::cuda {

KernelFunction DINAT_TILE_NAME(DINAT_HEAD_DIM, DINAT_KERNEL_SIZE)(DataType type) {
  switch (type) {
    case DataType::kFloat16:
      return reinterpret_cast<KernelFunction>(
          tileKernel<Float16, DINAT_HEAD_DIM, DINAT_KERNEL_SIZE>);
    case DataType::kBFloat16:
      return reinterpret_cast<KernelFunction>(
          tileKernel<BFloat16, DINAT_HEAD_DIM, DINAT_KERNEL_SIZE>);
    default:
      return nullptr;
  }
}

}  // namespace dinat::cuda

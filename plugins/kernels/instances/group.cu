// Instances of the group kernel, both 16-bit types.
#include "kernels/kernel_table.h"
#include "kernels/tensor_core.cuh"

namespace dinat::cuda {
namespace {

template <int kDim>
KernelFunction groupKernelOf(DataType type) {
  switch (type) {
    case DataType::kFloat16:
      return reinterpret_cast<KernelFunction>(groupKernel<Float16, kDim>);
    case DataType::kBFloat16:
      return reinterpret_cast<KernelFunction>(groupKernel<BFloat16, kDim>);
    default:
      return nullptr;
  }
}

}  // namespace

#define DINAT_DEFINE_GROUP(dim) \
  KernelFunction groupKernel_##dim(DataType type) { return groupKernelOf<dim>(type); }
DINAT_GROUP_INSTANCES(DINAT_DEFINE_GROUP)

}  // namespace dinat::cuda

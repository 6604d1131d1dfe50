// Instances of the portable kernel.
#include "kernels/kernel_table.h"
#include "kernels/portable.cuh"

namespace dinat::cuda {
namespace {

template <class T>
KernelFunction portableKernelFor(bool vectors) {
  return vectors ? reinterpret_cast<KernelFunction>(portableKernel<T, true>)
                 : reinterpret_cast<KernelFunction>(portableKernel<T, false>);
}

}  // namespace

KernelFunction portableKernelOf(DataType type, bool vectors) {
  switch (type) {
    case DataType::kFloat32:
      return portableKernelFor<float>(vectors);
    case DataType::kFloat16:
      return portableKernelFor<Float16>(vectors);
    case DataType::kBFloat16:
      return portableKernelFor<BFloat16>(vectors);
  }
  return nullptr;
}

}  // namespace dinat::cuda

#include "kernels/kernel_table.h"

namespace dinat::cuda {

KernelFunction portableKernelOf(DataType type, bool vectors);
#ifndef DINAT_NO_TENSOR_CORES
#define DINAT_DECLARE_TILE(dim, size) KernelFunction tileKernel_##dim##_##size(DataType type);
#define DINAT_DECLARE_GROUP(dim) KernelFunction groupKernel_##dim(DataType type);
DINAT_TILE_INSTANCES(DINAT_DECLARE_TILE)
DINAT_GROUP_INSTANCES(DINAT_DECLARE_GROUP)
#endif

KernelFunction findKernel(const KernelId& id) {
  if (id.family == Family::kPortable) return portableKernelOf(id.type, id.vectors);
#ifndef DINAT_NO_TENSOR_CORES
#define DINAT_FIND_TILE(dim, size) \
  if (id.head_dim == dim && id.kernel_size == size) return tileKernel_##dim##_##size(id.type);
#define DINAT_FIND_GROUP(dim) \
  if (id.head_dim == dim) return groupKernel_##dim(id.type);
  if (id.family == Family::kTile) {
    DINAT_TILE_INSTANCES(DINAT_FIND_TILE)
  } else {
    DINAT_GROUP_INSTANCES(DINAT_FIND_GROUP)
  }
#endif
  return nullptr;
}

}  // namespace dinat::cuda

#include <cstdint>

#include "common/half.h"
#include "cpu/kernel.h"

#define DINAT_PAIRED_ROWS 0  // whether a vector may hold two rows of a patch

namespace dinat::cpu {
namespace {

// clang-format off: each needs those before it
#include "cpu/simd_scalar.h"
#include "cpu/kernel_body.h"
// clang-format on

}  // namespace

const Kernel kScalarKernel{kWidth, kQueries, {run<float>, run<Float16>, run<BFloat16>}, multiply};

}  // namespace dinat::cpu

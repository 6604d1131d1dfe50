// The kernels of this build, by instruction set.
#pragma once

#include "cpu/attention.h"
#include "cpu/kernel.h"

namespace dinat::cpu {

// Whether this build has kernels for `isa` and this CPU runs them.
bool supported(Isa isa);

// The kernels; scalar ones if `isa` is not supported.
const Kernel& kernelOf(Isa isa);

}  // namespace dinat::cpu

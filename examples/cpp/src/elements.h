// Numbers in the types of an engine's tensors.
#pragma once

#include <cstddef>

#include "tensorrt.h"

namespace dinat {

size_t bytesOf(ElementType type);

// Rounds to nearest, halves to even. `to` and `from` hold `count` elements of `type`, which is a
// floating-point one.
void fromFloats(const float* values, size_t count, ElementType type, void* to);
void toFloats(const void* from, size_t count, ElementType type, float* values);

}  // namespace dinat

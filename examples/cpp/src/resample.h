// Resizing as Python's Pillow does it, to the same 8-bit values.
//
// Pillow 13 resizes pictures that lose much more height than width in the other order than the
// versions before it; here it is that of 13.
#pragma once

#include <string>

#include "image.h"

namespace dinat {

enum class Filter { kNearest, kBilinear, kBicubic, kLanczos };

// The filter that model.json names; throws Error for another name.
Filter filterNamed(const std::string& name);

Image resize(const Image& image, int width, int height, Filter filter);

}  // namespace dinat

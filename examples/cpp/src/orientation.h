// How a camera was held, from the EXIF data of a JPEG file.
#pragma once

#include <cstdint>
#include <vector>

#include "image.h"

namespace dinat {

// 1 (upright) to 8, as EXIF numbers them; 1 if the file does not say.
int orientationOf(const std::vector<uint8_t>& file);

// The picture turned and mirrored as the orientation demands.
Image upright(Image image, int orientation);

}  // namespace dinat

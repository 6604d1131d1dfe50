// Picture files: JPEG, PNG and BMP.
#pragma once

#include <string>

#include "image.h"

namespace dinat {

// Reads a picture, upright as its camera says. `channels` is 3 (RGB) or 1 (grey); transparency is
// dropped. Throws Error if the file is missing or no such picture.
Image readPicture(const std::string& path, int channels);

}  // namespace dinat

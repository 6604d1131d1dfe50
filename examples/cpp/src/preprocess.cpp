#include "preprocess.h"

#include <cmath>

namespace dinat {
namespace {

// {width, height} after resizing. The side that is short in proportion gets its extent exactly, the
// other is cut down to a whole number.
std::array<int, 2> resizedSize(const Image& image, const Preprocessing& how) {
  const int64_t height = how.resize[0];
  const int64_t width = how.resize[1];
  if (how.stretch) return {how.resize[1], how.resize[0]};
  if (image.width * height >= image.height * width) {
    const double along = static_cast<double>(height * image.width) / image.height;
    return {static_cast<int>(along), how.resize[0]};
  }
  const double along = static_cast<double>(width * image.height) / image.width;
  return {how.resize[1], static_cast<int>(along)};
}

// Half of the difference; halves go to the even number, as Python rounds.
int margin(int resized, int crop) {
  return static_cast<int>(std::nearbyint((resized - crop) / 2.0));
}

}  // namespace

void preprocess(const Image& image, const Preprocessing& how, float* out) {
  const auto [width, height] = resizedSize(image, how);
  const Image resized = resize(image, width, height, how.filter);
  const int left = margin(width, how.crop[1]);
  const int top = margin(height, how.crop[0]);
  for (int c = 0; c < how.channels(); ++c) {
    for (int y = top; y < top + how.crop[0]; ++y) {
      for (int x = left; x < left + how.crop[1]; ++x) {
        // A crop larger than the picture has a black border.
        const bool inside = x >= 0 && y >= 0 && x < width && y < height;
        const float value = inside ? static_cast<float>(resized.at(x, y)[c]) / 255.0F : 0.0F;
        *out++ = (value - how.mean[c]) / how.deviation[c];
      }
    }
  }
}

}  // namespace dinat

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

void cropped(const Image& image, const Preprocessing& how, uint8_t* out) {
  const auto [width, height] = resizedSize(image, how);
  const Image resized = resize(image, width, height, how.filter);
  const int left = margin(width, how.crop[1]);
  const int top = margin(height, how.crop[0]);
  for (int c = 0; c < how.channels(); ++c) {
    for (int y = top; y < top + how.crop[0]; ++y) {
      for (int x = left; x < left + how.crop[1]; ++x) {
        // A crop larger than the picture has a black border.
        const bool inside = x >= 0 && y >= 0 && x < width && y < height;
        *out++ = inside ? resized.at(x, y)[c] : uint8_t{0};
      }
    }
  }
}

std::vector<float> normalized(const std::vector<uint8_t>& pixels, const Preprocessing& how) {
  const size_t area = how.elements() / how.channels();
  std::vector<float> out(pixels.size());
  for (size_t i = 0; i < pixels.size(); ++i) {
    const size_t c = i / area % how.channels();
    out[i] = (static_cast<float>(pixels[i]) / 255.0F - how.mean[c]) / how.deviation[c];
  }
  return out;
}

}  // namespace dinat

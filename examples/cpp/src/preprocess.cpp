#include "preprocess.h"

#include <algorithm>
#include <cmath>

#include "error.h"

namespace dinat {
namespace {

// A scaled extent of a picture that is contained in `most`; halves go to the even number, as Python
// rounds.
int contained(int extent, double scale, int most) {
  return std::min(most, std::max(1, static_cast<int>(std::nearbyint(extent * scale))));
}

// {width, height} after resizing. The side that is short in proportion gets its extent exactly, the
// other is cut down to a whole number.
std::array<int, 2> resizedSize(const Image& image, const Preprocessing& how) {
  if (how.mode == ResizeMode::kContain) {
    const double scale = std::min(static_cast<double>(how.crop[0]) / image.height,
                                  static_cast<double>(how.crop[1]) / image.width);
    return {contained(image.width, scale, how.crop[1]),
            contained(image.height, scale, how.crop[0])};
  }
  const int64_t height = how.resize[0];
  const int64_t width = how.resize[1];
  if (how.mode == ResizeMode::kStretch) return {how.resize[1], how.resize[0]};
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

ResizeMode resizeModeNamed(const std::string& name) {
  if (name == "cover") return ResizeMode::kCover;
  if (name == "stretch") return ResizeMode::kStretch;
  if (name == "contain") return ResizeMode::kContain;
  throw Error("The resize mode " + name + " is unknown; known are cover, stretch, contain.",
              "Compile this program from a newer dinat-deploy.");
}

std::vector<uint8_t> fillOf(const std::vector<double>& mean) {
  std::vector<uint8_t> pixel;
  for (const double value : mean) {
    pixel.push_back(static_cast<uint8_t>(std::clamp(std::nearbyint(value * 255), 0.0, 255.0)));
  }
  return pixel;
}

void cropped(const Image& image, const Preprocessing& how, uint8_t* out) {
  const auto [width, height] = resizedSize(image, how);
  const Image resized = resize(image, width, height, how.filter);
  const bool contain = how.mode == ResizeMode::kContain;
  const int left = contain ? 0 : margin(width, how.crop[1]);
  const int top = contain ? 0 : margin(height, how.crop[0]);
  for (int c = 0; c < how.channels(); ++c) {
    for (int y = top; y < top + how.crop[0]; ++y) {
      for (int x = left; x < left + how.crop[1]; ++x) {
        // A crop larger than the picture has a black border.
        const bool inside = x >= 0 && y >= 0 && x < width && y < height;
        const uint8_t outside = contain ? how.fill[c] : uint8_t{0};
        *out++ = inside ? resized.at(x, y)[c] : outside;
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

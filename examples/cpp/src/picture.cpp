#include "picture.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "error.h"
#include "files.h"
#include "orientation.h"
#include "stb.h"

namespace dinat {
namespace {

// Beyond this a small file may well be made to fill up the memory; Pillow's limit.
constexpr int64_t kMostPixels = 178'956'970;

struct Free {
  void operator()(void* memory) const { stbi_image_free(memory); }
};

[[noreturn]] void undecodable(const std::string& path) {
  throw Error(path + " is not a picture that can be decoded: " + stbi_failure_reason() + ".",
              "Pass a JPEG, PNG or BMP file.");
}

// Grey of an RGB pixel in Pillow's fixed-point arithmetic: ITU-R 601 weights in units of 2^-16.
uint8_t grey(const uint8_t* rgb) {
  return static_cast<uint8_t>((rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 0x8000) >> 16);
}

// 8 bits from 16: rounded for grey, cut for colours, as Python's side of this project has it.
uint8_t eightBits(uint16_t value, int channels) {
  return static_cast<uint8_t>(channels == 1 ? std::nearbyint(value / 257.0) : value >> 8);
}

Image decode(const std::string& path, const std::vector<uint8_t>& file) {
  const int size = static_cast<int>(file.size());
  int width = 0;
  int height = 0;
  int channels = 0;
  if (!stbi_info_from_memory(file.data(), size, &width, &height, &channels)) undecodable(path);
  if (static_cast<int64_t>(width) * height > kMostPixels) {
    throw Error(path + " has " + std::to_string(width) + "x" + std::to_string(height) +
                    " pixels, more than the " + std::to_string(kMostPixels) + " that are read.",
                "Make it smaller.");
  }
  if (stbi_is_16_bit_from_memory(file.data(), size)) {
    const std::unique_ptr<uint16_t, Free> values(
        stbi_load_16_from_memory(file.data(), size, &width, &height, &channels, 0));
    if (!values) undecodable(path);
    Image image(width, height, channels);
    for (size_t i = 0; i < image.pixels.size(); ++i) {
      image.pixels[i] = eightBits(values.get()[i], channels);
    }
    return image;
  }
  const std::unique_ptr<uint8_t, Free> values(
      stbi_load_from_memory(file.data(), size, &width, &height, &channels, 0));
  if (!values) undecodable(path);
  Image image(width, height, channels);
  std::copy_n(values.get(), image.pixels.size(), image.pixels.data());
  return image;
}

// To 1 or 3 channels from grey, grey and alpha, RGB, or RGB and alpha.
Image convert(const Image& image, int channels) {
  const bool colour = image.channels >= 3;
  Image result(image.width, image.height, channels);
  const uint8_t* from = image.pixels.data();
  for (size_t i = 0; i < result.pixels.size(); i += channels, from += image.channels) {
    for (int c = 0; c < channels; ++c) {
      result.pixels[i + c] = !colour ? from[0] : channels == 1 ? grey(from) : from[c];
    }
  }
  return result;
}

}  // namespace

Image readPicture(const std::string& path, int channels) {
  const std::vector<uint8_t> file = readFile(path, "Check the path.");
  if (file.size() > INT32_MAX) throw Error(path + " has more than 2 GB.", "Make it smaller.");
  return upright(convert(decode(path, file), channels), orientationOf(file));
}

}  // namespace dinat

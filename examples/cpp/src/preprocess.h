// From a picture to the model's input: resize and centre crop; scale to 0..1 and normalise.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "image.h"
#include "resample.h"

namespace dinat {

// How a picture comes to its size: it just covers `resize` and is cut, it is resized to exactly
// that, or it just fits into `crop` and the rest is filled up.
enum class ResizeMode { kCover, kStretch, kContain };

// The mode that model.json names; throws Error for another name.
ResizeMode resizeModeNamed(const std::string& name);

// "preprocessing" of model.json. Sizes are {height, width} in pixels.
struct Preprocessing {
  ResizeMode mode = ResizeMode::kCover;
  std::array<int, 2> resize{};
  std::array<int, 2> crop{};
  Filter filter = Filter::kBicubic;
  std::vector<float> mean;  // one for each channel, in units of the 0..1 range
  std::vector<float> deviation;
  std::vector<uint8_t> fill;  // the pixel around a contained picture

  int channels() const { return static_cast<int>(mean.size()); }
  size_t elements() const { return static_cast<size_t>(crop[0]) * crop[1] * channels(); }
};

// The pixel that comes closest to 0 when normalised, from means as they are written.
std::vector<uint8_t> fillOf(const std::vector<double>& mean);

// Resizes and crops. Writes [channels, height, width] pixels; `image` has the preprocessing's
// channels.
void cropped(const Image& image, const Preprocessing& how, uint8_t* out);

// Scales and normalises pixels of pictures, [pictures, channels, height, width].
std::vector<float> normalized(const std::vector<uint8_t>& pixels, const Preprocessing& how);

}  // namespace dinat

// From a picture to the model's input: resize, centre crop, scale to 0..1, normalise.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "image.h"
#include "resample.h"

namespace dinat {

// "preprocessing" of model.json. Sizes are {height, width} in pixels.
struct Preprocessing {
  bool stretch = false;  // to exactly `resize`; otherwise the picture just covers it
  std::array<int, 2> resize{};
  std::array<int, 2> crop{};
  Filter filter = Filter::kBicubic;
  std::vector<float> mean;  // one for each channel, in units of the 0..1 range
  std::vector<float> deviation;

  int channels() const { return static_cast<int>(mean.size()); }
  size_t elements() const { return static_cast<size_t>(crop[0]) * crop[1] * channels(); }
};

// Writes [channels, height, width] floats; `image` has the preprocessing's channels.
void preprocess(const Image& image, const Preprocessing& how, float* out);

}  // namespace dinat

// Pictures of 8 bits a channel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dinat {

// Rows from top to bottom, channels interleaved.
struct Image {
  int width = 0;
  int height = 0;
  int channels = 0;
  std::vector<uint8_t> pixels;

  Image() = default;
  Image(int w, int h, int c)
      : width(w), height(h), channels(c), pixels(static_cast<size_t>(w) * h * c) {}

  uint8_t* at(int x, int y) { return &pixels[offset(x, y)]; }
  const uint8_t* at(int x, int y) const { return &pixels[offset(x, y)]; }

 private:
  size_t offset(int x, int y) const { return (static_cast<size_t>(y) * width + x) * channels; }
};

}  // namespace dinat

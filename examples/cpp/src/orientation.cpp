#include "orientation.h"

#include <algorithm>
#include <utility>

namespace dinat {
namespace {

using Bytes = std::vector<uint8_t>;

// A part of a file whose numbers are big- or little-endian; reading past its end gives 0.
struct Reader {
  const Bytes& bytes;
  size_t begin;
  size_t end;
  bool little;

  uint32_t number(size_t offset, int size) const {
    uint32_t value = 0;
    if (offset > end - begin || end - begin - offset < static_cast<size_t>(size)) return 0;
    for (int i = 0; i < size; ++i) {
      const uint32_t byte = bytes[begin + offset + (little ? size - 1 - i : i)];
      value = value << 8 | byte;
    }
    return value;
  }
};

// The tag 0x0112 of the first directory of a TIFF structure, which EXIF data is.
int orientationInTiff(const Bytes& bytes, size_t begin, size_t end) {
  Reader tiff{bytes, begin, end, false};
  const uint32_t order = tiff.number(0, 2);
  if (order != 0x4949 && order != 0x4D4D) return 1;
  tiff.little = order == 0x4949;
  if (tiff.number(2, 2) != 42) return 1;
  const size_t directory = tiff.number(4, 4);
  const uint32_t entries = tiff.number(directory, 2);
  for (uint32_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + 12 * static_cast<size_t>(i);
    if (tiff.number(entry, 2) != 0x0112) continue;
    const uint32_t value = tiff.number(entry + 8, 2);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

}  // namespace

int orientationOf(const Bytes& file) {
  const Reader jpeg{file, 0, file.size(), false};
  if (jpeg.number(0, 2) != 0xFFD8) return 1;
  // Segments, each a marker and its length, until the picture's data begins.
  for (size_t at = 2; at + 4 <= file.size();) {
    const uint32_t marker = jpeg.number(at, 2);
    const uint32_t length = jpeg.number(at + 2, 2);
    const size_t end = at + 2 + length;
    if (marker < 0xFFC0 || marker == 0xFFDA || length < 2 || end > file.size()) return 1;
    const bool exif = marker == 0xFFE1 && length >= 16 && jpeg.number(at + 4, 4) == 0x45786966;
    if (exif) return orientationInTiff(file, at + 10, end);
    at = end;
  }
  return 1;
}

Image upright(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  const bool transposed = orientation >= 5;
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image result(transposed ? image.height : image.width, transposed ? image.width : image.height,
               image.channels);
  for (int y = 0; y < result.height; ++y) {
    for (int x = 0; x < result.width; ++x) {
      // Where the pixel was: axes exchanged, then counted from the other end.
      int from_x = transposed ? y : x;
      int from_y = transposed ? x : y;
      if (flip_x) from_x = image.width - 1 - from_x;
      if (flip_y) from_y = image.height - 1 - from_y;
      std::copy_n(image.at(from_x, from_y), image.channels, result.at(x, y));
    }
  }
  return result;
}

}  // namespace dinat

#include "resample.h"

#include <algorithm>
#include <cmath>

#include "error.h"

namespace dinat {
namespace {

constexpr double kPi = 3.14159265358979323846;

// Weights are integers in units of 2^-22: 8 bits of pixel and 2 bits of headroom (bicubic and
// Lanczos overshoot) fill up 32.
constexpr int kFraction = 22;

double triangle(double x) { return std::max(0.0, 1.0 - std::fabs(x)); }

// Keys' cubic convolution with a = -1/2.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

double sinc(double x) { return x == 0.0 ? 1.0 : std::sin(kPi * x) / (kPi * x); }

double lanczos3(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3.0) : 0.0; }

struct Kernel {
  double (*value)(double);
  double radius;
};

Kernel kernelOf(Filter filter) {
  switch (filter) {
    case Filter::kBilinear:
      return {triangle, 1.0};
    case Filter::kBicubic:
      return {cubic, 2.0};
    default:
      return {lanczos3, 3.0};
  }
}

// What one output pixel is made of: `weights` of the input pixels from `first` on.
struct Sum {
  int first = 0;
  std::vector<int32_t> weights;
};

// For shrinking, the kernel is stretched by the ratio of sizes, so that it averages (antialiasing).
std::vector<Sum> sumsOf(int from, int to, Filter filter) {
  const Kernel kernel = kernelOf(filter);
  const double ratio = static_cast<double>(from) / to;
  const double stretch = std::max(ratio, 1.0);
  const double reach = kernel.radius * stretch;
  std::vector<Sum> sums(to);
  for (int i = 0; i < to; ++i) {
    const double center = (i + 0.5) * ratio;
    const int first = std::max(0, static_cast<int>(center - reach + 0.5));
    const int last = std::min(from, static_cast<int>(center + reach + 0.5));
    std::vector<double> values(last - first);
    double total = 0.0;
    for (int x = first; x < last; ++x) {
      values[x - first] = kernel.value((x - center + 0.5) / stretch);
      total += values[x - first];
    }
    sums[i].first = first;
    for (double value : values) {
      const double scaled = (total != 0.0 ? value / total : value) * (1 << kFraction);
      sums[i].weights.push_back(static_cast<int32_t>(scaled + (scaled < 0.0 ? -0.5 : 0.5)));
    }
  }
  return sums;
}

// One output value; `step` is the distance between input values.
uint8_t apply(const Sum& sum, const uint8_t* values, size_t step) {
  int32_t total = 1 << (kFraction - 1);  // rounds to nearest
  for (int32_t weight : sum.weights) {
    total += weight * *values;
    values += step;
  }
  return static_cast<uint8_t>(std::clamp(total >> kFraction, 0, 255));
}

Image horizontally(const Image& image, int width, Filter filter) {
  const std::vector<Sum> sums = sumsOf(image.width, width, filter);
  Image result(width, image.height, image.channels);
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < width; ++x) {
      const uint8_t* from = image.at(sums[x].first, y);
      for (int c = 0; c < image.channels; ++c) {
        result.at(x, y)[c] = apply(sums[x], from + c, image.channels);
      }
    }
  }
  return result;
}

Image vertically(const Image& image, int height, Filter filter) {
  const std::vector<Sum> sums = sumsOf(image.height, height, filter);
  Image result(image.width, height, image.channels);
  const size_t row = static_cast<size_t>(image.width) * image.channels;
  for (int y = 0; y < height; ++y) {
    const uint8_t* from = image.at(0, sums[y].first);
    uint8_t* to = result.at(0, y);
    for (size_t i = 0; i < row; ++i) to[i] = apply(sums[y], from + i, row);
  }
  return result;
}

// Input coordinate of each output pixel. Added up step by step, as rounding decides ties.
std::vector<int> nearest(int from, int to) {
  const double step = static_cast<double>(from) / to;
  std::vector<int> chosen(to);
  double position = 0.5 * step;
  for (int& x : chosen) {
    x = std::min(static_cast<int>(position), from - 1);
    position += step;
  }
  return chosen;
}

Image pick(const Image& image, int width, int height) {
  const std::vector<int> columns = nearest(image.width, width);
  const std::vector<int> rows = nearest(image.height, height);
  Image result(width, height, image.channels);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      std::copy_n(image.at(columns[x], rows[y]), image.channels, result.at(x, y));
    }
  }
  return result;
}

}  // namespace

Filter filterNamed(const std::string& name) {
  if (name == "nearest") return Filter::kNearest;
  if (name == "bilinear") return Filter::kBilinear;
  if (name == "bicubic") return Filter::kBicubic;
  if (name == "lanczos") return Filter::kLanczos;
  throw Error("The interpolation " + name + " is unknown; known are nearest, bilinear, bicubic, " +
                  "lanczos.",
              "Export the model again with this version of dinat-deploy.");
}

Image resize(const Image& image, int width, int height, Filter filter) {
  if (width == image.width && height == image.height) return image;
  if (filter == Filter::kNearest) return pick(image, width, height);
  // Values are rounded to 8 bits between the two passes, so their order shows. A side that stays is
  // left alone.
  const int shrunk = image.height - height;
  if (shrunk > 0 && shrunk > 2 * (image.width - width)) {
    const Image between = vertically(image, height, filter);
    return width == image.width ? between : horizontally(between, width, filter);
  }
  const Image between = width == image.width ? image : horizontally(image, width, filter);
  return height == image.height ? between : vertically(between, height, filter);
}

}  // namespace dinat

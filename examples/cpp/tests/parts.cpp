// Parts of the program for tests in Python, as commands on standard input: a line of words, then
// binary data whose size the line tells; the answer is binary or a line.
#include <cstdio>
#include <iostream>
#include <sstream>

#include "elements.h"
#include "error.h"
#include "orientation.h"
#include "picture.h"
#include "preprocess.h"
#include "resample.h"
#include "sha256.h"

using namespace dinat;

namespace {

template <class T>
std::vector<T> receive(size_t count) {
  std::vector<T> data(count);
  std::cin.read(reinterpret_cast<char*>(data.data()), count * sizeof(T));
  return data;
}

template <class T>
void send(const std::vector<T>& data) {
  std::cout.write(reinterpret_cast<const char*>(data.data()), data.size() * sizeof(T));
}

template <class T>
T next(std::istream& words) {
  T value{};
  words >> value;
  return value;
}

// Height and width, then pixels; or what is wrong.
void picture(const std::string& path, int channels) {
  try {
    const Image image = readPicture(path, channels);
    std::cout << "picture " << image.height << " " << image.width << "\n";
    send(image.pixels);
  } catch (const Error& error) {
    std::cout << error.cause() << "\n";
  }
}

// preprocess PATH MODE RESIZE_H RESIZE_W CROP_H CROP_W FILTER CHANNELS MEAN... DEVIATION...
// The pixels, then what normalising makes of them.
void preprocessed(std::istream& words) {
  const auto path = next<std::string>(words);
  Preprocessing how;
  how.mode = resizeModeNamed(next<std::string>(words));
  words >> how.resize[0] >> how.resize[1] >> how.crop[0] >> how.crop[1];
  how.filter = filterNamed(next<std::string>(words));
  const int channels = next<int>(words);
  std::vector<double> mean;
  for (int c = 0; c < channels; ++c) mean.push_back(next<double>(words));
  how.mean.assign(mean.begin(), mean.end());
  how.fill = fillOf(mean);
  for (int c = 0; c < channels; ++c) how.deviation.push_back(next<float>(words));
  std::vector<uint8_t> pixels(how.elements());
  cropped(readPicture(path, channels), how, pixels.data());
  send(pixels);
  send(normalized(pixels, how));
}

void answer(const std::string& command, std::istream& words) {
  if (command == "sha256") {
    const auto bytes = receive<uint8_t>(next<size_t>(words));
    std::cout << sha256(bytes.data(), bytes.size()) << "\n";
  } else if (command == "resize") {
    const int height = next<int>(words);
    const int width = next<int>(words);
    Image image(width, height, next<int>(words));
    const int to_height = next<int>(words);
    const int to_width = next<int>(words);
    image.pixels = receive<uint8_t>(image.pixels.size());
    send(resize(image, to_width, to_height, filterNamed(next<std::string>(words))).pixels);
  } else if (command == "orientation") {
    std::cout << orientationOf(receive<uint8_t>(next<size_t>(words))) << "\n";
  } else if (command == "picture") {
    const int channels = next<int>(words);
    picture(next<std::string>(words), channels);
  } else if (command == "preprocess") {
    preprocessed(words);
  } else if (command == "convert") {  // to float16 or bfloat16, and back
    const ElementType type =
        next<std::string>(words) == "float16" ? ElementType::kFloat16 : ElementType::kBfloat16;
    std::vector<float> values = receive<float>(next<size_t>(words));
    std::vector<uint16_t> converted(values.size());
    fromFloats(values.data(), values.size(), type, converted.data());
    toFloats(converted.data(), values.size(), type, values.data());
    send(converted);
    send(values);
  }
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    answer(next<std::string>(words), words);
    std::cout.flush();
  }
}

// Plans of the stand-in for TensorRT: one linear layer, as text, then its weights, float32
// [classes, inputs]:
//
//   stand-in plan
//   input image float16 -1 3 8 8   or uint8
//   output logits float32 10
//   profile 1 3 8 8 4 3 8 8        least and largest shape; any number of lines
//   plugin 1                       needs a plugin library
//   host_code 1                    needs host code to be allowed
//   end
#pragma once

#include <algorithm>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

namespace stand_in {

using nvinfer1::DataType;
using nvinfer1::Dims;

struct Range {
  Dims least, largest;
};

struct Plan {
  std::string input, output;
  DataType input_type, output_type;
  Dims input_shape;
  int64_t classes = 0;
  std::vector<Range> profiles;
  bool plugin = false, host_code = false;
  std::vector<float> weights;
};

inline Dims readDims(std::istream& words) {
  Dims dims{};
  while (dims.nbDims < Dims::MAX_DIMS && words >> dims.d[dims.nbDims]) ++dims.nbDims;
  return dims;
}

inline DataType readType(std::istream& words) {
  std::string name;
  words >> name;
  return name == "float16"    ? DataType::kHALF
         : name == "bfloat16" ? DataType::kBF16
         : name == "uint8"    ? DataType::kUINT8
                              : DataType::kFLOAT;
}

inline bool readPlan(const char* bytes, size_t size, Plan& plan) {
  const std::string content(bytes, size);
  const size_t end = content.find("\nend\n");
  if (content.rfind("stand-in plan\n", 0) != 0 || end == std::string::npos) return false;
  std::istringstream lines(content.substr(0, end + 1));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string key;
    words >> key;
    if (key == "input") {
      words >> plan.input;
      plan.input_type = readType(words);
      plan.input_shape = readDims(words);
    } else if (key == "output") {
      words >> plan.output;
      plan.output_type = readType(words);
      words >> plan.classes;
    } else if (key == "profile") {
      Range range{};
      const Dims both = readDims(words);
      range.least.nbDims = range.largest.nbDims = both.nbDims / 2;
      std::copy_n(both.d, both.nbDims / 2, range.least.d);
      std::copy_n(both.d + both.nbDims / 2, both.nbDims / 2, range.largest.d);
      plan.profiles.push_back(range);
    } else if (key == "plugin") {
      words >> plan.plugin;
    } else if (key == "host_code") {
      words >> plan.host_code;
    }
  }
  const size_t bytes_left = size - (end + 5);
  plan.weights.resize(bytes_left / sizeof(float));
  std::memcpy(plan.weights.data(), bytes + end + 5, plan.weights.size() * sizeof(float));
  return true;
}

// Independent of elements.cpp: half precision from its definition.
inline float element(const void* memory, DataType type, size_t i) {
  if (type == DataType::kFLOAT) return static_cast<const float*>(memory)[i];
  if (type == DataType::kUINT8) return static_cast<const uint8_t*>(memory)[i];
  const uint32_t bits = static_cast<const uint16_t*>(memory)[i];
  const int exponent_bits = type == DataType::kHALF ? 5 : 8;
  const int fraction_bits = 15 - exponent_bits;
  const int exponent = static_cast<int>(bits >> fraction_bits & ((1U << exponent_bits) - 1));
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const float fraction = static_cast<float>(bits & ((1U << fraction_bits) - 1));
  const float scaled = fraction / static_cast<float>(1 << fraction_bits);
  const float value = exponent == 0 ? __builtin_ldexpf(scaled, 1 - bias)
                                    : __builtin_ldexpf(1.0F + scaled, exponent - bias);
  return bits >> 15 ? -value : value;
}

// The nearest number of the type, by bisection: they are in the order of their bits.
inline void store(void* memory, DataType type, size_t i, float value) {
  if (type == DataType::kFLOAT) {
    static_cast<float*>(memory)[i] = value;
    return;
  }
  const uint16_t infinity = type == DataType::kHALF ? 0x7C00 : 0x7F80;
  uint16_t low = 0;
  uint16_t high = infinity;
  const double magnitude = __builtin_fabs(value);
  while (high - low > 1) {
    const uint16_t middle = static_cast<uint16_t>((low + high) / 2);
    (element(&middle, type, 0) <= magnitude ? low : high) = middle;
  }
  const double below = magnitude - element(&low, type, 0);
  const double above = element(&high, type, 0) - magnitude;
  const bool up = above < below || (above == below && low % 2 == 1);
  static_cast<uint16_t*>(memory)[i] =
      static_cast<uint16_t>((up ? high : low) | (value < 0 ? 0x8000 : 0));
}

}  // namespace stand_in

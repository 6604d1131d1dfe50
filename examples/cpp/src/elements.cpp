#include "elements.h"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace dinat {
namespace {

uint32_t bitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

float floatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Drops low bits, rounded to nearest, halves to even.
uint32_t shiftRounded(uint32_t bits, int count) {
  const uint32_t half = (1U << (count - 1)) - 1 + (bits >> count & 1);
  return (bits + half) >> count;
}

// float16: 5 bits of exponent with a bias of 15, 10 of fraction.
uint16_t toHalf(float value) {
  const uint32_t bits = bitsOf(value);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t rest = bits & 0x7FFFFFFF;
  if (rest > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);   // not a number
  if (rest >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);  // rounds to infinity
  if (rest >= 0x38800000) {                                             // a normal float16
    return static_cast<uint16_t>(sign | shiftRounded(rest - 0x38000000, 13));
  }
  // Below, float16 counts in steps of 2^-24.
  const float steps = std::nearbyint(std::ldexp(floatOf(rest), 24));
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(steps));
}

float fromHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t rest = half & 0x7FFF;
  if (rest >= 0x7C00) return floatOf(sign | 0x7F800000 | (rest & 0x3FF) << 13);
  if (rest >= 0x0400) return floatOf(sign | ((rest << 13) + 0x38000000));
  const float value = std::ldexp(static_cast<float>(rest), -24);
  return sign != 0 ? -value : value;
}

// bfloat16: the upper half of a float.
uint16_t toBfloat(float value) {
  const uint32_t bits = bitsOf(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>(shiftRounded(bits, 16));
}

float fromBfloat(uint16_t value) { return floatOf(static_cast<uint32_t>(value) << 16); }

}  // namespace

size_t bytesOf(ElementType type) {
  if (type == ElementType::kUint8) return 1;
  return type == ElementType::kFloat32 ? 4 : 2;
}

void fromFloats(const float* values, size_t count, ElementType type, void* to) {
  if (type == ElementType::kFloat32) {
    std::memcpy(to, values, count * sizeof(float));
    return;
  }
  auto* const out = static_cast<uint16_t*>(to);
  for (size_t i = 0; i < count; ++i) {
    out[i] = type == ElementType::kFloat16 ? toHalf(values[i]) : toBfloat(values[i]);
  }
}

void toFloats(const void* from, size_t count, ElementType type, float* values) {
  if (type == ElementType::kFloat32) {
    std::memcpy(values, from, count * sizeof(float));
    return;
  }
  const auto* const in = static_cast<const uint16_t*>(from);
  for (size_t i = 0; i < count; ++i) {
    values[i] = type == ElementType::kFloat16 ? fromHalf(in[i]) : fromBfloat(in[i]);
  }
}

}  // namespace dinat

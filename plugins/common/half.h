// The two 16-bit floating types by their bits, with exact conversions on the host.
//
// Own types instead of CUDA's, so that code for the CPU and the emulation need no CUDA headers.
#pragma once

#include <cstdint>
#include <cstring>

namespace dinat {

struct Float16 {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

namespace detail {

inline uint32_t bitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float floatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace detail

inline float toFloat(float value) { return value; }

inline float toFloat(BFloat16 value) {
  return detail::floatOf(static_cast<uint32_t>(value.bits) << 16);
}

inline float toFloat(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t fraction = value.bits & 0x3ffu;
  if (exponent == 0x1fu) return detail::floatOf(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return detail::floatOf(sign | (exponent + 112u) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

// Rounds to nearest, ties to even, as the hardware does.
template <class T>
T fromFloat(float value);

template <>
inline float fromFloat<float>(float value) {
  return value;
}

template <>
inline BFloat16 fromFloat<BFloat16>(float value) {
  const uint32_t bits = detail::bitsOf(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <>
inline Float16 fromFloat<Float16>(float value) {
  const uint32_t bits = detail::bitsOf(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // normal
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  } else {  // adding 0.5 lets the float adder round to multiples of 2^-24
    half = detail::bitsOf(detail::floatOf(magnitude) + 0.5f) - 0x3f000000u;
  }
  return {static_cast<uint16_t>(sign | half)};
}

}  // namespace dinat

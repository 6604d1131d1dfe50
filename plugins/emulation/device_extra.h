// The twins of what kernels/device.cuh offers beyond the functions in device.h.
#pragma once

#include <limits>

#include "common/half.h"

#define DINAT_UNROLL

namespace dinat::device {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline unsigned warpIndex() { return threadIndex() / 32; }

inline float reciprocalApproximate(float x) { return 1.0f / x; }

inline uint32_t select(bool condition, uint32_t a, uint32_t b) { return condition ? a : b; }

inline const Vector16* keep(const Vector16* pointer) { return pointer; }

inline float asFloat(uint32_t bits) { return dinat::detail::floatOf(bits); }
inline uint32_t asBits(float value) { return dinat::detail::bitsOf(value); }

// Exchanges the bits: the lanes only move the value.
inline uint32_t shuffleXor(uint32_t value, int mask) {
  return asBits(shuffleXor(asFloat(value), mask));
}

template <class T>
float unpackLow(uint32_t word) {
  return toFloat(T{static_cast<uint16_t>(word)});
}

template <class T>
float unpackHigh(uint32_t word) {
  return toFloat(T{static_cast<uint16_t>(word >> 16)});
}

}  // namespace dinat::device

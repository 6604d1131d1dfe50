// Four floats in a NEON register of 64-bit Arm. See kernel_body.h for what each must do.

using Vector = float32x4_t;
constexpr int kWidth = 4;
constexpr int kQueries = 6;  // queries x vectors accumulators + operands fill 32 registers
constexpr int kVectors = 4;

inline Vector load(const float* source) { return vld1q_f32(source); }
inline void store(float* target, Vector values) { vst1q_f32(target, values); }
inline Vector broadcast(float value) { return vdupq_n_f32(value); }
inline Vector multiplyAdd(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
inline Vector multiply(Vector a, Vector b) { return vmulq_f32(a, b); }
inline Vector add(Vector a, Vector b) { return vaddq_f32(a, b); }
inline Vector subtract(Vector a, Vector b) { return vsubq_f32(a, b); }
inline Vector maximum(Vector a, Vector b) { return vmaxq_f32(a, b); }
inline Vector bounded(Vector value, Vector bound) { return vminnmq_f32(value, bound); }

#include "cpu/power.h"  // fractionPower, out of the functions above

inline Vector powerOfTwo(Vector x) {
  const uint32x4_t dropped = vcleq_f32(x, broadcast(kLeastExponent));
  const Vector whole = vrndnq_f32(x);
  const int32x4_t exponent = vaddq_s32(vcvtq_s32_f32(whole), vdupq_n_s32(127));
  const Vector power = vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23));
  const Vector result = multiply(fractionPower(subtract(x, whole)), power);
  return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(result), dropped));
}

inline float reduceMaximum(Vector v) { return vmaxvq_f32(v); }
inline float reduceSum(Vector v) { return vaddvq_f32(v); }

inline Vector loadConverted(const float* source) { return load(source); }

inline Vector loadConverted(const Float16* source) {
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&source->bits)));
}

inline Vector loadConverted(const BFloat16* source) {
  return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&source->bits), 16));
}

inline void storeConverted(float* target, Vector values) { store(target, values); }

inline void storeConverted(Float16* target, Vector values) {
  vst1_u16(&target->bits, vreinterpret_u16_f16(vcvt_f16_f32(values)));
}

inline void storeConverted(BFloat16* target, Vector values) {
  const uint32x4_t bits = vreinterpretq_u32_f32(values);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
  // Rounding could carry a NaN into infinity.
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  const uint32x4_t chosen = vbslq_u32(vceqq_f32(values, values), rounded, quiet);
  vst1_u16(&target->bits, vshrn_n_u32(chosen, 16));
}

constexpr int kTransposed = 4;

// Writes channels [0, 4) of four keys as four rows, `stride` floats apart.
template <class T>
inline void transposeKeys(const T* const* keys, int64_t channel, float* target, int64_t stride) {
  Vector row[4];
  for (int key = 0; key < 4; ++key) row[key] = loadConverted(keys[key] + channel);
  const Vector a = vtrn1q_f32(row[0], row[1]), b = vtrn2q_f32(row[0], row[1]);
  const Vector c = vtrn1q_f32(row[2], row[3]), d = vtrn2q_f32(row[2], row[3]);
  const auto join = [](Vector low, Vector high, bool upper) {
    const float64x2_t x = vreinterpretq_f64_f32(low), y = vreinterpretq_f64_f32(high);
    return vreinterpretq_f32_f64(upper ? vtrn2q_f64(x, y) : vtrn1q_f64(x, y));
  };
  store(target, join(a, c, false));
  store(target + stride, join(b, d, false));
  store(target + 2 * stride, join(a, c, true));
  store(target + 3 * stride, join(b, d, true));
}

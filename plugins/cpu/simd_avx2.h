// Eight floats in an AVX register (AVX2, FMA, F16C). See kernel_body.h for what each must do.

using Vector = __m256;
constexpr int kWidth = 8;
constexpr int kQueries = 6;  // queries x vectors accumulators + operands fill 16 registers
constexpr int kVectors = 2;

inline Vector load(const float* source) { return _mm256_loadu_ps(source); }
inline void store(float* target, Vector values) { _mm256_storeu_ps(target, values); }
inline Vector broadcast(float value) { return _mm256_set1_ps(value); }
inline Vector multiplyAdd(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
inline Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
inline Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
inline Vector maximum(Vector a, Vector b) { return _mm256_max_ps(a, b); }
inline Vector bounded(Vector value, Vector bound) { return _mm256_min_ps(value, bound); }

#include "cpu/power.h"  // fractionPower, out of the functions above

inline Vector powerOfTwo(Vector x) {
  const Vector kept = _mm256_cmp_ps(x, broadcast(kLeastExponent), _CMP_NLE_UQ);
  const Vector whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
  const Vector power = _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
  return _mm256_and_ps(kept, multiply(fractionPower(subtract(x, whole)), power));
}

template <class T>
inline Vector loadConverted(const T* source) {
  return loadEight(source);
}

template <class T>
inline void storeConverted(T* target, Vector values) {
  storeEight(target, values);
}

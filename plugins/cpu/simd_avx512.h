// Sixteen floats in an AVX-512 register (F, BW, DQ, VL). See kernel_body.h for what each must do.

using Vector = __m512;
constexpr int kWidth = 16;
constexpr int kQueries = 6;  // queries x vectors accumulators + operands fill 32 registers
constexpr int kVectors = 4;

inline Vector load(const float* source) { return _mm512_loadu_ps(source); }
inline void store(float* target, Vector values) { _mm512_storeu_ps(target, values); }
inline Vector broadcast(float value) { return _mm512_set1_ps(value); }
inline Vector multiplyAdd(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
inline Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
inline Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
inline Vector maximum(Vector a, Vector b) { return _mm512_max_ps(a, b); }
inline Vector bounded(Vector value, Vector bound) { return _mm512_min_ps(value, bound); }

inline Vector loadPair(const float* low, const float* high) {
  const __m512d lower = _mm512_castpd256_pd512(_mm256_castps_pd(_mm256_loadu_ps(low)));
  return _mm512_castpd_ps(_mm512_insertf64x4(lower, _mm256_castps_pd(_mm256_loadu_ps(high)), 1));
}

// Two of one row, two of the other, ... -> eight of the one, eight of the other.
inline Vector unweave(Vector values) {
  const __m512i order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
  return _mm512_castpd_ps(_mm512_permutexvar_pd(order, _mm512_castps_pd(values)));
}

#include "cpu/power.h"  // fractionPower, out of the functions above

inline Vector powerOfTwo(Vector x) {
  const __mmask16 kept = _mm512_cmp_ps_mask(x, broadcast(kLeastExponent), _CMP_NLE_UQ);
  const Vector whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return _mm512_maskz_scalef_ps(kept, fractionPower(_mm512_sub_ps(x, whole)), whole);
}

inline float reduceMaximum(Vector v) {
  return reduceMaximum(_mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}

inline float reduceSum(Vector v) {
  return reduceSum(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}

template <class T>
inline Vector loadConverted(const T* source) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(loadEight(source)), loadEight(source + 8), 1);
}

template <>
inline Vector loadConverted<float>(const float* source) {
  return load(source);
}

template <class T>
inline void storeConverted(T* target, Vector values) {
  storeEight(target, _mm512_castps512_ps256(values));
  storeEight(target + 8, _mm512_extractf32x8_ps(values, 1));
}

template <>
inline void storeConverted<float>(float* target, Vector values) {
  store(target, values);
}

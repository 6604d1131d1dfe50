// What AVX2 and AVX-512 share: conversions of eight elements and the transpose of 8 x 8.
//
// Included inside the anonymous namespace of a kernel's source file (see kernel_body.h).

inline __m256 loadEight(const float* source) { return _mm256_loadu_ps(source); }

inline __m256 loadEight(const Float16* source) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
}

inline __m256 loadEight(const BFloat16* source) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

inline void storeEight(float* target, __m256 values) { _mm256_storeu_ps(target, values); }

inline void storeEight(Float16* target, __m256 values) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target),
                   _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}

inline void storeEight(BFloat16* target, __m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
  // Rounding could carry a NaN into infinity.
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(values, values, _CMP_UNORD_Q));
  const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, nan);
  const __m256i packed = _mm256_packus_epi32(chosen, chosen);
  const __m256i ordered = _mm256_permute4x64_epi64(packed, 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_castsi256_si128(ordered));
}

constexpr int kTransposed = 8;

// Writes channels [0, 8) of eight keys as eight rows, `stride` floats apart.
template <class T>
inline void transposeKeys(const T* const* keys, int64_t channel, float* target, int64_t stride) {
  __m256 row[8], pair[8], quad[8];
  for (int key = 0; key < 8; ++key) row[key] = loadEight(keys[key] + channel);
  for (int key = 0; key < 8; key += 2) {
    pair[key] = _mm256_unpacklo_ps(row[key], row[key + 1]);
    pair[key + 1] = _mm256_unpackhi_ps(row[key], row[key + 1]);
  }
  for (int half = 0; half < 8; half += 4) {
    quad[half] = _mm256_shuffle_ps(pair[half], pair[half + 2], 0x44);
    quad[half + 1] = _mm256_shuffle_ps(pair[half], pair[half + 2], 0xee);
    quad[half + 2] = _mm256_shuffle_ps(pair[half + 1], pair[half + 3], 0x44);
    quad[half + 3] = _mm256_shuffle_ps(pair[half + 1], pair[half + 3], 0xee);
  }
  for (int lane = 0; lane < 4; ++lane) {
    _mm256_storeu_ps(target + lane * stride,
                     _mm256_permute2f128_ps(quad[lane], quad[lane + 4], 0x20));
    _mm256_storeu_ps(target + (lane + 4) * stride,
                     _mm256_permute2f128_ps(quad[lane], quad[lane + 4], 0x31));
  }
}

inline float reduceMaximum(__m256 values) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}

inline float reduceSum(__m256 values) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}

// Four floats in whatever the baseline of the machine offers, by the compiler's vector extension.
// See kernel_body.h for what each must do.

typedef float Vector __attribute__((vector_size(16)));
typedef int32_t Integers __attribute__((vector_size(16)));
constexpr int kWidth = 4;
constexpr int kQueries = 6;
constexpr int kVectors = 2;

inline Vector load(const float* source) {
  Vector values;
  __builtin_memcpy(&values, source, sizeof values);
  return values;
}
inline void store(float* target, Vector values) {
  __builtin_memcpy(target, &values, sizeof values);
}
inline Vector broadcast(float value) { return Vector{value, value, value, value}; }
inline Vector multiplyAdd(Vector a, Vector b, Vector c) { return a * b + c; }
inline Vector multiply(Vector a, Vector b) { return a * b; }
inline Vector add(Vector a, Vector b) { return a + b; }
inline Vector subtract(Vector a, Vector b) { return a - b; }
inline Vector maximum(Vector a, Vector b) { return a > b ? a : b; }
inline Vector bounded(Vector value, Vector bound) { return value < bound ? value : bound; }

#include "cpu/power.h"  // fractionPower, out of the functions above

inline Vector powerOfTwo(Vector x) {
  const Integers dropped = x <= kLeastExponent;
  // Out-of-range conversions are undefined, so dropped lanes take a harmless exponent first.
  const Vector near = dropped ? Vector{} : x;
  const Vector whole = (near + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23 rounds to integers
  const Integers exponent = __builtin_convertvector(near == near ? whole : Vector{}, Integers);
  const Vector power = (Vector)((exponent + 127) << 23);
  const Vector result = fractionPower(near - whole) * power;
  return dropped ? Vector{} : result;
}

inline float reduceMaximum(Vector v) {
  float greatest = v[0];
  for (int lane = 1; lane < kWidth; ++lane) greatest = v[lane] > greatest ? v[lane] : greatest;
  return greatest;
}
inline float reduceSum(Vector v) { return (v[0] + v[1]) + (v[2] + v[3]); }

template <class T>
inline Vector loadConverted(const T* source) {
  return Vector{toFloat(source[0]), toFloat(source[1]), toFloat(source[2]), toFloat(source[3])};
}

template <class T>
inline void storeConverted(T* target, Vector values) {
  for (int lane = 0; lane < kWidth; ++lane) target[lane] = fromFloat<T>(values[lane]);
}

constexpr int kTransposed = 4;

// Writes channels [0, 4) of four keys as four rows, `stride` floats apart.
template <class T>
inline void transposeKeys(const T* const* keys, int64_t channel, float* target, int64_t stride) {
  for (int lane = 0; lane < 4; ++lane) {
    for (int key = 0; key < 4; ++key) {
      target[lane * stride + key] = toFloat(keys[key][channel + lane]);
    }
  }
}

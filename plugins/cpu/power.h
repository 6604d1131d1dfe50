// Constants and the polynomial of powerOfTwo, included by every simd_*.h after its arithmetic.

// Weights below 2^-120 count as zero: sums over them would run on denormals, which are slow.
constexpr float kLeastExponent = -120.0f;

constexpr float kInfinity = __builtin_inff();

// 2^x for x in [-0.5, 0.5], to 2.4e-7 (the minimax polynomial of degree 5 of the relative error).
inline Vector fractionPower(Vector x) {
  Vector power = broadcast(1.327647129e-3f);
  power = multiplyAdd(power, x, broadcast(9.675540961e-3f));
  power = multiplyAdd(power, x, broadcast(5.550713092e-2f));
  power = multiplyAdd(power, x, broadcast(2.402212024e-1f));
  power = multiplyAdd(power, x, broadcast(6.931469440e-1f));
  return multiplyAdd(power, x, broadcast(1.000000119f));
}

// What kernels ask of the device, answered by the emulation: the twin of kernels/device.cuh.
//
// Every access is checked as the hardware would (alignment, state space) and beyond (the operands'
// extents, hazards in shared memory). Names and meanings are those of kernels/device.cuh.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "common/half.h"
#include "emulation/scheduler.h"
#include "emulation/warp.h"

#define DINAT_DEVICE inline
#define DINAT_PARAMETER const
#define DINAT_KERNEL(max_threads, min_blocks) void

namespace dinat::device {

namespace emu = dinat::emulation;

inline unsigned threadIndex() { return emu::Block::current().thread(); }
inline unsigned blockIndexX() { return emu::Block::current().index().x; }
inline unsigned blockIndexY() { return emu::Block::current().index().y; }
inline unsigned blockIndexZ() { return emu::Block::current().index().z; }
inline unsigned blockSize() { return emu::Block::current().threads(); }
inline void synchronize() { emu::Block::current().synchronize(); }

inline unsigned char* sharedMemory() { return emu::Block::current().shared().data(); }

inline uint32_t sharedAddress(const void* pointer) {
  return emu::Block::current().shared().offsetOf(pointer);
}

// 16 bytes from global to shared memory, or 16 zeros if not `valid`.
inline void copyAsync16(uint32_t shared, const void* global, bool valid) {
  emu::Block& block = emu::Block::current();
  if (valid) block.global().check(global, 16, 16, false, "cp.async");
  block.copies().issue(block.shared(), block.thread(), shared, global, valid, block.copyAtOnce());
  ++block.statistics().copies;
}

inline void commitCopies() { emu::Block::current().copies().commit(); }

template <int N>
void waitCopies() {
  emu::Block& block = emu::Block::current();
  block.copies().wait(block.shared(), block.thread(), N);
}

inline void loadMatrix4(uint32_t (&r)[4], uint32_t shared) {
  emu::MatrixLoad part{shared, r};
  emu::Block::current().join(emu::kLoadMatrix, &part);
}

inline void loadMatrix4Transposed(uint32_t (&r)[4], uint32_t shared) {
  emu::MatrixLoad part{shared, r};
  emu::Block::current().join(emu::kLoadMatrixTransposed, &part);
}

template <class T>
void multiplyAccumulate(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  constexpr bool kFloat16 = std::is_same_v<T, Float16>;
  static_assert(kFloat16 || std::is_same_v<T, BFloat16>);
  emu::Product part{c, a, {b0, b1}};
  emu::Block::current().join(kFloat16 ? emu::kProductFloat16 : emu::kProductBFloat16, &part);
}

// Flushes subnormal results to zero, as ex2.approx.ftz does.
inline float exp2Approximate(float exponent) {
  const float result = std::exp2(exponent);
  return result < std::numeric_limits<float>::min() ? 0.0f : result;
}

inline float shuffleXor(float value, int mask) {
  emu::Shuffle part{value, mask, 0.0f};
  emu::Block::current().join(emu::kShuffle, &part);
  return part.result;
}

template <class T>
uint32_t pack2(float low, float high) {
  return fromFloat<T>(low).bits | static_cast<uint32_t>(fromFloat<T>(high).bits) << 16;
}

struct Vector16 {
  uint32_t word[4];
};

namespace detail {

template <class Value>
Value loadGlobal(const void* pointer) {
  emu::Block::current().global().check(pointer, sizeof(Value), sizeof(Value), false, "load");
  Value value;
  std::memcpy(&value, pointer, sizeof value);
  return value;
}

template <class Value>
void storeGlobal(void* pointer, const Value& value) {
  emu::Block::current().global().check(pointer, sizeof(Value), sizeof(Value), true, "store");
  std::memcpy(pointer, &value, sizeof value);
}

}  // namespace detail

inline Vector16 loadGlobal16(const void* pointer) { return detail::loadGlobal<Vector16>(pointer); }
inline void storeGlobal16(void* pointer, const Vector16& value) {
  detail::storeGlobal(pointer, value);
}
inline uint32_t loadGlobal4(const void* pointer) { return detail::loadGlobal<uint32_t>(pointer); }
inline void storeGlobal4(void* pointer, uint32_t value) { detail::storeGlobal(pointer, value); }

template <class T>
float load(const T* pointer) {
  return toFloat(detail::loadGlobal<T>(pointer));
}

template <class T>
void store(T* pointer, float value) {
  detail::storeGlobal(pointer, fromFloat<T>(value));
}

}  // namespace dinat::device

#if defined(__has_include)
#if __has_include("emulation/device_extra.h")
#include "emulation/device_extra.h"
#endif
#endif

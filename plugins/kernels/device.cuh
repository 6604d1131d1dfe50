// The only place with CUDA intrinsics and inline PTX. Kernels call these functions by their names
// here, so that the same sources run under the emulation (plugins/emulation), which gives each of
// them the meaning that the PTX manual gives the instruction.
//
// ADDED: shuffleXor(uint32_t, int), unpackLow, unpackHigh, asFloat, asBits,
// keep, select, warpIndex, reciprocalApproximate, DINAT_UNROLL, kInfinity
// (their emulated twins: emulation/device_extra.h)
#pragma once

#ifdef DINAT_EMULATION
#include "emulation/device.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "common/half.h"

#define DINAT_KERNEL(max_threads, min_blocks) \
  __global__ void __launch_bounds__(max_threads, min_blocks)
#define DINAT_PARAMETER const __grid_constant__
#define DINAT_DEVICE __device__ __forceinline__
#define DINAT_UNROLL _Pragma("unroll")

namespace dinat::device {

constexpr float kInfinity = __builtin_huge_valf();

DINAT_DEVICE unsigned threadIndex() { return threadIdx.x; }
DINAT_DEVICE unsigned blockIndexX() { return blockIdx.x; }
DINAT_DEVICE unsigned blockIndexY() { return blockIdx.y; }
DINAT_DEVICE unsigned blockIndexZ() { return blockIdx.z; }
DINAT_DEVICE unsigned blockSize() { return blockDim.x; }

// The thread's warp in its block. By a broadcast, because the compiler cannot know that threadIdx.x
// / 32 is the same in all lanes: what depends on it would be compiled as possibly divergent.
DINAT_DEVICE unsigned warpIndex() { return __shfl_sync(0xffffffffu, threadIdx.x / 32, 0); }

// Barrier of the whole block.
DINAT_DEVICE void synchronize() { __syncthreads(); }

DINAT_DEVICE unsigned char* sharedMemory() {
  extern __shared__ __align__(16) unsigned char dinat_shared_memory[];
  return dinat_shared_memory;
}

DINAT_DEVICE uint32_t sharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts copying 16 bytes past the first-level cache; zeros instead when not `valid`, `global` then
// being any mapped address.
DINAT_DEVICE void copyAsync16(uint32_t shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}

DINAT_DEVICE void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N of this thread's committed groups are under way.
template <int N>
DINAT_DEVICE void waitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
DINAT_DEVICE void loadMatrix4(uint32_t (&r)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

DINAT_DEVICE void loadMatrix4Transposed(uint32_t (&r)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

// c += a * b of a warp: a is 16 x 16, b is 16 x 8, sums in float32.
template <class T>
DINAT_DEVICE void multiplyAccumulate(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                     uint32_t b1) {
  if constexpr (std::is_same_v<T, Float16>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

DINAT_DEVICE float exp2Approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// To within one unit in the last place.
DINAT_DEVICE float reciprocalApproximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

DINAT_DEVICE float shuffleXor(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

DINAT_DEVICE uint32_t shuffleXor(uint32_t value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// Two values rounded to T, `low` in the lower half of the word.
template <class T>
DINAT_DEVICE uint32_t pack2(float low, float high) {
  if constexpr (std::is_same_v<T, Float16>) {
    const __half2 pair = __floats2half2_rn(low, high);
    return static_cast<uint32_t>(__half_as_ushort(pair.y)) << 16 | __half_as_ushort(pair.x);
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return static_cast<uint32_t>(__bfloat16_as_ushort(pair.y)) << 16 | __bfloat16_as_ushort(pair.x);
  }
}

template <class T>
DINAT_DEVICE float unpackLow(uint32_t word) {
  if constexpr (std::is_same_v<T, Float16>) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(word)));
  } else {
    return __uint_as_float(word << 16);
  }
}

template <class T>
DINAT_DEVICE float unpackHigh(uint32_t word) {
  if constexpr (std::is_same_v<T, Float16>) {
    return __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16)));
  } else {
    return __uint_as_float(word & 0xffff0000u);
  }
}

// `condition ? a : b`, opaque to the compiler, which else turns a conditional operand of a shuffle
// into two shuffles under divergent branches.
DINAT_DEVICE uint32_t select(bool condition, uint32_t a, uint32_t b) {
  uint32_t result;
  asm("{ .reg .pred p; setp.ne.u32 p, %3, 0; selp.b32 %0, %1, %2, p; }"
      : "=r"(result)
      : "r"(a), "r"(b), "r"(static_cast<uint32_t>(condition)));
  return result;
}

DINAT_DEVICE float asFloat(uint32_t bits) { return __uint_as_float(bits); }
DINAT_DEVICE uint32_t asBits(float value) { return __float_as_uint(value); }

struct Vector16 {
  uint32_t word[4];
};

// The same pointer, in registers: keeps the compiler from spreading its terms over every access.
DINAT_DEVICE const Vector16* keep(const Vector16* pointer) {
  asm("" : "+l"(pointer));
  return pointer;
}

// Through the read-only path: what the kernels read is never written while they run.
DINAT_DEVICE Vector16 loadGlobal16(const void* pointer) {
  const uint4 v = __ldg(static_cast<const uint4*>(pointer));
  return {{v.x, v.y, v.z, v.w}};
}

DINAT_DEVICE void storeGlobal16(void* pointer, const Vector16& v) {
  *static_cast<uint4*>(pointer) = make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]);
}

DINAT_DEVICE uint32_t loadGlobal4(const void* pointer) {
  return __ldg(static_cast<const unsigned int*>(pointer));
}

DINAT_DEVICE void storeGlobal4(void* pointer, uint32_t value) {
  *static_cast<uint32_t*>(pointer) = value;
}

// One element of a tensor, as float32.
template <class T>
DINAT_DEVICE float load(const T* pointer) {
  if constexpr (std::is_same_v<T, float>) {
    return __ldg(pointer);
  } else {
    return unpackLow<T>(__ldg(reinterpret_cast<const unsigned short*>(pointer)));
  }
}

template <class T>
DINAT_DEVICE void store(T* pointer, float value) {
  if constexpr (std::is_same_v<T, float>) {
    *pointer = value;
  } else if constexpr (std::is_same_v<T, Float16>) {
    pointer->bits = __half_as_ushort(__float2half_rn(value));
  } else {
    pointer->bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
  }
}

}  // namespace dinat::device

#endif  // DINAT_EMULATION

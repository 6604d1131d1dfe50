// What the kernels are told: plain structures passed by value, filled by launch_plan.cpp.
//
// Everything that a kernel would otherwise divide for is computed here, once, on the host.
#pragma once

#include <cstdint>

#include "common/window.h"

namespace dinat::cuda {

DINAT_HOST_DEVICE constexpr int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }

// Division of n < 2^31 by a fixed divisor: one multiplication and a shift.
//
// With 2^(s-1) < divisor <= 2^s and m = ceil(2^(31+s) / divisor), the error of n * m / 2^(31+s) is
// below n / 2^31 * divisor / 2^s / divisor < 1 / divisor, too little to reach the next integer.
struct FastDivide {
  uint32_t divisor;
  uint32_t multiplier;
  uint32_t shift;

  static FastDivide by(uint32_t divisor) {
    uint32_t log2 = 0;
    while ((uint64_t{1} << log2) < divisor) ++log2;
    const uint64_t power = uint64_t{1} << (31 + log2);
    return {divisor, static_cast<uint32_t>((power + divisor - 1) / divisor), 31 + log2};
  }

  DINAT_HOST_DEVICE uint32_t quotient(uint32_t n) const {
    return static_cast<uint32_t>(static_cast<uint64_t>(n) * multiplier >> shift);
  }

  // Replaces n by its quotient and returns the remainder.
  DINAT_HOST_DEVICE uint32_t split(uint32_t* n) const {
    const uint32_t whole = quotient(*n);
    const uint32_t remainder = *n - whole * divisor;
    *n = whole;
    return remainder;
  }
};

// Portable kernel. Strides in elements. Work items of a launch are numbered with the slice of the
// channels fastest, then head, column, row, image; a power of two of lanes shares one item.
struct PortableParameters {
  const void* query;
  const void* key;
  const void* value;
  const void* rpb;
  void* output;
  int64_t input_batch, input_row, input_column, input_head;
  int64_t output_batch, output_row, output_column, output_head;
  int64_t next_key;      // from one key of a window to the next in its row
  int64_t next_key_row;  // from the last one in a row to the first in the next
  uint32_t items;
  uint32_t lanes_log2;
  int32_t head_dim;
  int32_t first_row;  // of the rows that the launch covers
  int32_t size[2];
  int32_t kernel_size[2];
  FastDivide slices, heads, columns, rows;  // of the launch
  FastDivide dilation[2];
  float scale;  // times log2(e)
};

// Tensor-core kernels. Strides in vectors of 16 bytes, so that 32 bits reach any token of an image.
// Blocks are numbered with the head fastest, then tile, dilation group, image.
struct TileParameters {
  const void* query;
  const void* key;
  const void* value;
  const void* rpb;
  void* output;
  uint64_t input_batch, output_batch;
  uint32_t input_token[2], output_token[2];    // to the next token along an axis
  uint32_t input_member[2], output_member[2];  // to the next token of the same dilation group
  uint32_t input_head, output_head;
  FastDivide heads, tiles[2], groups[2];
  int32_t members[2];        // of the smallest dilation group: size / dilation
  int32_t longer_groups[2];  // how many groups have one member more: size % dilation
  int32_t kernel_size[2];
  float scale;          // times log2(e)
  float inverse_scale;  // the bias enters the scores before they are scaled
};

}  // namespace dinat::cuda

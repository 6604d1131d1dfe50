// The interface between the plan (attention.cpp) and the kernels, one per instruction set.
//
// Plain data and no inline functions: the kernels are compiled with flags of their instruction set,
// and the linker must never pick one of their copies of a shared function for another machine.
#pragma once

#include <cstdint>

#include "common/problem.h"

namespace dinat::cpu {

// Keys of a patch; `rows * columns` scores are computed for each query.
struct Patch {
  int32_t rows;
  int32_t columns;
};

// One patch along one axis. All positions count members of the dilation group.
struct AxisTile {
  int32_t origin;       // first key
  int32_t first_query;  // queries [first_query, last_query)
  int32_t last_query;
};

// An axis of one dilation group (AxisTiling, by its addresses).
struct Axis {
  int32_t members;
  int32_t kernel_size;
  int32_t tile_count;
  const AxisTile* tiles;
  const int32_t* start;  // first key of each query's window
};

// A run of patch rows of one head of one image in one dilation group.
struct Unit {
  // The element of the group's first member; one step of a stride is one member further.
  const void* query;
  const void* key;
  const void* value;
  void* output;
  int64_t input_row;
  int64_t input_column;
  int64_t output_row;
  int64_t output_column;
  int32_t head_dim;
  int32_t padded_dim;  // head_dim rounded up to whole vectors
  float scale;         // of <query, key>, times log2(e): softmax runs in powers of two
  Patch patch;
  Axis rows;
  Axis columns;
  int32_t padded_columns;  // of a row of transposed keys
  int32_t first_tile;      // of `rows`
  int32_t last_tile;
  // The window of every query is the whole group: keys and scores are packed without gaps.
  bool whole;
  // rpb times log2(e) at offset (0, 0); readable by patch - kernel_size beyond its table on each
  // side of both axes. The lanes of a query at (row, column) begin `row * bias_pitch + column *
  // bias_column` before those of the one at (0, 0).
  const float* bias;
  int64_t bias_pitch;
  int64_t bias_column;
  // [row shift][column shift][patch]: +inf for lanes of a window that begins `shift` keys into the
  // patch, -inf for all others. Of a whole group: +inf for its keys, -inf to fill the last vector.
  const float* masks;
};

// Memory of one thread, 64-byte aligned; in floats.
struct Scratch {
  float* keys;            // max(rows, patch.rows) * padded_columns * padded_dim
  float* values;          // rows * columns * padded_dim
  float* queries;         // max_queries * padded_dim; the outputs take their place
  float* scores;          // max_queries * patch
  int64_t* key_offsets;   // of the first lane of each vector of a patch: patch / width
  int64_t* bias_offsets;  // the same
};

struct Kernel {
  int32_t width;                                // floats in a vector
  int32_t max_queries;                          // of a register tile
  void (*run[3])(const Unit&, const Scratch&);  // by DataType
  // Keeps the multipliers busy for `count` rounds; returns floating-point operations done and
  // leaves a value that depends on all of them.
  double (*multiply)(int64_t count, float* result);
};

extern const Kernel kScalarKernel;
extern const Kernel kAvx2Kernel;
extern const Kernel kAvx512Kernel;
extern const Kernel kNeonKernel;

}  // namespace dinat::cpu

// The kernel, for whatever vectors the including source file has chosen (README.md explains it).
//
// Included inside the anonymous namespace of one source file per instruction set, after a simd_*.h
// that defines
//   Vector, kWidth           a register of kWidth floats
//   kQueries, kVectors       size of a register tile of scores
//   load, store, broadcast, multiplyAdd(a, b, c) = a*b + c, multiply, add, subtract, maximum
//   bounded(value, bound)    the smaller one; `bound` where value is NaN
//   powerOfTwo(x)            2^x for x <= 0, exactly 0 up to kLeastExponent, NaN of NaN
//   reduceMaximum, reduceSum
//   loadConverted, storeConverted   kWidth elements of a storage type
//   transposeKeys, kTransposed      kTransposed channels of as many keys
//   loadPair, unweave        (DINAT_PAIRED_ROWS) two half vectors; lanes of two rows taken apart
// Everything here has internal linkage on purpose: see kernel.h.

// A register tile of queries that share a patch.
struct Tile {
  const float* query[kQueries];
  const float* bias[kQueries];
  const float* mask[kQueries];
  float* output[kQueries];
  // Rows and columns of the patch that any of the windows covers.
  int32_t first_row;
  int32_t last_row;
  int32_t first_column;
  int32_t last_column;
};

// Packed operands, as all tiles of a unit see them.
struct Packed {
  // Channel c of the key at (row, column): keys[row * key_row + c * key_channel + column]; see
  // kernel_scores.h for Lanes::kWoven.
  const float* keys;
  int64_t key_row;
  int64_t key_channel;
  // Lanes::kGroup: the channels of the key after the last full vector.
  const float* last_key;
  int64_t vectors;      // of scores of a query
  int64_t pitch;        // from one query's scores to the next one's
  const float* values;  // of the key at (row, column): values + row * value_row + column * dim
  int64_t value_row;
  int64_t dim;      // padded
  int64_t columns;  // of a patch; of a whole group: all its keys
};

inline int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
inline int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

constexpr int64_t kCacheLine = 64;

template <int kNumber>
struct Constant {
  static constexpr int kValue = kNumber;
};

// For functions with arrays of registers as arguments, and for loops over them: neither may leave a
// trace of an array in memory.
#if defined(__GNUC__)
#define DINAT_INLINE inline __attribute__((always_inline))
#else
#define DINAT_INLINE inline
#endif
#if defined(__clang__)
#define DINAT_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define DINAT_UNROLL _Pragma("GCC unroll 8")
#else
#define DINAT_UNROLL
#endif

// clang-format off: the order matters
#include "cpu/kernel_pack.h"
#include "cpu/kernel_scores.h"
// clang-format on

// ---------------------------------------------------------------------------------------- outputs

// Weighted sums of kCount vectors of channels of the values.
template <int kTile, int kCount>
DINAT_INLINE void sumValues(const Packed& packed, const float* values, const Tile& tile,
                            const float* weights, const float* total, int64_t channel) {
  const int64_t pitch = packed.pitch;
  Vector sum[kTile][kCount];
  for (int query = 0; query < kTile; ++query) {
    for (int vector = 0; vector < kCount; ++vector) sum[query][vector] = broadcast(0.0f);
  }
  for (int32_t row = tile.first_row; row < tile.last_row; ++row) {
    const float* value = values + row * packed.value_row + tile.first_column * packed.dim + channel;
    const float* weight = weights + row * packed.columns;
    for (int32_t column = tile.first_column; column < tile.last_column; ++column) {
      Vector of_key[kCount];
      for (int vector = 0; vector < kCount; ++vector)
        of_key[vector] = load(value + vector * kWidth);
      for (int query = 0; query < kTile; ++query) {
        const Vector of_query = broadcast(weight[query * pitch + column]);
        for (int vector = 0; vector < kCount; ++vector) {
          sum[query][vector] = multiplyAdd(of_query, of_key[vector], sum[query][vector]);
        }
      }
      value += packed.dim;
    }
  }
  for (int query = 0; query < kTile; ++query) {
    const Vector factor = broadcast(1.0f / total[query]);
    for (int vector = 0; vector < kCount; ++vector) {
      store(tile.output[query] + channel + vector * kWidth, multiply(sum[query][vector], factor));
    }
  }
}

// ------------------------------------------------------------------------------------------ tiles

// Attention of the kTile queries of a tile to one patch.
template <int kTile, Lanes kLanes>
void attend(const Unit& unit, const Packed& packed, const float* keys, const float* values,
            const Tile& tile, const Scratch& scratch) {
  // A patch of 7x7 windows, and a group of 7x7 keys without its last, in AVX-512.
  constexpr int kSmall = kLanes == Lanes::kGroup ? kVectors - 1 : kVectors;
  Softmax softmax;
  if (kLanes == Lanes::kGroup) {
    for (int i = 0; i < Softmax::kSize; i += kWidth) {
      store(softmax.shift + i, broadcast(0.0f));
      store(softmax.rest + i, broadcast(0.0f));
      store(softmax.total + i, broadcast(0.0f));
    }
    scoreLastKey<kTile>(unit, packed, tile, &softmax);
  }
  if (packed.vectors == kSmall) {
    weighSmallPatch<kTile, kSmall, kLanes>(unit, packed, keys, tile, scratch, &softmax);
  } else {
    weighPatch<kTile, kLanes>(unit, packed, keys, tile, scratch, &softmax);
  }
  if (kLanes == Lanes::kGroup) {
    for (int i = 0; i < Softmax::kSize; i += kWidth) {
      const Vector weight = powerOfTwo(subtract(load(softmax.rest + i), load(softmax.shift + i)));
      store(softmax.rest + i, weight);
      store(softmax.total + i, add(load(softmax.total + i), weight));
    }
    for (int query = 0; query < kTile; ++query) {
      scratch.scores[query * packed.pitch + packed.vectors * kWidth] = softmax.rest[query];
    }
  }
  for (int64_t channel = 0; channel < packed.dim;) {
    const auto sum = [&](auto count) {
      constexpr int kCount = decltype(count)::kValue;
      sumValues<kTile, kCount>(packed, values, tile, scratch.scores, softmax.total, channel);
      channel += kCount * kWidth;
    };
    const int64_t left = (packed.dim - channel) / kWidth;
    if (left >= kVectors) {
      sum(Constant<kVectors>{});
    } else if (left >= 2) {
      sum(Constant<2>{});
    } else {
      sum(Constant<1>{});
    }
  }
}

template <Lanes kLanes>
inline void attendAny(int32_t count, const Unit& unit, const Packed& packed, const float* keys,
                      const float* values, const Tile& tile, const Scratch& scratch) {
  static_assert(kQueries == 6, "one case for each size of a register tile");
  switch (count) {
    case 1:
      return attend<1, kLanes>(unit, packed, keys, values, tile, scratch);
    case 2:
      return attend<2, kLanes>(unit, packed, keys, values, tile, scratch);
    case 3:
      return attend<3, kLanes>(unit, packed, keys, values, tile, scratch);
    case 4:
      return attend<4, kLanes>(unit, packed, keys, values, tile, scratch);
    case 5:
      return attend<5, kLanes>(unit, packed, keys, values, tile, scratch);
    case 6:
      return attend<6, kLanes>(unit, packed, keys, values, tile, scratch);
  }
}

// Asks for a patch's queries ahead of their use: tokens of a dilation group lie too far apart for
// the hardware to foresee.
template <class T>
inline void prefetchQueries(const Unit& unit, const AxisTile& rows, const AxisTile& columns) {
  const int64_t bytes = unit.head_dim * static_cast<int64_t>(sizeof(T));
  for (int32_t row = rows.first_query; row < rows.last_query; ++row) {
    for (int32_t column = columns.first_query; column < columns.last_query; ++column) {
      const char* query = reinterpret_cast<const char*>(
          static_cast<const T*>(unit.query) + row * unit.input_row + column * unit.input_column);
      for (int64_t line = 0; line < bytes; line += kCacheLine) __builtin_prefetch(query + line);
    }
  }
}

// Whether queries are read from, and outputs written to, the tensors themselves.
template <class T>
inline bool isDirect(const Unit&) {
  return false;
}

template <>
inline bool isDirect<float>(const Unit& unit) {
  return unit.head_dim == unit.padded_dim;
}

// Gathers the queries [first, last) of a patch, counted row by row. Where they are not float32 in
// whole vectors, they are packed into scratch memory, which also receives their outputs.
template <class T>
inline void gather(const Unit& unit, const AxisTile& rows, const AxisTile& columns, int32_t first,
                   int32_t last, const Scratch& scratch, Tile* tile, T** outputs) {
  const int32_t across = columns.last_query - columns.first_query;
  const int32_t kernel_rows = unit.rows.kernel_size, kernel_columns = unit.columns.kernel_size;
  const int32_t column_shifts = unit.patch.columns - kernel_columns + 1;
  const int64_t lanes = static_cast<int64_t>(unit.patch.rows) * unit.patch.columns;
  const bool direct = isDirect<T>(unit);
  const int32_t first_column = columns.first_query, last_column = columns.last_query;
  const int64_t bias_pitch = unit.bias_pitch, bias_column = unit.bias_column, dim = unit.head_dim,
                step = unit.padded_dim;
  const int64_t input_column = unit.input_column, output_column = unit.output_column;
  const int32_t* starts = unit.columns.start;
  float* packed_query = scratch.queries;
  int32_t row = rows.first_query, skipped = first;
  for (; skipped >= across; skipped -= across) ++row;
  int32_t column = first_column + skipped;
  int32_t low_row = unit.patch.rows, high_row = 0, low_column = unit.patch.columns, high_column = 0;
  for (int32_t query = 0; query < last - first; ++row) {
    const int32_t row_shift = unit.rows.start[row] - rows.origin;
    low_row = smaller(low_row, row_shift);
    high_row = larger(high_row, row_shift);
    const float* row_bias = unit.bias + (rows.origin - row + kernel_rows - 1) * bias_pitch +
                            (columns.origin + kernel_columns - 1) * bias_column;
    const float* row_mask = unit.masks + row_shift * column_shifts * lanes;
    const T* row_query = static_cast<const T*>(unit.query) + row * unit.input_row;
    T* row_output = static_cast<T*>(unit.output) + row * unit.output_row;
    for (; column < last_column && query < last - first; ++column, ++query) {
      const int32_t column_shift = starts[column] - columns.origin;
      low_column = smaller(low_column, column_shift);
      high_column = larger(high_column, column_shift);
      tile->bias[query] = row_bias - column * bias_column;
      tile->mask[query] = row_mask + column_shift * lanes;
      const T* of_query = row_query + column * input_column;
      outputs[query] = row_output + column * output_column;
      if (direct) {
        tile->query[query] = reinterpret_cast<const float*>(of_query);
        tile->output[query] = reinterpret_cast<float*>(outputs[query]);
      } else {
        copyRow(of_query, dim, packed_query);
        tile->query[query] = packed_query;
        tile->output[query] = packed_query;
        packed_query += step;
      }
    }
    column = first_column;
  }
  tile->first_row = low_row;
  tile->last_row = high_row + kernel_rows;
  tile->first_column = low_column;
  tile->last_column = high_column + kernel_columns;
  if (unit.whole) {  // one long row
    tile->last_row = 1;
    tile->last_column = kernel_rows * kernel_columns;
  }
}

template <class T>
void run(const Unit& unit, const Scratch& scratch) {
  const Axis& rows = unit.rows;
  const Axis& columns = unit.columns;
  const int32_t first_row = rows.tiles[unit.first_tile].origin;
  const int32_t last_row =
      smaller(rows.tiles[unit.last_tile - 1].origin + unit.patch.rows, rows.members);
  const int32_t packed_rows = larger(last_row - first_row, unit.patch.rows);
  const int64_t padded = unit.padded_columns, dim = unit.padded_dim;
  prefetchQueries<T>(unit, rows.tiles[unit.first_tile], columns.tiles[0]);
  Packed packed;
  packed.keys = scratch.keys;
  packed.values = scratch.values;
  packed.value_row = columns.members * dim;
  packed.dim = dim;
  auto attend_tile = attendAny<Lanes::kFollowing>;
  bool woven = false;
  if (unit.whole) {
    const int64_t keys = static_cast<int64_t>(rows.members) * columns.members;
    // Of an odd number of keys, like 7x7, one is often alone in its vector: it costs less apart.
    const bool one_more = keys % kWidth == 1 && keys > kWidth;
    packed.columns = keys;
    packed.vectors = one_more ? keys / kWidth : (keys + kWidth - 1) / kWidth;
    packed.pitch = (keys + kWidth - 1) / kWidth * kWidth;
    packed.key_row = packed.key_channel = packed.vectors * kWidth;
    packGroup<T>(unit, packed.key_channel, scratch.keys);
    if (one_more) {
      float* last_key = scratch.keys + packed.key_channel * dim;
      copyRow(static_cast<const T*>(unit.key) + (rows.members - 1) * unit.input_row +
                  (columns.members - 1) * unit.input_column,
              unit.head_dim, last_key);
      packed.last_key = last_key;
      attend_tile = attendAny<Lanes::kGroup>;
    }
    for (int64_t vector = 0; vector < packed.vectors; ++vector) {
      scratch.key_offsets[vector] = scratch.bias_offsets[vector] = vector * kWidth;
    }
  } else {
    // Where a row of keys is no longer than a patch, all lanes of a patch follow each other.
    const bool contiguous = padded == unit.patch.columns;
    // All patches begin at even places (tiling.h).
    woven = !contiguous && unit.patch.columns < kWidth && rows.members % 2 == 0 &&
            columns.members % 2 == 0 && unit.rows.kernel_size % 2 == 1 &&
            unit.columns.kernel_size % 2 == 1;
    packed.columns = unit.patch.columns;
    packed.pitch = static_cast<int64_t>(unit.patch.rows) * unit.patch.columns;
    packed.vectors = packed.pitch / kWidth;
    packed.key_row = contiguous ? padded : padded * dim;
    packed.key_channel = contiguous ? packed_rows * padded : padded;
    if (woven) {
      packed.key_channel = 2 * padded;
      packRowPairs<T>(unit, first_row, last_row, packed, scratch.keys);
    } else {
      packRows<T>(unit, first_row, last_row, packed, scratch.keys);
    }
    for (int64_t vector = 0; vector < packed.vectors; ++vector) {
      const int64_t row = vector * kWidth / unit.patch.columns;
      const int64_t column = vector * kWidth % unit.patch.columns;
      scratch.key_offsets[vector] = row * packed.key_row + column;
      scratch.bias_offsets[vector] = row * unit.bias_pitch + column;
    }
    if (unit.patch.columns < kWidth) {
      attend_tile = woven        ? attendAny<Lanes::kWoven>
                    : contiguous ? attendAny<Lanes::kPairedBias>
                                 : attendAny<Lanes::kPaired>;
    }
  }
  packValues<T>(unit, first_row, last_row, packed, scratch.values);
  for (int32_t i = unit.first_tile; i < unit.last_tile; ++i) {
    const AxisTile& row_tile = rows.tiles[i];
    const int64_t from_row = row_tile.origin - first_row;
    for (int32_t j = 0; j < columns.tile_count; ++j) {
      const AxisTile& column_tile = columns.tiles[j];
      if (j + 1 < columns.tile_count) {
        prefetchQueries<T>(unit, row_tile, columns.tiles[j + 1]);
      } else if (i + 1 < unit.last_tile) {
        prefetchQueries<T>(unit, rows.tiles[i + 1], columns.tiles[0]);
      }
      const float* keys =
          packed.keys + from_row * packed.key_row + column_tile.origin * (woven ? 2 : 1);
      const float* values = packed.values + from_row * packed.value_row + column_tile.origin * dim;
      const int32_t count = (row_tile.last_query - row_tile.first_query) *
                            (column_tile.last_query - column_tile.first_query);
      const int32_t tiles = (count + kQueries - 1) / kQueries;
      for (int32_t part = 0, first = 0; part < tiles; ++part) {
        const int32_t last = static_cast<int32_t>(int64_t{count} * (part + 1) / tiles);
        Tile tile;
        T* outputs[kQueries];
        gather<T>(unit, row_tile, column_tile, first, last, scratch, &tile, outputs);
        attend_tile(last - first, unit, packed, keys, values, tile, scratch);
        for (int32_t query = 0; query < last - first && !isDirect<T>(unit); ++query) {
          storeRow(tile.output[query], unit.head_dim, outputs[query]);
        }
        first = last;
      }
    }
  }
}

// A loop of nothing but multiply-adds, as many as hide their latency.
double multiply(int64_t count, float* result) {
  constexpr int kChains = 12;
  Vector sum[kChains];
  const Vector factor = broadcast(*result);
  for (int chain = 0; chain < kChains; ++chain) sum[chain] = broadcast(static_cast<float>(chain));
  for (int64_t round = 0; round < count; ++round) {
    for (int chain = 0; chain < kChains; ++chain) {
      sum[chain] = multiplyAdd(sum[chain], factor, factor);
    }
  }
  for (int chain = 1; chain < kChains; ++chain) sum[0] = add(sum[0], sum[chain]);
  *result = reduceSum(sum[0]);
  return 2.0 * kChains * kWidth * static_cast<double>(count);
}

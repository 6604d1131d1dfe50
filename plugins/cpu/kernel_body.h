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
// Everything here has internal linkage on purpose: see kernel.h.

// A register tile of queries that share a patch.
struct Tile {
  const float* bias[kQueries];
  const float* mask[kQueries];
  void* output[kQueries];
  // Rows and columns of the patch that any of the windows covers.
  int32_t first_row;
  int32_t last_row;
  int32_t first_column;
  int32_t last_column;
};

// Packed operands, as all tiles of a unit see them.
struct Packed {
  const float* keys;  // channel c of the key at (row, column): keys[row * key_row +
  int64_t key_row;    //     c * key_channel + column]
  int64_t key_channel;
  const float* values;  // of the key at (row, column): values + row * value_row + column * dim
  int64_t value_row;
  int64_t dim;  // padded
};

inline int32_t smaller(int32_t a, int32_t b) { return a < b ? a : b; }
inline int32_t larger(int32_t a, int32_t b) { return a > b ? a : b; }

constexpr int64_t kCacheLine = 64;

template <int kNumber>
struct Constant {
  static constexpr int kValue = kNumber;
};

// ---------------------------------------------------------------------------------------- packing

// Converts `dim` elements and zeroes the rest of the last vector; `factor` scales them.
template <class T>
inline void unpackRow(const T* source, int64_t dim, Vector factor, float* target) {
  int64_t channel = 0;
  for (; channel + kWidth <= dim; channel += kWidth) {
    store(target + channel, multiply(loadConverted(source + channel), factor));
  }
  if (channel < dim) {
    T rest[kWidth] = {};
    for (int64_t i = 0; i < dim - channel; ++i) rest[i] = source[channel + i];
    store(target + channel, multiply(loadConverted(rest), factor));
  }
}

template <class T>
inline void copyRow(const T* source, int64_t dim, float* target) {
  int64_t channel = 0;
  for (; channel + kWidth <= dim; channel += kWidth) {
    store(target + channel, loadConverted(source + channel));
  }
  if (channel < dim) {
    T rest[kWidth] = {};
    for (int64_t i = 0; i < dim - channel; ++i) rest[i] = source[channel + i];
    store(target + channel, loadConverted(rest));
  }
}

template <class T>
inline void storeRow(const float* source, int64_t dim, T* target) {
  int64_t channel = 0;
  for (; channel + kWidth <= dim; channel += kWidth) {
    storeConverted(target + channel, load(source + channel));
  }
  if (channel < dim) {
    T rest[kWidth];
    storeConverted(rest, load(source + channel));
    for (int64_t i = 0; i < dim - channel; ++i) target[channel + i] = rest[i];
  }
}

// Transposes the keys of rows [first, last) so that a vector holds one channel of kWidth keys.
template <class T>
void packKeys(const Unit& unit, int32_t first, int32_t last, const Packed& packed, float* target) {
  const int32_t members = unit.columns.members;
  const int64_t dim = unit.head_dim, whole = dim / kTransposed * kTransposed;
  for (int32_t row = first; row < last; ++row) {
    const T* source = static_cast<const T*>(unit.key) + row * unit.input_row;
    float* row_target = target + (row - first) * packed.key_row;
    for (int32_t column = 0; column < members; column += kTransposed) {
      const T* keys[kTransposed];
      for (int32_t lane = 0; lane < kTransposed; ++lane) {
        // Lanes beyond the map repeat its last key; they are masked.
        keys[lane] = source + smaller(column + lane, members - 1) * unit.input_column;
      }
      for (int64_t channel = 0; channel < whole; channel += kTransposed) {
        transposeKeys(keys, channel, row_target + channel * packed.key_channel + column,
                      packed.key_channel);
      }
      if (whole < dim) {
        T rest[kTransposed][kTransposed] = {};
        const T* rests[kTransposed];
        for (int32_t lane = 0; lane < kTransposed; ++lane) {
          for (int64_t i = whole; i < dim; ++i) rest[lane][i - whole] = keys[lane][i];
          rests[lane] = rest[lane];
        }
        transposeKeys(rests, 0, row_target + whole * packed.key_channel + column,
                      packed.key_channel);
      }
    }
  }
}

template <class T>
void packValues(const Unit& unit, int32_t first, int32_t last, const Packed& packed,
                float* target) {
  for (int32_t row = first; row < last; ++row) {
    const T* source = static_cast<const T*>(unit.value) + row * unit.input_row;
    float* row_target = target + (row - first) * packed.value_row;
    for (int32_t column = 0; column < unit.columns.members; ++column) {
      copyRow(source + column * unit.input_column, unit.head_dim, row_target + column * packed.dim);
    }
  }
}

// ----------------------------------------------------------------------------------------- scores

// How the sixteen lanes of an AVX-512 vector are found where a row of the patch has eight.
enum class Lanes {
  kFollowing,   // all lanes follow each other, in keys and bias
  kPairedBias,  // the second eight lie one row further in the bias, but follow in the keys
  kPaired,      // ... in both
};

template <bool kPair>
inline Vector loadLanes(const float* source, int64_t row_stride) {
#if DINAT_PAIRED_ROWS
  if constexpr (kPair) return loadPair(source, source + row_stride);
#endif
  (void)row_stride;
  return load(source);
}

// Scores of kCount vectors of lanes from `first` on: bias + <query, key>, and -inf where the window
// does not reach.
template <int kTile, int kCount, Lanes kLanes>
inline void scoreLanes(const Unit& unit, const Packed& packed, const float* keys, const Tile& tile,
                       const Scratch& scratch, int64_t first, int64_t lanes, Vector* greatest) {
  Vector sum[kTile][kCount];
  const float* of_lanes[kCount];
  for (int vector = 0; vector < kCount; ++vector) {
    of_lanes[vector] = keys + scratch.key_offsets[first + vector];
    const int64_t offset = scratch.bias_offsets[first + vector];
    for (int query = 0; query < kTile; ++query) {
      sum[query][vector] =
          loadLanes<kLanes != Lanes::kFollowing>(tile.bias[query] + offset, unit.bias_pitch);
    }
  }
  const float* of_query = scratch.queries;
  const int64_t dim = packed.dim, channels = unit.head_dim, step = packed.key_channel;
  for (int64_t channel = 0; channel < channels; ++channel) {
    Vector key[kCount];
    for (int vector = 0; vector < kCount; ++vector) {
      key[vector] =
          loadLanes<kLanes == Lanes::kPaired>(of_lanes[vector] + channel * step, packed.key_row);
    }
    for (int query = 0; query < kTile; ++query) {
      const Vector element = broadcast(of_query[query * dim + channel]);
      for (int vector = 0; vector < kCount; ++vector) {
        sum[query][vector] = multiplyAdd(element, key[vector], sum[query][vector]);
      }
    }
  }
  for (int query = 0; query < kTile; ++query) {
    for (int vector = 0; vector < kCount; ++vector) {
      const int64_t lane = (first + vector) * kWidth;
      const Vector score = bounded(sum[query][vector], load(tile.mask[query] + lane));
      greatest[query] = maximum(greatest[query], score);
      store(scratch.scores + query * lanes + lane, score);
    }
  }
}

template <int kTile, Lanes kLanes>
inline void scorePatch(const Unit& unit, const Packed& packed, const float* keys, const Tile& tile,
                       const Scratch& scratch, int64_t lanes, Vector* greatest) {
  const int64_t vectors = lanes / kWidth;
  for (int64_t first = 0; first < vectors;) {
    const auto score = [&](auto count) {
      constexpr int kCount = decltype(count)::kValue;
      scoreLanes<kTile, kCount, kLanes>(unit, packed, keys, tile, scratch, first, lanes, greatest);
      first += kCount;
    };
    const int64_t left = vectors - first;
    if (left >= kVectors) {
      score(Constant<kVectors>{});
    } else if (left >= 2) {
      score(Constant<2>{});
    } else {
      score(Constant<1>{});
    }
  }
}

// Turns scores into weights, not yet divided by their sum, whose inverse it returns.
inline float weigh(float* scores, int64_t lanes, Vector greatest) {
  const Vector shift = broadcast(reduceMaximum(greatest));
  Vector total = broadcast(0.0f);
  for (int64_t lane = 0; lane < lanes; lane += kWidth) {
    const Vector weight = powerOfTwo(subtract(load(scores + lane), shift));
    total = add(total, weight);
    store(scores + lane, weight);
  }
  return 1.0f / reduceSum(total);
}

// ---------------------------------------------------------------------------------------- outputs

// Weighted sums of kCount vectors of channels of the values.
template <int kTile, int kCount>
inline void sumValues(const Packed& packed, const float* values, int64_t columns, int64_t lanes,
                      const Tile& tile, const float* weights, const float* inverse,
                      float* outputs) {
  Vector sum[kTile][kCount];
  for (int query = 0; query < kTile; ++query) {
    for (int vector = 0; vector < kCount; ++vector) sum[query][vector] = broadcast(0.0f);
  }
  for (int32_t row = tile.first_row; row < tile.last_row; ++row) {
    const float* value = values + row * packed.value_row + tile.first_column * packed.dim;
    const float* weight = weights + row * columns;
    for (int32_t column = tile.first_column; column < tile.last_column; ++column) {
      Vector of_key[kCount];
      for (int vector = 0; vector < kCount; ++vector)
        of_key[vector] = load(value + vector * kWidth);
      for (int query = 0; query < kTile; ++query) {
        const Vector of_query = broadcast(weight[query * lanes + column]);
        for (int vector = 0; vector < kCount; ++vector) {
          sum[query][vector] = multiplyAdd(of_query, of_key[vector], sum[query][vector]);
        }
      }
      value += packed.dim;
    }
  }
  for (int query = 0; query < kTile; ++query) {
    const Vector factor = broadcast(inverse[query]);
    for (int vector = 0; vector < kCount; ++vector) {
      store(outputs + query * packed.dim + vector * kWidth, multiply(sum[query][vector], factor));
    }
  }
}

// ------------------------------------------------------------------------------------------ tiles

// Attention of kTile packed queries to one patch; leaves the outputs in the queries' place.
template <int kTile, Lanes kLanes>
void attend(const Unit& unit, const Packed& packed, const float* keys, const float* values,
            const Tile& tile, const Scratch& scratch) {
  const int64_t columns = unit.patch.columns, lanes = columns * unit.patch.rows;
  Vector greatest[kTile];
  for (int query = 0; query < kTile; ++query) greatest[query] = broadcast(-kInfinity);
  scorePatch<kTile, kLanes>(unit, packed, keys, tile, scratch, lanes, greatest);
  float inverse[kTile];
  for (int query = 0; query < kTile; ++query) {
    inverse[query] = weigh(scratch.scores + query * lanes, lanes, greatest[query]);
  }
  for (int64_t channel = 0; channel < packed.dim;) {
    const auto sum = [&](auto count) {
      constexpr int kCount = decltype(count)::kValue;
      sumValues<kTile, kCount>(packed, values + channel, columns, lanes, tile, scratch.scores,
                               inverse, scratch.queries + channel);
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

// Gathers the queries [first, last) of a patch, counted row by row, and packs them.
template <class T>
inline void gather(const Unit& unit, const AxisTile& rows, const AxisTile& columns, int32_t first,
                   int32_t last, const Scratch& scratch, Tile* tile) {
  const int32_t across = columns.last_query - columns.first_query;
  const int32_t kernel_rows = unit.rows.kernel_size, kernel_columns = unit.columns.kernel_size;
  const int32_t column_shifts = unit.patch.columns - kernel_columns + 1;
  const int64_t lanes = static_cast<int64_t>(unit.patch.rows) * unit.patch.columns;
  const Vector factor = broadcast(unit.scale);
  const int32_t first_column = columns.first_query, last_column = columns.last_query;
  const int64_t bias_pitch = unit.bias_pitch, dim = unit.head_dim, step = unit.padded_dim;
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
                            (columns.origin + kernel_columns - 1);
    const float* row_mask = unit.masks + row_shift * column_shifts * lanes;
    const T* row_query = static_cast<const T*>(unit.query) + row * unit.input_row;
    T* row_output = static_cast<T*>(unit.output) + row * unit.output_row;
    for (; column < last_column && query < last - first; ++column, ++query) {
      const int32_t column_shift = starts[column] - columns.origin;
      low_column = smaller(low_column, column_shift);
      high_column = larger(high_column, column_shift);
      tile->bias[query] = row_bias - column;
      tile->mask[query] = row_mask + column_shift * lanes;
      tile->output[query] = row_output + column * output_column;
      unpackRow(row_query + column * input_column, dim, factor, packed_query);
      packed_query += step;
    }
    column = first_column;
  }
  tile->first_row = low_row;
  tile->last_row = high_row + kernel_rows;
  tile->first_column = low_column;
  tile->last_column = high_column + kernel_columns;
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
  // Where a row of keys is no longer than a patch, all lanes of a patch follow each other.
  const bool contiguous = padded == unit.patch.columns;
  Packed packed{scratch.keys,
                contiguous ? padded : padded * dim,
                contiguous ? packed_rows * padded : padded,
                scratch.values,
                columns.members * dim,
                dim};
  prefetchQueries<T>(unit, rows.tiles[unit.first_tile], columns.tiles[0]);
  packKeys<T>(unit, first_row, last_row, packed, scratch.keys);
  packValues<T>(unit, first_row, last_row, packed, scratch.values);
  const int64_t vectors = static_cast<int64_t>(unit.patch.rows) * unit.patch.columns / kWidth;
  for (int64_t vector = 0; vector < vectors; ++vector) {
    const int64_t row = vector * kWidth / unit.patch.columns;
    const int64_t column = vector * kWidth % unit.patch.columns;
    scratch.key_offsets[vector] = row * packed.key_row + column;
    scratch.bias_offsets[vector] = row * unit.bias_pitch + column;
  }
  const auto attend_tile = unit.patch.columns >= kWidth ? attendAny<Lanes::kFollowing>
                           : contiguous                 ? attendAny<Lanes::kPairedBias>
                                                        : attendAny<Lanes::kPaired>;
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
      const float* keys = packed.keys + from_row * packed.key_row + column_tile.origin;
      const float* values = packed.values + from_row * packed.value_row + column_tile.origin * dim;
      const int32_t count = (row_tile.last_query - row_tile.first_query) *
                            (column_tile.last_query - column_tile.first_query);
      const int32_t tiles = (count + kQueries - 1) / kQueries;
      for (int32_t part = 0, first = 0; part < tiles; ++part) {
        const int32_t last = static_cast<int32_t>(int64_t{count} * (part + 1) / tiles);
        Tile tile;
        gather<T>(unit, row_tile, column_tile, first, last, scratch, &tile);
        attend_tile(last - first, unit, packed, keys, values, tile, scratch);
        for (int32_t query = 0; query < last - first; ++query) {
          storeRow(scratch.queries + query * dim, unit.head_dim,
                   static_cast<T*>(tile.output[query]));
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

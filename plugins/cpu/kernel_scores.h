// Scores of the queries of a register tile and their softmax weights.
//
// Included by kernel_body.h, inside the anonymous namespace of a kernel's source file.

// How the lanes of a vector are found: a row of a patch may fill half of an AVX-512 vector.
enum class Lanes {
  kFollowing,   // all lanes follow each other, in keys and bias
  kPairedBias,  // the second eight lie one row further in the bias, but follow in the keys
  kPaired,      // ... in both
  kWoven,       // as kPairedBias, but keys alternate: two of the first row, two of the second
  kGroup,       // as kFollowing, and one more key
};

template <bool kPair>
inline Vector loadLanes(const float* source, int64_t row_stride) {
#if DINAT_PAIRED_ROWS
  if constexpr (kPair) return loadPair(source, source + row_stride);
#endif
  (void)row_stride;
  return load(source);
}

// <query, key> of kCount vectors of lanes from `first` on.
template <int kTile, int kCount, Lanes kLanes>
DINAT_INLINE void multiplyKeys(const Unit& unit, const Packed& packed, const float* keys,
                               const Tile& tile, const Scratch& scratch, int64_t first,
                               Vector (&sum)[kTile][kCount]) {
  constexpr bool kPairedKeys = kLanes == Lanes::kPaired;
  const float* of_lanes[kCount];
  DINAT_UNROLL
  for (int vector = 0; vector < kCount; ++vector) {
    of_lanes[vector] = keys + scratch.key_offsets[first + vector];
    DINAT_UNROLL
    for (int query = 0; query < kTile; ++query) sum[query][vector] = broadcast(0.0f);
  }
  const float* of_query[kTile];
  for (int query = 0; query < kTile; ++query) of_query[query] = tile.query[query];
  const int64_t channels = unit.head_dim, step = packed.key_channel;
  for (int64_t channel = 0; channel < channels; ++channel) {
    Vector key[kCount];
    for (int vector = 0; vector < kCount; ++vector) {
      key[vector] = loadLanes<kPairedKeys>(of_lanes[vector], packed.key_row);
      of_lanes[vector] += step;
    }
    for (int query = 0; query < kTile; ++query) {
      const Vector element = broadcast(of_query[query][channel]);
      for (int vector = 0; vector < kCount; ++vector) {
        sum[query][vector] = multiplyAdd(element, key[vector], sum[query][vector]);
      }
    }
  }
}

// Scores of one vector of lanes: bias + scale * product, and -inf where the window does not reach.
template <Lanes kLanes>
DINAT_INLINE Vector scoreOf(Vector product, const Unit& unit, const Scratch& scratch,
                            const float* bias, const float* mask, int64_t vector) {
  constexpr bool kPairedBias = kLanes != Lanes::kFollowing && kLanes != Lanes::kGroup;
#if DINAT_PAIRED_ROWS
  if constexpr (kLanes == Lanes::kWoven) product = unweave(product);
#endif
  const Vector biases =
      loadLanes<kPairedBias>(bias + scratch.bias_offsets[vector], unit.bias_pitch);
  const Vector score = multiplyAdd(product, broadcast(unit.scale), biases);
  return bounded(score, load(mask + vector * kWidth));
}

// What the softmax of a tile needs besides the scores. Sizes are whole vectors.
struct Softmax {
  static constexpr int kSize = (kQueries + kWidth - 1) / kWidth * kWidth;
  alignas(64) float shift[kSize];  // largest score
  alignas(64) float rest[kSize];   // score, then weight of the last key of a group
  alignas(64) float total[kSize];
};

// The scores of the last key of a group, which is alone beyond the last full vector.
template <int kTile>
DINAT_INLINE void scoreLastKey(const Unit& unit, const Packed& packed, const Tile& tile,
                               Softmax* softmax) {
  const int64_t lanes = packed.vectors * kWidth;
  Vector product[kTile];
  const Vector first = load(packed.last_key);
  DINAT_UNROLL
  for (int query = 0; query < kTile; ++query) {
    product[query] = multiply(load(tile.query[query]), first);
  }
  for (int64_t channel = kWidth; channel < packed.dim; channel += kWidth) {
    const Vector key = load(packed.last_key + channel);
    DINAT_UNROLL
    for (int query = 0; query < kTile; ++query) {
      product[query] = multiplyAdd(load(tile.query[query] + channel), key, product[query]);
    }
  }
  DINAT_UNROLL
  for (int query = 0; query < kTile; ++query) {
    softmax->rest[query] = reduceSum(product[query]) * unit.scale + tile.bias[query][lanes];
  }
}

// Turns a query's scores into weights, not yet divided by their sum.
inline void weigh(float* scores, int64_t vectors, float shift, float* total) {
  const Vector shifts = broadcast(shift);
  Vector sum = broadcast(0.0f);
  for (int64_t lane = 0; lane < vectors * kWidth; lane += kWidth) {
    const Vector weight = powerOfTwo(subtract(load(scores + lane), shifts));
    sum = add(sum, weight);
    store(scores + lane, weight);
  }
  *total = reduceSum(sum);
}

// Weights of a patch whose scores fit kCount vectors: they stay in registers.
template <int kTile, int kCount, Lanes kLanes>
DINAT_INLINE void weighSmallPatch(const Unit& unit, const Packed& packed, const float* keys,
                                  const Tile& tile, const Scratch& scratch, Softmax* softmax) {
  Vector product[kTile][kCount];
  multiplyKeys<kTile, kCount, kLanes>(unit, packed, keys, tile, scratch, 0, product);
  DINAT_UNROLL
  for (int query = 0; query < kTile; ++query) {
    Vector score[kCount];
    for (int vector = 0; vector < kCount; ++vector) {
      score[vector] = scoreOf<kLanes>(product[query][vector], unit, scratch, tile.bias[query],
                                      tile.mask[query], vector);
    }
    Vector greatest = score[0];
    for (int vector = 1; vector < kCount; ++vector) greatest = maximum(greatest, score[vector]);
    float shift = reduceMaximum(greatest);
    if (kLanes == Lanes::kGroup) {
      shift = softmax->rest[query] > shift ? softmax->rest[query] : shift;
      softmax->shift[query] = shift;
    }
    const Vector shifts = broadcast(shift);
    Vector sum = broadcast(0.0f);
    for (int vector = 0; vector < kCount; ++vector) {
      const Vector weight = powerOfTwo(subtract(score[vector], shifts));
      sum = vector ? add(sum, weight) : weight;
      store(scratch.scores + query * packed.pitch + vector * kWidth, weight);
    }
    softmax->total[query] = reduceSum(sum);
  }
}

// Weights of any patch, by way of memory.
template <int kTile, Lanes kLanes>
DINAT_INLINE void weighPatch(const Unit& unit, const Packed& packed, const float* keys,
                             const Tile& tile, const Scratch& scratch, Softmax* softmax) {
  Vector greatest[kTile];
  for (int query = 0; query < kTile; ++query) greatest[query] = broadcast(-kInfinity);
  for (int64_t first = 0; first < packed.vectors;) {
    const auto score = [&](auto count) {
      constexpr int kCount = decltype(count)::kValue;
      Vector product[kTile][kCount];
      multiplyKeys<kTile, kCount, kLanes>(unit, packed, keys, tile, scratch, first, product);
      DINAT_UNROLL
      for (int query = 0; query < kTile; ++query) {
        DINAT_UNROLL
        for (int vector = 0; vector < kCount; ++vector) {
          const Vector score = scoreOf<kLanes>(product[query][vector], unit, scratch,
                                               tile.bias[query], tile.mask[query], first + vector);
          greatest[query] = maximum(greatest[query], score);
          store(scratch.scores + query * packed.pitch + (first + vector) * kWidth, score);
        }
      }
      first += kCount;
    };
    const int64_t left = packed.vectors - first;
    if (left >= kVectors) {
      score(Constant<kVectors>{});
    } else if (left >= 2) {
      score(Constant<2>{});
    } else {
      score(Constant<1>{});
    }
  }
  for (int query = 0; query < kTile; ++query) {
    float shift = reduceMaximum(greatest[query]);
    if (kLanes == Lanes::kGroup) {
      shift = softmax->rest[query] > shift ? softmax->rest[query] : shift;
      softmax->shift[query] = shift;
    }
    weigh(scratch.scores + query * packed.pitch, packed.vectors, shift, softmax->total + query);
  }
}

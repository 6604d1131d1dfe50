// Packing of keys, values and queries as float32, and the way back for outputs.
//
// Included by kernel_body.h, inside the anonymous namespace of a kernel's source file.

// Converts `dim` elements and zeroes the rest of the last vector.
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

// Transposes kTransposed keys so that a vector holds one channel of neighbouring keys.
template <class T>
inline void packKeys(const T* const* keys, int64_t dim, float* target, int64_t stride) {
  const int64_t whole = dim / kTransposed * kTransposed;
  for (int64_t channel = 0; channel < whole; channel += kTransposed) {
    transposeKeys(keys, channel, target + channel * stride, stride);
  }
  if (whole < dim) {
    T rest[kTransposed][kTransposed] = {};
    const T* rests[kTransposed];
    for (int32_t lane = 0; lane < kTransposed; ++lane) {
      for (int64_t i = whole; i < dim; ++i) rest[lane][i - whole] = keys[lane][i];
      rests[lane] = rest[lane];
    }
    transposeKeys(rests, 0, target + whole * stride, stride);
  }
}

// Packs the keys of rows [first, last).
template <class T>
void packRows(const Unit& unit, int32_t first, int32_t last, const Packed& packed, float* target) {
  const int32_t members = unit.columns.members;
  for (int32_t row = first; row < last; ++row) {
    const T* source = static_cast<const T*>(unit.key) + row * unit.input_row;
    float* row_target = target + (row - first) * packed.key_row;
    for (int32_t column = 0; column < members; column += kTransposed) {
      const T* keys[kTransposed];
      for (int32_t lane = 0; lane < kTransposed; ++lane) {
        // Lanes beyond the map repeat its last key; they are masked.
        keys[lane] = source + smaller(column + lane, members - 1) * unit.input_column;
      }
      packKeys(keys, unit.head_dim, row_target + column, packed.key_channel);
    }
  }
}

// The same for Lanes::kWoven, where the rows of a pair share one line.
template <class T>
void packRowPairs(const Unit& unit, int32_t first, int32_t last, const Packed& packed,
                  float* target) {
  const int32_t members = unit.columns.members;
  for (int32_t row = first; row < last; row += 2) {
    const T* source = static_cast<const T*>(unit.key) + row * unit.input_row;
    float* row_target = target + (row - first) * packed.key_row;
    for (int32_t column = 0; column < members; column += kTransposed / 2) {
      const T* keys[kTransposed];
      for (int32_t lane = 0; lane < kTransposed; ++lane) {
        const int32_t of_lane = smaller(column + lane / 4 * 2 + lane % 2, members - 1);
        keys[lane] = source + lane / 2 % 2 * unit.input_row + of_lane * unit.input_column;
      }
      packKeys(keys, unit.head_dim, row_target + 2 * column, packed.key_channel);
    }
  }
}

// Packs all keys of a group as if they were one row, for `lanes` lanes.
template <class T>
void packGroup(const Unit& unit, int64_t lanes, float* target) {
  const T* row = static_cast<const T*>(unit.key);
  int32_t row_index = 0, column = 0;
  for (int64_t first = 0; first < lanes; first += kTransposed) {
    const T* keys[kTransposed];
    for (int32_t lane = 0; lane < kTransposed; ++lane) {
      keys[lane] = row + column * unit.input_column;
      if (++column < unit.columns.members) continue;
      // Lanes beyond the group repeat its last row; they are masked.
      column = 0;
      if (++row_index < unit.rows.members) row += unit.input_row;
    }
    packKeys(keys, unit.head_dim, target + first, lanes);
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

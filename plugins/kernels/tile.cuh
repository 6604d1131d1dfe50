// What one warp does with its 2 x 8 queries and a rectangle of keys in shared memory.
//
// A warp's m16 operand holds query row A (matrix rows 0-7) and the row below it, B (rows 8-15).
// Keys and values lie in shared memory token by token, `kWidth` tokens to a row of the dilation
// group, `kPitch` bytes apart, so that every address is one base plus a constant.
//
// Fragment layout of mma.m16n8k16, lane = 4 * g + t: accumulators 0, 1 are row A, query column g,
// key columns 2t, 2t + 1; accumulators 2, 3 the same of row B.
#pragma once

#include "kernels/device.cuh"
#include "kernels/parameters.h"
#include "kernels/shapes.h"

namespace dinat::cuda {

constexpr int kWarp = 32;

template <int kDim>
constexpr int kChunks = kDim / 8;  // of 16 bytes in a token

template <int kDim>
constexpr int kPitch = tokenPitch(kDim);

DINAT_DEVICE const device::Vector16* vectors(const void* base, uint64_t offset) {
  return static_cast<const device::Vector16*>(base) + offset;
}

// One block's place, from its index.
struct Place {
  uint32_t head;
  uint32_t image;
  int group[2];
  int members[2];  // of the block's dilation group
  int origin[2];   // first query of the tile

  DINAT_DEVICE Place(const TileParameters& p, int tile_height) {
    uint32_t rest = device::blockIndexX();
    head = p.heads.split(&rest);
    origin[1] = static_cast<int>(p.tiles[1].split(&rest)) * kTileWidth;
    origin[0] = static_cast<int>(p.tiles[0].split(&rest)) * tile_height;
    group[1] = static_cast<int>(p.groups[1].split(&rest));
    group[0] = static_cast<int>(p.groups[0].split(&rest));
    image = rest;
    for (int axis = 0; axis < 2; ++axis) {
      members[axis] = p.members[axis] + (group[axis] < p.longer_groups[axis] ? 1 : 0);
    }
  }

  // Whether the tile lies past the group's end: groups that are one member shorter than the longest
  // can have a tile less.
  DINAT_DEVICE bool empty() const { return origin[0] >= members[0] || origin[1] >= members[1]; }

  DINAT_DEVICE uint64_t inputOffset(const TileParameters& p) const {
    return image * p.input_batch + static_cast<uint64_t>(head * p.input_head) +
           group[0] * p.input_token[0] + group[1] * p.input_token[1];
  }

  DINAT_DEVICE uint64_t outputOffset(const TileParameters& p) const {
    return image * p.output_batch + static_cast<uint64_t>(head * p.output_head) +
           group[0] * p.output_token[0] + group[1] * p.output_token[1];
  }
};

// Starts copying `tokens` tokens, rows of `kWidth`, to `shared`; those outside the live rectangle
// become zeros, because what multiplies them is zero and must not meet a NaN.
template <int kDim, int kWidth>
DINAT_DEVICE void stage(uint32_t shared, const device::Vector16* corner,
                        const uint32_t (&member)[2], uint32_t tokens, uint32_t live_rows,
                        uint32_t live_columns) {
  constexpr uint32_t kVectors = kChunks<kDim>;
  const uint32_t chunk = device::threadIndex() % kVectors;
  const uint32_t step = device::blockSize() / kVectors;
  const device::Vector16* base = device::keep(corner + chunk);
  for (uint32_t token = device::threadIndex() / kVectors; token < tokens; token += step) {
    const uint32_t row = token / kWidth;
    const uint32_t column = token - row * kWidth;
    const bool valid = row < live_rows && column < live_columns;
    const uint32_t offset = valid ? row * member[0] + column * member[1] : 0u;
    device::copyAsync16(shared + token * kPitch<kDim> + chunk * 16, base + offset, valid);
  }
}

// A warp's queries. Those past the group's end repeat its last member and are not stored.
struct Queries {
  int lane;
  int row[2];  // A and B
  int column;
  bool live[2];

  DINAT_DEVICE explicit Queries(const Place& place) {
    const int thread = static_cast<int>(device::threadIndex());
    lane = thread % kWarp;
    const int first = place.origin[0] + 2 * static_cast<int>(device::warpIndex());
    const int own = place.origin[1] + lane / 4;
    column = smaller(own, place.members[1] - 1);
    for (int half = 0; half < 2; ++half) {
      row[half] = smaller(first + half, place.members[0] - 1);
      live[half] = first + half < place.members[0] && own < place.members[1];
    }
    any_ = first < place.members[0];
  }

  // The same for all lanes: whether the warp has a query at all.
  DINAT_DEVICE bool any() const { return any_; }

 private:
  bool any_;
};

template <int kDim>
DINAT_DEVICE void loadQueries(uint32_t (&fragments)[kDim / 16][4], const device::Vector16* base,
                              const uint32_t (&member)[2], const Queries& queries) {
  DINAT_UNROLL
  for (int half = 0; half < 2; ++half) {
    const device::Vector16* token =
        base + (queries.row[half] * member[0] + queries.column * member[1]);
    DINAT_UNROLL
    for (int step = 0; step < kDim / 16; ++step) {
      fragments[step][half] = device::loadGlobal4(&token[2 * step].word[queries.lane % 4]);
      fragments[step][2 + half] = device::loadGlobal4(&token[2 * step + 1].word[queries.lane % 4]);
    }
  }
}

// Where key tile `tile` of 8 tokens begins, in tokens from the rectangle's corner.
template <int kColumns, int kWidth>
DINAT_HOST_DEVICE constexpr int tileToken(int tile) {
  return tile / kColumns * kWidth + tile % kColumns * 8;
}

// scores += queries * keys, over kRows x kColumns tiles of 8 keys from `keys` on.
template <class T, int kDim, int kRows, int kColumns, int kWidth>
DINAT_DEVICE void multiplyKeys(float (&scores)[kRows * kColumns][4],
                               const uint32_t (&queries)[kDim / 16][4], uint32_t keys, int lane) {
  constexpr int kPitchBytes = kPitch<kDim>;
  if constexpr (kDim == 16) {
    // One load serves two tiles: lanes 16-31 address the second.
    const uint32_t base = keys + lane % 8 * kPitchBytes + lane / 8 % 2 * 16;
    DINAT_UNROLL
    for (int tile = 0; tile < kRows * kColumns; tile += 2) {
      const int first = tileToken<kColumns, kWidth>(tile);
      const int distance = tileToken<kColumns, kWidth>(tile + 1) - first;
      uint32_t fragment[4];
      device::loadMatrix4(fragment,
                          base + (lane & 16 ? distance : 0) * kPitchBytes + first * kPitchBytes);
      device::multiplyAccumulate<T>(scores[tile], queries[0], fragment[0], fragment[1]);
      device::multiplyAccumulate<T>(scores[tile + 1], queries[0], fragment[2], fragment[3]);
    }
  } else {
    const uint32_t base = keys + lane % 8 * kPitchBytes + lane / 8 * 16;
    DINAT_UNROLL
    for (int tile = 0; tile < kRows * kColumns; ++tile) {
      DINAT_UNROLL
      for (int step = 0; step < kDim / 16; step += 2) {
        uint32_t fragment[4];
        device::loadMatrix4(fragment,
                            base + tileToken<kColumns, kWidth>(tile) * kPitchBytes + step * 32);
        device::multiplyAccumulate<T>(scores[tile], queries[step], fragment[0], fragment[1]);
        device::multiplyAccumulate<T>(scores[tile], queries[step + 1], fragment[2], fragment[3]);
      }
    }
  }
}

// Scores become exp2(scale * (score - maximum of the row)); sums[half] their sum over the row.
template <int kTiles>
DINAT_DEVICE void exponentiate(float (&scores)[kTiles][4], float (&sums)[2], float scale) {
  DINAT_UNROLL
  for (int half = 0; half < 2; ++half) {
    float maximum = -device::kInfinity;
    DINAT_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      maximum = fmaxf(maximum, fmaxf(scores[tile][2 * half], scores[tile][2 * half + 1]));
    }
    maximum = fmaxf(maximum, device::shuffleXor(maximum, 1));
    maximum = fmaxf(maximum, device::shuffleXor(maximum, 2));
    const float shift = -maximum * scale;
    float sum = 0.0f;
    DINAT_UNROLL
    for (int tile = 0; tile < kTiles; ++tile) {
      DINAT_UNROLL
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[tile][i] = device::exp2Approximate(fmaf(scores[tile][i], scale, shift));
        sum += scores[tile][i];
      }
    }
    sum += device::shuffleXor(sum, 1);
    sums[half] = sum + device::shuffleXor(sum, 2);
  }
}

// result += weights * values, over the same tiles as multiplyKeys. The layout of accumulators is
// that of a left operand, so the weights never leave their registers.
template <class T, int kDim, int kRows, int kColumns, int kWidth>
DINAT_DEVICE void multiplyValues(float (&result)[kDim / 8][4],
                                 const float (&weights)[kRows * kColumns][4], uint32_t values,
                                 int lane) {
  constexpr int kPitchBytes = kPitch<kDim>;
  const uint32_t base = values + lane % 8 * kPitchBytes + lane / 16 * 16;
  DINAT_UNROLL
  for (int tile = 0; tile < kRows * kColumns; tile += 2) {
    const float (&low)[4] = weights[tile];
    const float (&high)[4] = weights[tile + 1];
    const uint32_t fragment[4] = {
        device::pack2<T>(low[0], low[1]), device::pack2<T>(low[2], low[3]),
        device::pack2<T>(high[0], high[1]), device::pack2<T>(high[2], high[3])};
    const int first = tileToken<kColumns, kWidth>(tile);
    const int distance = tileToken<kColumns, kWidth>(tile + 1) - first;
    const uint32_t address = base + (lane & 8 ? distance : 0) * kPitchBytes + first * kPitchBytes;
    DINAT_UNROLL
    for (int chunk = 0; chunk < kDim / 8; chunk += 2) {
      uint32_t value[4];
      device::loadMatrix4Transposed(value, address + chunk * 16);
      device::multiplyAccumulate<T>(result[chunk], fragment, value[0], value[1]);
      device::multiplyAccumulate<T>(result[chunk + 1], fragment, value[2], value[3]);
    }
  }
}

// Transposes the 4 x 4 words that the four lanes of a quad hold.
DINAT_DEVICE void transposeQuad(uint32_t (&word)[4], int lane) {
  DINAT_UNROLL
  for (int distance = 1; distance <= 2; distance *= 2) {
    const bool upper = lane & distance;
    DINAT_UNROLL
    for (int pair = 0; pair < 2; ++pair) {
      uint32_t& low = word[distance == 1 ? 2 * pair : pair];
      uint32_t& high = word[distance == 1 ? 2 * pair + 1 : pair + 2];
      const uint32_t received = device::shuffleXor(device::select(upper, low, high), distance);
      low = device::select(upper, received, low);
      high = device::select(upper, high, received);
    }
  }
}

// Divides by the sums, rounds and stores. A lane holds 2 of every 8 channels of its queries; after
// transposing among four lanes each has 16 contiguous bytes.
template <class T, int kDim>
DINAT_DEVICE void storeQueries(const float (&result)[kDim / 8][4], const float (&sums)[2],
                               void* output, uint64_t offset, const uint32_t (&member)[2],
                               const Queries& queries) {
  constexpr int kVectors = kChunks<kDim>;
  const float inverse[2] = {device::reciprocalApproximate(sums[0]),
                            device::reciprocalApproximate(sums[1])};
  DINAT_UNROLL
  for (int first = 0; first < 2 * kVectors; first += 4) {
    device::Vector16 vector;
    DINAT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int half = (first + i) / kVectors;
      const float (&pair)[4] = result[(first + i) % kVectors];
      vector.word[i] =
          device::pack2<T>(pair[2 * half] * inverse[half], pair[2 * half + 1] * inverse[half]);
    }
    transposeQuad(vector.word, queries.lane);
    const int own = first + queries.lane % 4;
    const bool below = own >= kVectors;
    if (below ? queries.live[1] : queries.live[0]) {
      const int row = below ? queries.row[1] : queries.row[0];
      device::storeGlobal16(static_cast<device::Vector16*>(output) + offset +
                                (row * member[0] + queries.column * member[1]) + own % kVectors,
                            vector);
    }
  }
}

}  // namespace dinat::cuda

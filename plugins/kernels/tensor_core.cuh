// The two tensor-core kernels: query tiles with a halo of keys, and whole dilation groups.
//
// Both give the matrix multiplication its bias and its mask as the initial accumulator, from a
// table in shared memory: bias / scale by (key - query) offset, one more column of -infinity for
// keys outside the query's window. Borders, shifted windows and overhanging tiles are then the same
// code as the interior.
#pragma once

#include "kernels/shapes.h"
#include "kernels/tile.cuh"

namespace dinat::cuda {

// Fills the table of `kSide` x `kSide` floats. Entry (y, x) is the bias of the offset
// (y - kCentre, x - kCentre); offsets that no window has are -infinity, the last row and column
// among them.
template <class T, int kSide, int kCentre>
DINAT_DEVICE void fillTable(float* table, const TileParameters& p, uint32_t head, int kernel_rows,
                            int kernel_columns) {
  const int rows = 2 * kernel_rows - 1;
  const int columns = 2 * kernel_columns - 1;
  const T* bias = static_cast<const T*>(p.rpb);
  for (int i = static_cast<int>(device::threadIndex()); i < kSide * kSide;
       i += static_cast<int>(device::blockSize())) {
    const int row = i / kSide - kCentre + kernel_rows - 1;
    const int column = i % kSide - kCentre + kernel_columns - 1;
    float entry = -device::kInfinity;
    if (row >= 0 && row < rows && column >= 0 && column < columns) {
      const uint64_t index = (static_cast<uint64_t>(head) * rows + row) * columns + column;
      entry = bias ? device::load(bias + index) * p.inverse_scale : 0.0f;
    }
    table[i] = entry;
  }
}

// Table columns of a lane's keys, `first_key` being the rectangle's first column.
template <int kColumns, int kSide, int kCentre>
DINAT_DEVICE void tableColumns(int (&columns)[2 * kColumns], const Queries& queries, int first_key,
                               int window, int kernel_size) {
  DINAT_UNROLL
  for (int i = 0; i < 2 * kColumns; ++i) {
    const int key = first_key + i / 2 * 8 + 2 * (queries.lane % 4) + i % 2;
    const bool inside = key >= window && key < window + kernel_size;
    columns[i] = inside ? key - queries.column + kCentre : kSide - 1;
  }
}

// Initial accumulators of the tile kernel. Row B's keys have the offsets that row A's had one key
// row earlier, so only A's entries are read, and B's for the first row. With windows s_A and
// s_B in {s_A, s_A + 1}, the first key row is in A's window always and the last never.
template <class T, int kDim, int kKernel, int kColumns>
DINAT_DEVICE void initialScores(float (&scores)[TileShape{kKernel}.rows() * kColumns][4],
                                const float* table, const Place& place, const Queries& queries,
                                int window_a, int window_b, int first_key) {
  constexpr TileShape kShape{kKernel};
  constexpr int kSide = kShape.side();
  int columns[2 * kColumns];
  tableColumns<kColumns, kSide, kKernel - 1>(
      columns, queries, first_key, windowStart(queries.column, place.members[1], kKernel), kKernel);
  const bool together = window_a == window_b;
  const float* row_a = table + (window_a - queries.row[0] + kKernel - 1) * kSide;
  const float* first_b =
      table + (together ? window_b - queries.row[1] + kKernel - 1 : kSide - 1) * kSide;
  DINAT_UNROLL
  for (int i = 0; i < 2 * kColumns; ++i) {
    const int tile = i / 2;
    const int half = i % 2;
    scores[tile][2 + half] = first_b[columns[i]];
    DINAT_UNROLL
    for (int row = 0; row < kKernel; ++row) {
      const float entry = row_a[row * kSide + columns[i]];
      scores[row * kColumns + tile][half] = entry;
      scores[(row + 1) * kColumns + tile][2 + half] =
          row + 1 == kKernel && together ? -device::kInfinity : entry;
    }
    scores[kKernel * kColumns + tile][half] = -device::kInfinity;
  }
}

// The rest of a block once the copies are under way: `kColumns` key tiles to a row.
template <class T, int kDim, int kKernel, int kColumns>
DINAT_DEVICE void attendTile(const TileParameters& p, const Place& place, const Queries& queries,
                             const uint32_t (&fragments)[kDim / 16][4], uint32_t keys,
                             uint32_t values, const float* table, int first_row, int first_key) {
  constexpr TileShape kShape{kKernel};
  const int window_a = windowStart(queries.row[0], place.members[0], kKernel);
  const int window_b = windowStart(queries.row[1], place.members[0], kKernel);
  const uint32_t corner = (window_a - first_row) * kShape.width() * kPitch<kDim>;
  float scores[kShape.rows() * kColumns][4];
  float sums[2];

  device::waitCopies<1>();  // the keys'
  device::synchronize();
  if (queries.any()) {
    initialScores<T, kDim, kKernel, kColumns>(scores, table, place, queries, window_a, window_b,
                                              first_key);
    multiplyKeys<T, kDim, kShape.rows(), kColumns, kShape.width()>(scores, fragments, keys + corner,
                                                                   queries.lane);
    exponentiate(scores, sums, p.scale);
  }
  device::waitCopies<0>();
  device::synchronize();
  if (queries.any()) {
    float result[kDim / 8][4] = {};
    multiplyValues<T, kDim, kShape.rows(), kColumns, kShape.width()>(result, scores,
                                                                     values + corner, queries.lane);
    storeQueries<T, kDim>(result, sums, p.output, place.outputOffset(p), p.output_member, queries);
  }
}

// Registers decide how many warps an SM holds: 128 of them for 16 warps, up to what fits without
// spilling for the larger windows.
constexpr int tileBlocksPerSm(int head_dim, int kernel_size) {
  return head_dim <= 32 && kernel_size <= 7 ? 2 : 1;
}

// A block computes a tile of (blockSize() / kRowThreads) x 8 queries of one dilation group, head
// and image.
template <class T, int kDim, int kKernel>
DINAT_KERNEL(256, tileBlocksPerSm(kDim, kKernel))
tileKernel(DINAT_PARAMETER TileParameters p) {
  constexpr TileShape kShape{kKernel};
  const int height = static_cast<int>(device::blockSize()) / kRowThreads;
  const Place place(p, height);
  if (place.empty()) return;

  // The halo: from the first query's first key to the last query's last one.
  int first[2];
  int live[2];
  for (int axis = 0; axis < 2; ++axis) {
    const int extent = axis == 0 ? height : kTileWidth;
    const int last = smaller(place.origin[axis] + extent, place.members[axis]) - 1;
    first[axis] = windowStart(place.origin[axis], place.members[axis], kKernel);
    live[axis] = windowStart(last, place.members[axis], kKernel) + kKernel - first[axis];
  }
  const uint64_t origin = place.inputOffset(p);
  const uint64_t corner = origin + (first[0] * p.input_member[0] + first[1] * p.input_member[1]);
  const int tokens = kShape.tokens(height);
  unsigned char* shared = device::sharedMemory();
  const uint32_t keys = device::sharedAddress(shared);
  const uint32_t values = keys + tokens * kPitch<kDim>;
  float* table = reinterpret_cast<float*>(shared + 2 * tokens * kPitch<kDim>);

  // Two groups of copies, so that the scores need not wait for the values.
  stage<kDim, kShape.width()>(keys, vectors(p.key, corner), p.input_member, tokens, live[0],
                              live[1]);
  device::commitCopies();
  stage<kDim, kShape.width()>(values, vectors(p.value, corner), p.input_member, tokens, live[0],
                              live[1]);
  device::commitCopies();
  const Queries queries(place);
  uint32_t fragments[kDim / 16][4];
  loadQueries<kDim>(fragments, vectors(p.query, origin), p.input_member, queries);
  fillTable<T, kShape.side(), kKernel - 1>(table, p, place.head, kKernel, kKernel);

  // In narrow groups and at right borders the last column of key tiles is often empty.
  constexpr int kFewer = kShape.columns() - 1;
  if (live[1] <= 8 * kFewer) {
    attendTile<T, kDim, kKernel, kFewer>(p, place, queries, fragments, keys, values, table,
                                         first[0], first[1]);
  } else {
    attendTile<T, kDim, kKernel, kShape.columns()>(p, place, queries, fragments, keys, values,
                                                   table, first[0], first[1]);
  }
}

// Initial accumulators of the group kernel: all eight key rows, those outside a query row's window
// masked. The window's size is known at run time only.
template <class T>
DINAT_DEVICE void initialGroupScores(float (&scores)[GroupShape::kSize][4], const float* table,
                                     const TileParameters& p, const Place& place,
                                     const Queries& queries) {
  using Shape = GroupShape;
  int columns[2];
  tableColumns<1, Shape::kSide, Shape::kCentre>(
      columns, queries, 0, windowStart(queries.column, place.members[1], p.kernel_size[1]),
      p.kernel_size[1]);
  int window[2];
  for (int half = 0; half < 2; ++half) {
    window[half] = windowStart(queries.row[half], place.members[0], p.kernel_size[0]);
  }
  // Entries of row B one key row later are row A's; see initialScores.
  const float* row_a = table + (Shape::kCentre - queries.row[0]) * Shape::kSide;
  const float* first_b = table + (Shape::kCentre - queries.row[1]) * Shape::kSide;
  DINAT_UNROLL
  for (int i = 0; i < 2; ++i) {
    float entry_b = first_b[columns[i]];
    DINAT_UNROLL
    for (int row = 0; row < Shape::kSize; ++row) {
      const float entry_a = row_a[row * Shape::kSide + columns[i]];
      const bool inside_a = row >= window[0] && row < window[0] + p.kernel_size[0];
      const bool inside_b = row >= window[1] && row < window[1] + p.kernel_size[0];
      scores[row][i] = inside_a ? entry_a : -device::kInfinity;
      scores[row][2 + i] = inside_b ? entry_b : -device::kInfinity;
      entry_b = entry_a;
    }
  }
}

// A block computes one dilation group of up to 8 x 8 tokens, for one head and image. Any kernel
// size that such a group admits, even or not square too.
template <class T, int kDim>
DINAT_KERNEL(GroupShape::kThreads, kDim <= 32 ? 6 : 4)
groupKernel(DINAT_PARAMETER TileParameters p) {
  using Shape = GroupShape;
  const Place place(p, Shape::kSize);
  const uint64_t origin = place.inputOffset(p);
  unsigned char* shared = device::sharedMemory();
  const uint32_t keys = device::sharedAddress(shared);
  const uint32_t values = keys + Shape::kTokens * kPitch<kDim>;
  float* table = reinterpret_cast<float*>(shared + 2 * Shape::kTokens * kPitch<kDim>);

  stage<kDim, Shape::kSize>(keys, vectors(p.key, origin), p.input_member, Shape::kTokens,
                            place.members[0], place.members[1]);
  device::commitCopies();
  stage<kDim, Shape::kSize>(values, vectors(p.value, origin), p.input_member, Shape::kTokens,
                            place.members[0], place.members[1]);
  device::commitCopies();
  const Queries queries(place);
  uint32_t fragments[kDim / 16][4];
  loadQueries<kDim>(fragments, vectors(p.query, origin), p.input_member, queries);
  fillTable<T, Shape::kSide, Shape::kCentre>(table, p, place.head, p.kernel_size[0],
                                             p.kernel_size[1]);

  float scores[Shape::kSize][4];
  float sums[2];
  device::waitCopies<1>();  // the keys'
  device::synchronize();
  if (queries.any()) {
    initialGroupScores<T>(scores, table, p, place, queries);
    multiplyKeys<T, kDim, Shape::kSize, 1, Shape::kSize>(scores, fragments, keys, queries.lane);
    exponentiate(scores, sums, p.scale);
  }
  device::waitCopies<0>();
  device::synchronize();
  if (queries.any()) {
    float result[kDim / 8][4] = {};
    multiplyValues<T, kDim, Shape::kSize, 1, Shape::kSize>(result, scores, values, queries.lane);
    storeQueries<T, kDim>(result, sums, p.output, place.outputOffset(p), p.output_member, queries);
  }
}

}  // namespace dinat::cuda

// Sizes of the tensor-core kernels, for the kernels and for the host that launches them.
#pragma once

#include "common/window.h"

namespace dinat::cuda {

constexpr int kTileWidth = 8;    // queries
constexpr int kRowThreads = 16;  // a warp takes two rows of queries

// Bytes between two tokens in shared memory. They exceed the token's own by 16, so that eight
// consecutive tokens start in different groups of four banks wherever the first one starts.
DINAT_HOST_DEVICE constexpr int tokenPitch(int head_dim) { return head_dim * 2 + 16; }

// A tile of queries and its halo of keys, for a square window of odd size `kernel`.
struct TileShape {
  int kernel;

  // Of the halo, in tokens.
  DINAT_HOST_DEVICE constexpr int width() const { return kTileWidth + kernel - 1; }
  // Tiles of 8 keys that cover a row of it.
  DINAT_HOST_DEVICE constexpr int columns() const { return (width() + 7) / 8; }
  // Key rows of a warp: the windows of both its query rows.
  DINAT_HOST_DEVICE constexpr int rows() const { return kernel + 1; }
  // Of the bias table: all offsets and -infinity.
  DINAT_HOST_DEVICE constexpr int side() const { return 2 * kernel; }
  // Of the halo, and those that its last key tile reads past the end.
  DINAT_HOST_DEVICE constexpr int tokens(int tile_height) const {
    return (tile_height + kernel - 1) * width() + columns() * 8 - width();
  }
  DINAT_HOST_DEVICE constexpr int sharedBytes(int tile_height, int head_dim) const {
    return 2 * tokens(tile_height) * tokenPitch(head_dim) +
           side() * side() * static_cast<int>(sizeof(float));
  }
};

// A whole dilation group, padded to 8 x 8 tokens; no halo.
struct GroupShape {
  static constexpr int kSize = 8;
  static constexpr int kTokens = kSize * kSize;
  static constexpr int kSide = 2 * kSize;  // of the bias table
  static constexpr int kCentre = kSize - 1;
  static constexpr int kThreads = kSize * kRowThreads;

  DINAT_HOST_DEVICE static constexpr int sharedBytes(int head_dim) {
    return 2 * kTokens * tokenPitch(head_dim) + kSide * kSide * static_cast<int>(sizeof(float));
  }
};

}  // namespace dinat::cuda

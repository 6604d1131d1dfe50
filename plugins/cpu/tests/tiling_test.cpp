// Every query of every axis is in exactly one patch, and the patch holds its whole window.

#include "cpu/tiling.h"

#include <cstdio>
#include <cstdlib>

#include "common/window.h"

namespace {

int failures = 0;

void expect(bool holds, const char* what, int members, int kernel_size, int patch) {
  if (holds) return;
  std::printf("%s: %d members, kernel size %d, patch %d\n", what, members, kernel_size, patch);
  ++failures;
}

void checkAxis(int members, int kernel_size, int patch) {
  const dinat::cpu::AxisTiling axis = dinat::cpu::tileAxis(members, kernel_size, patch);
  int next = 0;
  for (const dinat::cpu::AxisTile& tile : axis.tiles) {
    expect(tile.first_query == next, "queries are skipped or repeated", members, kernel_size,
           patch);
    expect(tile.origin >= 0 && (tile.origin + patch <= members || tile.origin == 0),
           "a patch leaves the axis", members, kernel_size, patch);
    for (int query = tile.first_query; query < tile.last_query; ++query) {
      const int start = dinat::windowStart(query, members, kernel_size);
      expect(axis.start[query] == start, "a window starts elsewhere", members, kernel_size, patch);
      expect(start >= tile.origin && start + kernel_size <= tile.origin + patch,
             "a window leaves its patch", members, kernel_size, patch);
    }
    next = tile.last_query;
  }
  expect(next == members, "queries are left over", members, kernel_size, patch);
}

void checkPatch(int rows, int columns, int width) {
  const int32_t kernel_size[2] = {rows, columns};
  const dinat::cpu::Patch patch = dinat::cpu::choosePatch(kernel_size, width, 6);
  expect(patch.rows >= rows && patch.columns >= columns, "a patch is smaller than the window", rows,
         columns, width);
  const bool whole_rows = patch.columns % width == 0;
  const bool paired = width == 16 && patch.columns == 8 && patch.rows % 2 == 0;
  expect(whole_rows || paired, "a row of the patch is no whole number of vectors", patch.rows,
         patch.columns, width);
}

}  // namespace

int main() {
  for (int kernel_size = 1; kernel_size <= 14; ++kernel_size) {
    for (int patch = kernel_size; patch <= kernel_size + 8; ++patch) {
      for (int members = kernel_size; members <= kernel_size + 40; ++members) {
        checkAxis(members, kernel_size, patch);
      }
    }
  }
  for (int rows = 1; rows <= 40; ++rows) {
    for (int columns = 1; columns <= 40; ++columns) {
      for (const int width : {4, 8, 16}) checkPatch(rows, columns, width);
    }
  }
  std::printf("%d failures\n", failures);
  return failures ? EXIT_FAILURE : EXIT_SUCCESS;
}

// Partial sums of a matrix, added up in the order of their parts, and stored anywhere: gradients of weights, whose products
// share their depth, pixels, among blocks.
//
// Reads each sum once, along columns, and stores along rows, through a tile in shared memory, or along columns: as elements
// lie side by side where they go.
#pragma once

#include "common/cuda/dtype.cuh"

namespace dyndeploy::cuda {

struct Parts {
  const float* sums;    // [part][row][pitch]
  int64_t part;         // distance of parts
  int count;            // of parts
  int rows, columns, pitch;
  bool along_columns;   // neighbouring columns lie side by side where they go, and not neighbouring rows
};

inline constexpr int kPartsThreads = 256, kPartsTile = 32;

inline int64_t parts_blocks(const Parts& p) {
  return (p.rows + int64_t{kPartsTile} - 1) / kPartsTile * ((p.columns + kPartsTile - 1) / kPartsTile);
}

struct PartsShared {
  float sums[kPartsTile][kPartsTile + 1];
};

// to.at(row, column): the T* where the sum of a row and a column goes; NULL: nowhere. Blocks: [row tile][column tile].
template <class T, class To>
__global__ void __launch_bounds__(kPartsThreads) add_parts_of_rows(const Parts p, const To to) {
  auto& shared = shared_memory<PartsShared>();
  const int tiles = (p.columns + kPartsTile - 1) / kPartsTile;
  const int tile = static_cast<int>(blockIdx.x) / tiles;
  const int row = tile * kPartsTile, column = (static_cast<int>(blockIdx.x) - tile * tiles) * kPartsTile;
  constexpr int kAtOnce = kPartsThreads / kPartsTile;
  const int line = static_cast<int>(threadIdx.x) / kPartsTile, of_line = static_cast<int>(threadIdx.x) % kPartsTile;
#pragma unroll
  for (int r = line; r < kPartsTile; r += kAtOnce) {
    if (row + r >= p.rows || column + of_line >= p.columns) continue;
    const float* sums = p.sums + static_cast<int64_t>(row + r) * p.pitch + column + of_line;
    float sum = 0.0f;
#pragma unroll 4
    for (int i = 0; i < p.count; ++i) sum += sums[i * p.part];
    if (!p.along_columns)
      shared.sums[r][of_line] = sum;
    else if (T* at = to.at(row + r, column + of_line))
      *at = from_float<T>(sum);
  }
  if (p.along_columns) return;
  __syncthreads();
#pragma unroll
  for (int c = line; c < kPartsTile; c += kAtOnce) {
    if (row + of_line >= p.rows || column + c >= p.columns) continue;
    if (T* at = to.at(row + of_line, column + c)) *at = from_float<T>(shared.sums[of_line][c]);
  }
}

}  // namespace dyndeploy::cuda

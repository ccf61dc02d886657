// Dynamic region-aware convolution, forward: per sample and region a product over the pixels of that region only.
//
//             depth: taps, then channels                       rows     pixels of one region, sorted (regions.cuh)
//          ┌──────────────────────────────┐                    columns  outputs
//   rows   │ windows of X, gathered       │   ┌────────┐
//          └──────────────────────────────┘   │   Y    │         a block: one tile of the table, some of the outputs
//          ┌──────────────────────────────┐   │        │
//  columns │ filters of (sample, region)  │   └────────┘  -> scattered to where the pixels are
//          └──────────────────────────────┘
//
// The filters are an input, of one use: [O][C * K] with the taps inside of the channels. A 1x1 kernel's are read where they
// are. Others are rearranged first (arrange_filters), taps outside, so that a vector of depth is one of consecutive channels,
// as X has them; that reads and writes them once more.
//
// Cost of a tile of R pixels and C outputs: as in gemm.cuh, over taps * ceil(channels / 32) stages (16 floats). To compute
// all regions and select would take no fewer tiles even of a map of 7x7, since every region's filters are multiplied by a
// tile there, too: it is not done anywhere. What bounds small maps is the reading of filters, regions * O * C * K numbers a
// sample.
#pragma once

#include "common/cuda/output.cuh"
#include "common/cuda/windows.cuh"
#include "drconv/regions.cuh"

namespace dyndeploy::drconv {

// The filters as columns of the product.
struct Filters {
  const cuda::Sixteen* data;
  int64_t region;       // distances in vectors
  int64_t stage;
  int column;
  int last_vectors;     // of a column in the last stage of all; kStageVectors in the others
};

struct Convolution {
  cuda::WindowMap map;
  const cuda::Sixteen* x;
  int vectors;  // of a pixel's channels
  int taps;
  Filters filters;
  const int* sorted;
  const Tile* tiles;
  int most_tiles, regions, outputs, column_tiles;
  cuda::Output output;
};

// Columns of multiply() in gemm.cuh.
template <class Tile>
class FilterColumns {
 public:
  __device__ __forceinline__ FilterColumns(const Filters& filters, int64_t region, int outputs, int first, int stages)
      : filters_(filters),
        data_(filters.data + region * filters.region + static_cast<int64_t>(first) * filters.column),
        columns_(outputs - first),
        last_(stages - 1) {}

  __device__ __forceinline__ void copy(int stage, cuda::Sixteen* b) const {
    const cuda::Sixteen* from = data_ + stage * filters_.stage;
    const int vectors = stage == last_ ? filters_.last_vectors : cuda::kStageVectors;
#pragma unroll
    for (int i = 0; i < Tile::kColumns * cuda::kStageVectors; i += Tile::kThreads) {
      const int task = i + static_cast<int>(threadIdx.x);
      const int column = task / cuda::kStageVectors, vector = task % cuda::kStageVectors;
      const bool there = column < columns_ && vector < vectors;
      cuda::copy_async_sixteen(b + cuda::place(column, vector),
                               there ? from + static_cast<int64_t>(column) * filters_.column + vector : filters_.data, there);
    }
  }

 private:
  static_assert(Tile::kColumns * cuda::kStageVectors % Tile::kThreads == 0);
  const Filters& filters_;
  const cuda::Sixteen* data_;
  const int columns_, last_;
};

// Blocks: [sample][tile][column tile].
template <class T, class Shape, class Product>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks) convolve(const Convolution p) {
  int index = static_cast<int>(blockIdx.x);
  const int column = index % p.column_tiles * Shape::kColumns;
  index /= p.column_tiles;
  const int n = index / p.most_tiles;
  const Tile tile = p.tiles[index];
  if (tile.count == 0) return;
  auto& shared = cuda::shared_memory<cuda::GemmShared<Shape>>();
  const int* sorted = p.sorted + static_cast<int64_t>(n) * p.output.pixels + tile.begin;

  Product product;
  const int stages = p.taps * cuda::Windows<T, Shape>::stages_of_tap(p.vectors);
  if (stages > 0) {
    const FilterColumns<Shape> filters(p.filters, static_cast<int64_t>(n) * p.regions + tile.region, p.outputs, column,
                                       stages);
    cuda::Windows<T, Shape> windows(p.map, p.x + n * p.map.n, p.vectors, [&](int r, int& i, int& j) {
      if (r >= tile.count) return false;
      const int pixel = sorted[r];
      i = pixel / p.output.width;
      j = pixel - i * p.output.width;
      return true;
    });
    cuda::multiply<Shape>(shared, product, windows, filters, 0, stages);
  }
  const auto at = [&](int r) {
    const int pixel = sorted[r], i = pixel / p.output.width;
    return n * p.output.n + i * p.output.h + (pixel - i * p.output.width) * p.output.w;
  };
  cuda::store_sums<Shape>(shared, product, [&](int begin, const float* slab) {
    const int from = column + begin;
    cuda::store_slab<T, Shape::kRows, Shape::kThreads>(p.output, slab, tile.count, at, from,
                                                       min(p.outputs - from, cuda::kSlabColumns));
  });
}

// --- filters [N, regions * O, C * K], any strides, to [N * regions][stage][columns][kStageVectors]

struct Arranging {
  const void* filters;
  int64_t n, o, d;  // strides in elements
  int regions, outputs, columns;  // columns: padded outputs
  int channels, taps, stages_of_tap;
  int column_tiles;
  cuda::Sixteen* arranged;
};

inline constexpr int kArrangeThreads = 256, kArrangeColumns = 8, kArrangeTaps = 16;

template <class T>
struct ArrangeShared {
  // One more than a row has: neighbouring threads read distances of a stage's depth.
  T values[kArrangeColumns][kArrangeTaps * cuda::kStageDepth<T> + 1];
};

// A block: one stage's channels of kArrangeColumns outputs, at all taps. Blocks: [sample and region][column tile][stage].
template <class T>
__global__ void __launch_bounds__(kArrangeThreads) arrange_filters(const Arranging p) {
  constexpr int kWide = cuda::kPerSixteen<T>, kDepth = cuda::kStageDepth<T>;
  auto& shared = cuda::shared_memory<ArrangeShared<T>>();
  int64_t index = static_cast<int64_t>(blockIdx.x);
  const int stage = static_cast<int>(index % p.stages_of_tap);
  index /= p.stages_of_tap;
  const int first_column = static_cast<int>(index % p.column_tiles) * kArrangeColumns;
  const int64_t region = index / p.column_tiles;  // and sample
  const int64_t n = region / p.regions;
  const T* from = static_cast<const T*>(p.filters) + n * p.n +
                  ((region - n * p.regions) * p.outputs + first_column) * p.o;
  cuda::Sixteen* to = p.arranged + region * p.taps * p.stages_of_tap * p.columns * cuda::kStageVectors;
  const int first_channel = stage * kDepth, channels = min(p.channels - first_channel, kDepth);
  for (int first_tap = 0; first_tap < p.taps; first_tap += kArrangeTaps) {
    const int taps = min(p.taps - first_tap, kArrangeTaps), row = channels * taps;
    for (int i = static_cast<int>(threadIdx.x); i < kArrangeColumns * row; i += kArrangeThreads) {
      const int column = i / row, of_row = i - column * row;  // of_row: channel, tap
      const int channel = of_row / taps, tap = of_row - channel * taps;
      T value{};
      if (first_column + column < p.outputs)
        value = from[column * p.o + (static_cast<int64_t>(first_channel + channel) * p.taps + first_tap + tap) * p.d];
      shared.values[column][of_row] = value;
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < taps * kArrangeColumns * cuda::kStageVectors; i += kArrangeThreads) {
      const int vector = i % cuda::kStageVectors, column = i / cuda::kStageVectors % kArrangeColumns;
      const int tap = i / cuda::kStageVectors / kArrangeColumns;
      float values[kWide];
#pragma unroll
      for (int k = 0; k < kWide; ++k) {
        const int channel = vector * kWide + k;
        values[k] = channel < channels ? cuda::to_float(shared.values[column][channel * taps + tap]) : 0.0f;
      }
      const int64_t of_stage = static_cast<int64_t>(first_tap + tap) * p.stages_of_tap + stage;
      to[(of_stage * p.columns + first_column + column) * cuda::kStageVectors + vector] = cuda::pack<T>(values);
    }
    __syncthreads();
  }
}

}  // namespace dyndeploy::drconv

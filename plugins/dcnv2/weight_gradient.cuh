// The gradient of W: a product whose depth are pixels.
//
//            depth: output pixels, counted over all samples        rows     taps, and channels of a unit (depth.cuh), in
//          ┌──────────────────────────────┐                                 vectors of sixteen bytes
//   rows   │ samples, times the mask      │   ┌────────┐             columns  outputs of the unit's group
//          └──────────────────────────────┘   │   dW   │
//          ┌──────────────────────────────┐   │        │             both operands lie with depth outside (gemm.cuh): a vector
//  columns │ gradient of Y, channels last │   └────────┘             of X's channels is one of rows, one of dY's of columns
//          └──────────────────────────────┘
//
// A block has one tile of dW and a part of the pixels; its sums are kept in the workspace, and add_parts_of_rows adds them
// up in order: the same bits in every run.
//
// Cost of a tile of R rows and C columns per stage (32 pixels of halves, 16 of floats): as a stage of the forward's, so the
// same holds: a tile takes all outputs of a group where it can. Points are located once per tile and pixel: again for every
// R / kWide vectors of channels.
#pragma once

#include "common/cuda/gemm.cuh"
#include "dcnv2/points.cuh"

namespace dyndeploy::dcnv2 {

struct WeightGradient {
  Sampling sampling;
  const cuda::Sixteen* gradient;  // of Y, [row][vectors of all groups]
  int gradient_vectors, group_vectors;
  int taps;
  int units_of_group, unit_vectors;
  int row_vectors;  // of a unit: taps times unit_vectors
  int units, row_tiles, column_tiles;
  int parts, part_stages;  // of the pixels
  float* sums;             // [part][unit][row][outputs of a group, padded]
};

template <class T, class Tile>
struct WeightGradientShared {
  static constexpr int kVectors = Tile::kRows / cuda::kPerSixteen<T>;
  // Pixels are located so many at a time as there is room for with the taps of the tile: at least a stage.
  static constexpr int kPoints = kVectors * cuda::kStageDepth<T>;

  cuda::GemmShared<Tile> gemm;
  Point points[kPoints];
  Pixel pixels[kPoints];
  // The offset group's first tap, of all, and those of the tile; pixels that are located at a time.
  int group_taps, first_tap, taps, located;
};

// Rows of multiply(), depth outside: a thread has one vector of rows at some pixels.
template <class T, class Tile>
class SampledPixels {
 public:
  using Shared = WeightGradientShared<T, Tile>;

  // `row_tile`: of the unit; stages from `stage` on.
  __device__ __forceinline__ SampledPixels(const WeightGradient& p, Shared& shared, int unit, int row_tile, int stage)
      : p_(p), shared_(shared), pixel_(stage * kDepth) {
    const int first = row_tile * kVectors, last = min(first + kVectors, p.row_vectors) - 1;
    const int first_tap = first / p.unit_vectors, taps = last / p.unit_vectors - first_tap + 1;
    const int pixels = Shared::kPoints / taps / kDepth * kDepth, tap = (first + vector()) / p.unit_vectors;
    if (threadIdx.x == 0) {
      shared.group_taps = unit / p.sampling.units_of_offset_group * p.taps;
      shared.first_tap = first_tap;
      shared.taps = taps;
      shared.located = pixels;
    }
    __syncthreads();
    left_ = 0;
    if (first + vector() <= last) {
      points_ = (tap - first_tap) * pixels;
      channels_ = unit * p.unit_vectors + first + vector() - tap * p.unit_vectors;
    }
  }

  __device__ __forceinline__ void load() {
    if (left_ == 0) locate();
#pragma unroll
    for (int task = 0; task < kTasks; ++task)
      load_neighbours(p_.sampling, point_of(task), channels_, channels_ >= 0, neighbours_[task]);
  }

  __device__ __forceinline__ void store(cuda::Sixteen* a) {
#pragma unroll
    for (int task = 0; task < kTasks; ++task)
      a[cuda::DepthOutside<T, Tile>::place(pixel_of(task), vector())] =
          interpolate<T>(point_of(task), neighbours_[task], channels_ >= 0);
    pixel_ += kDepth;
    points_ += kDepth;
    left_ -= kDepth;
  }

 private:
  static constexpr int kDepth = cuda::kStageDepth<T>, kVectors = Shared::kVectors;
  static constexpr int kPixelsAtOnce = Tile::kThreads / kVectors, kTasks = kDepth / kPixelsAtOnce;
  static_assert(kTasks * kPixelsAtOnce == kDepth);

  static __device__ __forceinline__ int vector() { return static_cast<int>(threadIdx.x) % kVectors; }
  static __device__ __forceinline__ int pixel_of(int task) {
    return static_cast<int>(threadIdx.x) / kVectors + task * kPixelsAtOnce;
  }
  __device__ __forceinline__ const Point& point_of(int task) const { return shared_.points[points_ + pixel_of(task)]; }

  // Pixels from pixel_ on. Of those before, all threads have stored the last stage: a barrier of multiply() is between.
  __device__ __forceinline__ void locate() {
    const int pixels = shared_.located;
    if (began_) points_ -= pixels;
    began_ = true;
    left_ = pixels;
    for (int i = static_cast<int>(threadIdx.x); i < pixels; i += Tile::kThreads)
      shared_.pixels[i] = pixel_at(p_.sampling, pixel_ + i);
    __syncthreads();
    dcnv2::locate<T, Tile::kThreads>(p_.sampling, shared_.pixels, pixels, shared_.group_taps, shared_.first_tap,
                                     shared_.taps, shared_.points);
    __syncthreads();
  }

  const WeightGradient& p_;
  Shared& shared_;
  int pixel_;          // the first one of the stage
  int left_;           // located pixels from there on
  int points_ = 0;     // of this thread's tap: the stage's in shared_.points
  int channels_ = -1;  // of X, in vectors; -1: this thread's rows are none
  bool began_ = false;
  cuda::Sixteen neighbours_[kTasks][4];
};

// Columns of multiply(), in rows of depth: outputs of a group of a map that lies channels last.
template <class T, class Tile>
class MapColumns {
 public:
  // `vectors`: of the map, there are from the tile's first column on.
  __device__ __forceinline__ MapColumns(const cuda::Sixteen* map, int pitch, int rows, int vectors)
      : map_(map), pitch_(pitch), rows_(rows), vectors_(vectors) {}

  __device__ __forceinline__ void copy(int stage, cuda::Sixteen* b) const {
    constexpr int kVectors = Tile::kColumns / cuda::kPerSixteen<T>, kRowsAtOnce = Tile::kThreads / kVectors;
    static_assert(kRowsAtOnce * kVectors == Tile::kThreads && cuda::kStageDepth<T> % kRowsAtOnce == 0);
    const int first = static_cast<int>(threadIdx.x) / kVectors, vector = static_cast<int>(threadIdx.x) % kVectors;
    const int row = stage * cuda::kStageDepth<T> + first;
    const cuda::Sixteen* from = map_ + static_cast<int64_t>(row) * pitch_ + vector;
#pragma unroll
    for (int depth = 0; depth < cuda::kStageDepth<T>; depth += kRowsAtOnce, from += kRowsAtOnce * pitch_) {
      const bool there = row + depth < rows_ && vector < vectors_;
      cuda::copy_async_sixteen(b + cuda::DepthInRows<T, Tile>::place(first + depth, vector), there ? from : map_, there);
    }
  }

 private:
  const cuda::Sixteen* map_;
  const int pitch_, rows_, vectors_;
};

// Blocks: [part][unit][row tile][column tile], so that blocks side by side sample the same pixels.
template <class T, class Tile, class Product>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks) correlate(const WeightGradient p) {
  constexpr int kWide = cuda::kPerSixteen<T>;
  auto& shared = cuda::shared_memory<WeightGradientShared<T, Tile>>();
  int index = static_cast<int>(blockIdx.x);
  const int column = index % p.column_tiles * Tile::kColumns;
  index /= p.column_tiles;
  const int row_tile = index % p.row_tiles;
  index /= p.row_tiles;
  const int unit = index % p.units, part = index / p.units;
  const int stages = (p.sampling.rows + cuda::kStageDepth<T> - 1) / cuda::kStageDepth<T>;
  const int first = part * p.part_stages, last = min(first + p.part_stages, stages);

  Product product;
  if (first < last) {
    const int before = unit / p.units_of_group * p.group_vectors + column / kWide;
    const MapColumns<T, Tile> gradient(p.gradient + before, p.gradient_vectors, p.sampling.rows,
                                       p.group_vectors - column / kWide);
    SampledPixels<T, Tile> samples(p, shared, unit, row_tile, first);
    cuda::multiply<Tile>(shared.gemm, product, samples, gradient, first, last);
  }
  const int row = row_tile * Tile::kRows, rows = min(p.row_vectors * kWide - row, Tile::kRows);
  const int pitch = p.group_vectors * kWide;
  float* to = p.sums + ((static_cast<int64_t>(part) * p.units + unit) * p.row_vectors * kWide + row) * pitch + column;
  cuda::store_sums<Tile>(shared.gemm, product, [&](int begin, const float* slab) {
    constexpr int kFours = cuda::kSlabColumns / 4;
    for (int task = static_cast<int>(threadIdx.x); task < rows * kFours; task += Tile::kThreads) {
      const int r = task / kFours, four = task % kFours * 4;
      if (column + begin + four < pitch)
        *reinterpret_cast<float4*>(to + static_cast<int64_t>(r) * pitch + begin + four) =
            *reinterpret_cast<const float4*>(slab + r * cuda::kSlabPitch + four);
    }
  });
}

// Where add_parts_of_rows (common/cuda/parts.cuh) stores the sums: rows are units, taps, padded channels.
template <class T>
struct ToWeights {
  T* data;
  int64_t o, c, h, w;  // strides in elements
  int kw, taps, outputs;
  int units_of_group, unit_channels, unit_rows;  // unit_rows: of a tap

  __device__ __forceinline__ T* at(int row, int column) const {
    const int point = row / unit_rows, channel = row - point * unit_rows;
    if (channel >= unit_channels) return nullptr;
    const int unit = point / taps, tap = point - unit * taps, group = unit / units_of_group;
    const int64_t of_group = static_cast<int64_t>(unit - group * units_of_group) * unit_channels + channel;
    return data + (static_cast<int64_t>(group) * outputs + column) * o + of_group * c + tap / kw * h + tap % kw * w;
  }
};

}  // namespace dyndeploy::dcnv2

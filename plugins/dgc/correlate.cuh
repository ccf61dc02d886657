// The gradient of W: of one head and sample, the product of the gradient of Y with the windows of the head's copy of X.
//
//             depth: pixels of Y, a part of them                rows     taps, then kept channels, in vectors
//          ┌──────────────────────────────┐                    columns  outputs of one head
//   rows   │ windows of the head's copy   │   ┌────────┐
//          │ of X: the gates are in it    │   │ sums   │         [sample][head][part][tap][kept][outputs], in float
//          └──────────────────────────────┘   └────────┘
//          ┌──────────────────────────────┐
//  columns │ the gradient of Y            │   [pixel][head][outputs]
//          └──────────────────────────────┘
//
//   sum_weights   a thread: one element of W; the samples that keep its channel, and their parts, in order
#pragma once

#include "common/cuda/gemm.cuh"
#include "common/cuda/windows.cuh"
#include "dgc/keep.cuh"

namespace dyndeploy::dgc {

struct Correlation {
  Kept kept;
  const cuda::Sixteen* x;  // the heads' copies, [sample][head][H][W][kept.most]
  cuda::WindowMap map;     // of a copy
  int taps;
  const cuda::Sixteen* gradient;  // [sample][pixel of Y][head][vectors]
  int heads, outputs, vectors;
  int pixels, width;  // of Y
  int parts, part_pixels;
  float* sums;
  int row_tiles, column_tiles;
};

// Rows of multiply(): a vector of depth is one of channels, of one pixel of the window's tap.
template <class T, class Tile>
class WindowColumns {
 public:
  // The first vector of rows, of `of_tap` a tap; pixels [pixel, end) of Y.
  __device__ __forceinline__ WindowColumns(const Correlation& p, const cuda::Sixteen* x, int first, int of_tap, int pixel,
                                           int end)
      : p_(p), x_(x), pixel_(pixel + depth_of(0)), end_(end) {
    const int vector = first + vector_of(), tap = vector / of_tap;
    there_ = tap < p.taps;
    const int down = tap / p.map.kw, right = tap - down * p.map.kw;
    h_ = down * p.map.dilation_h - p.map.top;
    w_ = right * p.map.dilation_w - p.map.left;
    x_ += vector - tap * of_tap;
  }

  __device__ __forceinline__ void load() {
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      const int pixel = pixel_ + depth_of(task) - depth_of(0), i = pixel / p_.width, j = pixel - i * p_.width;
      const int h = i * p_.map.stride_h + h_, w = j * p_.map.stride_w + w_;
      loaded_[task] = cuda::Sixteen{};
      if (there_ && pixel < end_ && h >= 0 && h < p_.map.H && w >= 0 && w < p_.map.W)
        loaded_[task] = cuda::load_sixteen(x_ + h * p_.map.row_h + w * p_.map.row_w);
    }
    pixel_ += cuda::kStageDepth<T>;
  }

  __device__ __forceinline__ void store(cuda::Sixteen* a) const {
#pragma unroll
    for (int task = 0; task < kTasks; ++task)
      a[cuda::DepthOutside<T, Tile>::place(depth_of(task), vector_of())] = loaded_[task];
  }

 private:
  static constexpr int kVectors = Tile::kRows / cuda::kPerSixteen<T>, kAtOnce = Tile::kThreads / kVectors;
  static constexpr int kTasks = cuda::kStageDepth<T> / kAtOnce;
  static_assert(kTasks * kAtOnce == cuda::kStageDepth<T> && kAtOnce * kVectors == Tile::kThreads);
  static __device__ __forceinline__ int vector_of() { return static_cast<int>(threadIdx.x) % kVectors; }
  static __device__ __forceinline__ int depth_of(int task) {
    return static_cast<int>(threadIdx.x) / kVectors + task * kAtOnce;
  }

  const Correlation& p_;
  const cuda::Sixteen* x_;
  int pixel_;
  const int end_;
  bool there_;
  int h_, w_;
  cuda::Sixteen loaded_[kTasks];
};

// Columns of multiply(), in rows of depth: the outputs of a head at pixels [pixel, end).
template <class T, class Tile>
class GradientColumns {
 public:
  __device__ __forceinline__ GradientColumns(const Correlation& p, const cuda::Sixteen* gradient, int pixel, int end,
                                             int first)
      : p_(p), gradient_(gradient + first), pixel_(pixel), end_(end), vectors_(p.vectors - first) {}

  __device__ __forceinline__ void copy(int stage, cuda::Sixteen* b) const {
    constexpr int kVectors = Tile::kColumns / cuda::kPerSixteen<T>;
#pragma unroll
    for (int i = 0; i < Tile::kColumns * cuda::kStageVectors; i += Tile::kThreads) {
      const int task = i + static_cast<int>(threadIdx.x), depth = task / kVectors, vector = task % kVectors;
      const int pixel = pixel_ + stage * cuda::kStageDepth<T> + depth;
      const bool there = pixel < end_ && vector < vectors_;
      const cuda::Sixteen* from = gradient_ + static_cast<int64_t>(pixel) * p_.heads * p_.vectors + vector;
      cuda::copy_async_sixteen(b + cuda::DepthInRows<T, Tile>::place(depth, vector), there ? from : p_.gradient, there);
    }
  }

 private:
  const Correlation& p_;
  const cuda::Sixteen* gradient_;
  const int pixel_, end_, vectors_;
};

// Blocks: [sample][head][part][row tile][column tile].
template <class T, class Tile, class Product>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks) correlate(const Correlation p) {
  constexpr int kWide = cuda::kPerSixteen<T>;
  auto& shared = cuda::shared_memory<cuda::GemmShared<Tile>>();
  int index = static_cast<int>(blockIdx.x);
  const int column = index % p.column_tiles * Tile::kColumns;
  index /= p.column_tiles;
  const int row = index % p.row_tiles * Tile::kRows;
  index /= p.row_tiles;
  const int part = index % p.parts, pixel = part * p.part_pixels, end = min(pixel + p.part_pixels, p.pixels);
  index /= p.parts;  // of sample and head
  const int kept = p.kept.counts[index], of_tap = (kept + kWide - 1) / kWide;
  if (row >= p.taps * of_tap * kWide) return;

  const int n = index / p.heads, head = index - n * p.heads;
  Product product;
  WindowColumns<T, Tile> windows(p, p.x + index * p.map.n, row / kWide, of_tap, pixel, end);
  const GradientColumns<T, Tile> gradient(
      p, p.gradient + (static_cast<int64_t>(n) * p.pixels * p.heads + head) * p.vectors, pixel, end, column / kWide);
  cuda::multiply<Tile>(shared, product, windows, gradient, 0,
                       (end - pixel + cuda::kStageDepth<T> - 1) / cuda::kStageDepth<T>);
  float* sums = p.sums + (static_cast<int64_t>(index) * p.parts + part) * p.taps * p.kept.most * p.outputs;
  cuda::store_sums<Tile>(shared, product, [&](int begin, const float* slab) {
    // Neighbouring threads have neighbouring outputs.
    for (int task = static_cast<int>(threadIdx.x); task < Tile::kRows * cuda::kSlabColumns; task += Tile::kThreads) {
      const int r = task / cuda::kSlabColumns, o = column + begin + task % cuda::kSlabColumns;
      const int vector = (row + r) / kWide, tap = vector / of_tap;
      const int k = (vector - tap * of_tap) * kWide + (row + r) % kWide;
      if (tap >= p.taps || k >= kept || o >= p.outputs) continue;
      sums[(static_cast<int64_t>(tap) * p.kept.most + k) * p.outputs + o] =
          slab[r * cuda::kSlabPitch + task % cuda::kSlabColumns];
    }
  });
}

struct WeightSums {
  const float* sums;
  int samples, parts;
  int64_t count;  // of elements of W
  int heads, outputs, C, taps, kw;
  Kept kept;       // with places
  float* earlier;  // sums of the samples before these, [head][tap][C][outputs], or NULL: there is one pass only
  bool first, last;
  void* gradient;  // of W
  int64_t o, c, h, w;
};

inline constexpr int kWeightThreads = 256;

template <class T>
__global__ void __launch_bounds__(kWeightThreads) sum_weights(const WeightSums p) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWeightThreads + static_cast<int>(threadIdx.x);
  if (index >= p.count) return;
  const int64_t place = index / p.outputs, of_taps = place / p.C;  // [head][tap][C], [head][tap]
  const int output = static_cast<int>(index - place * p.outputs), channel = static_cast<int>(place - of_taps * p.C);
  const int head = static_cast<int>(of_taps / p.taps);
  const int tap = static_cast<int>(of_taps - static_cast<int64_t>(head) * p.taps);
  float sum = p.first ? 0.0f : p.earlier[index];
  for (int n = 0; n < p.samples; ++n) {
    const int64_t of_head = static_cast<int64_t>(n) * p.heads + head;
    const int k = p.kept.places[of_head * p.C + channel];
    if (k == kNoChannel) continue;
    const int64_t part = static_cast<int64_t>(p.taps) * p.kept.most * p.outputs;
    const float* sums =
        p.sums + of_head * p.parts * part + (static_cast<int64_t>(tap) * p.kept.most + k) * p.outputs + output;
#pragma unroll 4
    for (int i = 0; i < p.parts; ++i) sum += sums[i * part];
  }
  if (!p.last) {
    p.earlier[index] = sum;
    return;
  }
  const int down = tap / p.kw, right = tap - down * p.kw;
  static_cast<T*>(p.gradient)[(static_cast<int64_t>(head) * p.outputs + output) * p.o + channel * p.c + down * p.h +
                              right * p.w] = cuda::from_float<T>(sum);
}

}  // namespace dyndeploy::dgc

// Dynamic region-aware convolution, the gradient of X: per sample and region a product over the pixels of that region only.
//
//             depth: outputs
//          ┌───────────────────┐              rows     pixels of one region, sorted (regions.cuh): rows of Y's gradient
//   rows   │ gradient of Y     │  ┌───────┐   columns  taps, then channels, as arrange_filters has them
//          └───────────────────┘  │   D   │
//          ┌───────────────────┐  │       │   a block of `spread`: one tile of the table, some of the columns
//  columns │ filters, in rows  │  └───────┘
//          └───────────────────┘
//
// D goes to [sample][pixel][tap][channel], in float, whence `fold` gathers for every pixel of X what its windows have: no
// atomics, and one order of every sum. Where a window is its own pixel, as with 1x1, D is the gradient already.
//
// Cost: the products of the forward. D is written and read once, 8 * taps bytes per number of X of one stride: the most of a
// map of few channels.
#pragma once

#include "common/cuda/windows.cuh"
#include "drconv/convolve.cuh"

namespace dyndeploy::drconv {

// A gradient of a map that is written.
struct Target {
  void* data;
  int64_t n, c, h, w;  // strides in elements
  bool vectors;        // c = 1, and pixels begin at multiples of sixteen bytes
};

// Y's gradient as rows of outputs: windows of one tap.
struct GradientMap {
  cuda::WindowMap map;
  const cuda::Sixteen* data;
  int vectors;  // of a pixel's outputs
};

struct Spreading {
  GradientMap of_y;
  Filters filters;
  int stages;  // of the filters' depth, which are the columns here
  const int* sorted;
  const Tile* tiles;
  int most_tiles, regions, outputs, column_tiles;
  int pixels, width;  // of Y
  int first;          // sample
  float* columns;     // [sample from the first][pixel][stages][kStageDepth]; NULL: to `x`
  Target x;
  int channels;
};

// Columns of multiply() in gemm.cuh, with the depth in rows: a region's filters, arranged for the forward or in place.
template <class T, class Tile>
class FilterRows {
 public:
  __device__ __forceinline__ FilterRows(const Filters& filters, int64_t region, int outputs, int first, int stages)
      : filters_(filters), outputs_(outputs) {
    const int vector = first / cuda::kPerSixteen<T> + static_cast<int>(threadIdx.x) % kVectors;
    const int stage = vector / cuda::kStageVectors, of_stage = vector - stage * cuda::kStageVectors;
    there_ = stage < stages && of_stage < (stage == stages - 1 ? filters.last_vectors : cuda::kStageVectors);
    from_ = filters.data + region * filters.region + stage * filters.stage + of_stage;
  }

  __device__ __forceinline__ void copy(int stage, cuda::Sixteen* b) const {
#pragma unroll
    for (int i = 0; i < Tile::kColumns * cuda::kStageVectors; i += Tile::kThreads) {
      const int task = i + static_cast<int>(threadIdx.x), depth = task / kVectors;
      const int output = stage * cuda::kStageDepth<T> + depth;
      const bool there = there_ && output < outputs_;
      cuda::copy_async_sixteen(b + cuda::DepthInRows<T, Tile>::place(depth, task % kVectors),
                               there ? from_ + static_cast<int64_t>(output) * filters_.column : filters_.data, there);
    }
  }

 private:
  static constexpr int kVectors = Tile::kColumns / cuda::kPerSixteen<T>;
  static_assert(Tile::kThreads % kVectors == 0 && Tile::kColumns * cuda::kStageVectors % Tile::kThreads == 0);
  const Filters& filters_;
  const int outputs_;
  bool there_;
  const cuda::Sixteen* from_;
};

// `rows` rows of a slab to X's gradient, whose pixels begin at at(row), from channel `first` on.
template <class T, int Rows, int Threads, class At>
__device__ __forceinline__ void store_channels(const Target& x, const float* slab, int rows, At at_row, int first,
                                               int channels) {
  constexpr int kWide = cuda::kPerSixteen<T>, kFour = 4;
  T* data = static_cast<T*>(x.data) + first * x.c;
  if (x.vectors && first + cuda::kSlabColumns <= channels) {
    for (int task = static_cast<int>(threadIdx.x); task < rows * (cuda::kSlabColumns / kWide); task += Threads) {
      const int r = task / (cuda::kSlabColumns / kWide), c = task % (cuda::kSlabColumns / kWide) * kWide;
      float values[kWide];
#pragma unroll
      for (int i = 0; i < kWide; ++i) values[i] = slab[r * cuda::kSlabPitch + c + i];
      cuda::store_sixteen(data + at_row(r) + c, cuda::pack<T>(values));
    }
    return;
  }
  // Neighbouring threads have neighbouring channels where these lie side by side, or pixels.
  const int wide = x.c == 1 ? cuda::kSlabColumns / kFour : 1;
  for (int task = static_cast<int>(threadIdx.x); task < Rows * (cuda::kSlabColumns / kFour); task += Threads) {
    const int r = x.c == 1 ? task / wide : task % Rows, c = (x.c == 1 ? task % wide : task / Rows) * kFour;
    if (r >= rows || first + c >= channels) continue;
    T* at = data + at_row(r) + c * x.c;
#pragma unroll
    for (int i = 0; i < kFour; ++i)
      if (first + c + i < channels) at[i * x.c] = cuda::from_float<T>(slab[r * cuda::kSlabPitch + c + i]);
  }
}

// Blocks: [sample][tile][column tile].
template <class T, class Shape, class Product>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks) spread(const Spreading p) {
  int index = static_cast<int>(blockIdx.x);
  const int column = index % p.column_tiles * Shape::kColumns;
  index /= p.column_tiles;
  const int of_pass = index / p.most_tiles, n = p.first + of_pass;
  const Tile tile = p.tiles[static_cast<int64_t>(n) * p.most_tiles + (index - of_pass * p.most_tiles)];
  if (tile.count == 0) return;
  auto& shared = cuda::shared_memory<cuda::GemmShared<Shape>>();
  const int* sorted = p.sorted + static_cast<int64_t>(n) * p.pixels + tile.begin;

  Product product;
  const int stages = cuda::Windows<T, Shape>::stages_of_tap(p.of_y.vectors);
  if (stages > 0) {
    const FilterRows<T, Shape> filters(p.filters, static_cast<int64_t>(n) * p.regions + tile.region, p.outputs, column,
                                       p.stages);
    cuda::Windows<T, Shape> rows(p.of_y.map, p.of_y.data + n * p.of_y.map.n, p.of_y.vectors, [&](int r, int& i, int& j) {
      if (r >= tile.count) return false;
      i = sorted[r] / p.width;
      j = sorted[r] - i * p.width;
      return true;
    });
    cuda::multiply<Shape>(shared, product, rows, filters, 0, stages);
  }
  const int row_floats = p.stages * cuda::kStageDepth<T>;
  cuda::store_sums<Shape>(shared, product, [&](int begin, const float* slab) {
    const int from = column + begin;
    if (!p.columns) {
      const auto at = [&](int r) {
        const int i = sorted[r] / p.width;
        return n * p.x.n + i * p.x.h + (sorted[r] - i * p.width) * p.x.w;
      };
      if (from < p.channels)
        store_channels<T, Shape::kRows, Shape::kThreads>(p.x, slab, tile.count, at, from, p.channels);
      return;
    }
    constexpr int kFours = cuda::kSlabColumns / 4;
    float* columns = p.columns + static_cast<int64_t>(of_pass) * p.pixels * row_floats + from;
    for (int task = static_cast<int>(threadIdx.x); task < tile.count * kFours; task += Shape::kThreads) {
      const int r = task / kFours, four = task % kFours * 4;
      if (from + four < row_floats)
        *reinterpret_cast<float4*>(columns + static_cast<int64_t>(sorted[r]) * row_floats + four) =
            *reinterpret_cast<const float4*>(slab + r * cuda::kSlabPitch + four);
    }
  });
}

// --- X's gradient of D

struct Folding {
  const float* columns;  // [sample from the first][pixel of Y][tap][tap_floats]
  int tap_floats;
  int H, W, Ho, Wo;
  int kh, kw, stride_h, stride_w, top, left, dilation_h, dilation_w;
  int channels, pixel_tiles, channel_tiles;
  int first;  // sample
  Target x;
};

inline constexpr int kFoldThreads = 256, kFoldPixels = 32, kFoldChannels = 32;

struct FoldShared {
  // One more than a row has, so that neither pixels nor channels in sequence meet in a bank.
  float sums[kFoldChannels][kFoldPixels + 1];
};

namespace detail {

// The output coordinate whose window has `at` under a tap `after` its begin; -1: none.
__device__ __forceinline__ int before(int at, int after, int stride, int outputs) {
  const int distance = at - after;
  if (distance < 0) return -1;
  const int output = stride == 1 ? distance : distance / stride;
  return output < outputs && output * stride == distance ? output : -1;
}

}  // namespace detail

// Blocks: [sample][pixel tile][channel tile]. A thread sums up four channels of a pixel.
template <class T>
__global__ void __launch_bounds__(kFoldThreads) fold(const Folding p) {
  constexpr int kFours = kFoldChannels / 4;
  static_assert(kFours * kFoldPixels == kFoldThreads);
  auto& shared = cuda::shared_memory<FoldShared>();
  int index = static_cast<int>(blockIdx.x);
  const int first_channel = index % p.channel_tiles * kFoldChannels;
  index /= p.channel_tiles;
  const int of_pass = index / p.pixel_tiles, first_pixel = (index - of_pass * p.pixel_tiles) * kFoldPixels;
  const int pixels = p.H * p.W;
  {
    const int of_tile = static_cast<int>(threadIdx.x) / kFours, four = static_cast<int>(threadIdx.x) % kFours * 4;
    const int pixel = first_pixel + of_tile, channel = first_channel + four;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (pixel < pixels && channel < p.tap_floats) {
      const int h = pixel / p.W + p.top, w = pixel % p.W + p.left;
      const int64_t row = static_cast<int64_t>(p.kh) * p.kw * p.tap_floats;
      const float* columns = p.columns + static_cast<int64_t>(of_pass) * p.Ho * p.Wo * row + channel;
      for (int down = 0; down < p.kh; ++down) {
        const int i = detail::before(h, down * p.dilation_h, p.stride_h, p.Ho);
        if (i < 0) continue;
        const float* from = columns + static_cast<int64_t>(i) * p.Wo * row + down * p.kw * p.tap_floats;
#pragma unroll 3
        for (int right = 0; right < p.kw; ++right) {
          const int j = detail::before(w, right * p.dilation_w, p.stride_w, p.Wo);
          if (j < 0) continue;
          const float4 four = *reinterpret_cast<const float4*>(from + j * row + right * p.tap_floats);
          sum.x += four.x, sum.y += four.y, sum.z += four.z, sum.w += four.w;
        }
      }
    }
    shared.sums[four][of_tile] = sum.x;
    shared.sums[four + 1][of_tile] = sum.y;
    shared.sums[four + 2][of_tile] = sum.z;
    shared.sums[four + 3][of_tile] = sum.w;
  }
  __syncthreads();
  T* x = static_cast<T*>(p.x.data) + (p.first + of_pass) * p.x.n;
  for (int i = static_cast<int>(threadIdx.x); i < kFoldPixels * kFoldChannels; i += kFoldThreads) {
    const bool channels_first = p.x.c == 1;
    const int of_channel = channels_first ? i % kFoldChannels : i / kFoldPixels;
    const int of_pixel = channels_first ? i / kFoldChannels : i % kFoldPixels;
    const int channel = first_channel + of_channel, pixel = first_pixel + of_pixel;
    if (channel >= p.channels || pixel >= pixels) continue;
    const int h = pixel / p.W;
    x[channel * p.x.c + h * p.x.h + (pixel - h * p.W) * p.x.w] = cuda::from_float<T>(shared.sums[of_channel][of_pixel]);
  }
}

}  // namespace dyndeploy::drconv

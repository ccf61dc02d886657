// Dynamic region-aware convolution, the gradient of the filters: per sample and region a product whose depth are the region's
// pixels, sorted (regions.cuh).
//
//          depth: pixels of a region
//          ┌─────────────────────┐           rows     outputs: rows of Y's gradient, gathered; pixels outside
//   rows   │ gradient of Y       │  ┌─────┐  columns  vectors of channels, and the taps of each: windows of X, gathered;
//          └─────────────────────┘  │     │           pixels outside
//          ┌─────────────────────┐  │     │
//  columns │ windows of X        │  └─────┘  a block: one part of a region's pixels, some outputs, some columns
//          └─────────────────────┘
//
// The taps of a channel lie side by side in the filters, and so do they in a tile: what it stores is almost dense.
//
// A region has its pixels in parts. Most have one: its sums are stored as the gradient. Those of more are kept in float, and
// `join` adds them up in order; it also writes the zeros of regions without pixels.
#pragma once

#include "drconv/backward_x.cuh"

namespace dyndeploy::drconv {

// Of a part, where nothing else is asked for.
inline constexpr int kPartPixels = 2048;

struct Weighing {
  cuda::WindowMap map;
  const cuda::Sixteen* x;
  int vectors, taps;  // of a pixel's channels
  GradientMap of_y;
  const Pixel* places;
  const Tile* parts;
  const int* starts;  // [sample][region][piece]: where a region's pixels begin
  int part_pixels, most_parts, regions, pieces;
  int outputs, channels, row_tiles, column_tiles;
  int pixels;  // of Y
  int first;   // sample
  void* to;
  int64_t n, o, d;  // strides in elements
  float* sums;      // [sample from the first][slots][outputs][vectors * taps, in floats]
  int slots;
};

namespace detail {

// Where the sums of a part lie that begins at `begin` and is not the only one of its region. Such regions are longer than a
// part: among part_pixels pixels at most one of them begins, and at most one goes on.
__device__ __forceinline__ int slot_of(const Weighing& p, int begin, bool goes_on) {
  return begin / p.part_pixels * 2 + (goes_on ? 1 : 0);
}

struct Bounds {
  int begin, end;
};
__device__ __forceinline__ Bounds bounds_of(const Weighing& p, int n, int region) {
  const int* starts = p.starts + static_cast<int64_t>(n) * p.regions * p.pieces;
  return {starts[region * p.pieces], region + 1 < p.regions ? starts[(region + 1) * p.pieces] : p.pixels};
}

}  // namespace detail

// Slots of a sample; never fewer for more pixels.
inline int64_t part_slots(int64_t pixels, int64_t part_pixels) {
  return pixels <= part_pixels ? 0 : ((pixels - 1) / part_pixels + 1) * 2;
}

// Rows of multiply() in gemm.cuh, with the depth outside: outputs of the gradient at a part's pixels.
template <class T, class Tile>
class OutputRows {
 public:
  __device__ __forceinline__ OutputRows(const GradientMap& of_y, int n, const Pixel* places, int count, int first)
      : of_y_(of_y), places_(places), count_(count), depth_(static_cast<int>(threadIdx.x) / kVectors) {
    const int vector = first / cuda::kPerSixteen<T> + static_cast<int>(threadIdx.x) % kVectors;
    there_ = vector < of_y.vectors;
    from_ = of_y.data + n * of_y.map.n + vector;
  }

  __device__ __forceinline__ void load() {
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      const int depth = depth_ + task * kAtOnce;
      loaded_[task] = cuda::Sixteen{};
      if (there_ && depth < count_) {
        const Pixel at = places_[depth];
        loaded_[task] = cuda::load_sixteen(from_ + at.i * of_y_.map.row_h + at.j * of_y_.map.row_w);
      }
    }
    depth_ += cuda::kStageDepth<T>;
  }

  __device__ __forceinline__ void store(cuda::Sixteen* a) const {
    const int tid = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int task = 0; task < kTasks; ++task)
      a[cuda::DepthOutside<T, Tile>::place(tid / kVectors + task * kAtOnce, tid % kVectors)] = loaded_[task];
  }

 private:
  static constexpr int kVectors = Tile::kRows / cuda::kPerSixteen<T>, kAtOnce = Tile::kThreads / kVectors;
  static constexpr int kTasks = cuda::kStageDepth<T> / kAtOnce;
  static_assert(Tile::kThreads % kVectors == 0 && kTasks * kAtOnce == cuda::kStageDepth<T>);
  const GradientMap& of_y_;
  const Pixel* places_;
  const int count_;
  int depth_;
  bool there_;
  const cuda::Sixteen* from_;
  cuda::Sixteen loaded_[kTasks];
};

// Columns of it, with the depth in rows: windows of X at a part's pixels. Vector q: channels q / taps, tap q % taps.
template <class T, class Tile>
class WindowColumns {
 public:
  __device__ __forceinline__ WindowColumns(const Weighing& p, int n, const Pixel* places, int count, int first)
      : map_(p.map), data_(p.x), places_(places), count_(count) {
    const int q = first / cuda::kPerSixteen<T> + static_cast<int>(threadIdx.x) % kVectors;
    const int vector = q / p.taps, tap = q - vector * p.taps, down = tap / p.map.kw;
    there_ = vector < p.vectors;
    down_ = down * p.map.dilation_h - p.map.top;
    right_ = (tap - down * p.map.kw) * p.map.dilation_w - p.map.left;
    from_ = p.x + n * p.map.n + vector;
  }

  __device__ __forceinline__ void copy(int stage, cuda::Sixteen* b) const {
#pragma unroll
    for (int i = 0; i < Tile::kColumns * cuda::kStageVectors; i += Tile::kThreads) {
      const int task = i + static_cast<int>(threadIdx.x), depth = task / kVectors;
      const int place = stage * cuda::kStageDepth<T> + depth;
      bool there = there_ && place < count_;
      const cuda::Sixteen* from = data_;
      if (there) {
        const Pixel at = places_[place];
        const int h = at.i * map_.stride_h + down_, v = at.j * map_.stride_w + right_;
        there = h >= 0 && h < map_.H && v >= 0 && v < map_.W;
        if (there) from = from_ + h * map_.row_h + v * map_.row_w;
      }
      cuda::copy_async_sixteen(b + cuda::DepthInRows<T, Tile>::place(depth, task % kVectors), from, there);
    }
  }

 private:
  static constexpr int kVectors = Tile::kColumns / cuda::kPerSixteen<T>;
  static_assert(Tile::kThreads % kVectors == 0 && Tile::kColumns * cuda::kStageVectors % Tile::kThreads == 0);
  const cuda::WindowMap& map_;
  const cuda::Sixteen* data_;
  const Pixel* places_;
  const int count_;
  bool there_;
  int down_, right_;
  const cuda::Sixteen* from_;
};

// Blocks: [sample][part][row tile][column tile].
template <class T, class Shape, class Product>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks) weigh(const Weighing p) {
  constexpr int kWide = cuda::kPerSixteen<T>;
  int index = static_cast<int>(blockIdx.x);
  const int column = index % p.column_tiles * Shape::kColumns;
  index /= p.column_tiles;
  const int output = index % p.row_tiles * Shape::kRows;
  index /= p.row_tiles;
  const int of_pass = index / p.most_parts, n = p.first + of_pass;
  const Tile part = p.parts[static_cast<int64_t>(n) * p.most_parts + (index - of_pass * p.most_parts)];
  if (part.count == 0) return;
  auto& shared = cuda::shared_memory<cuda::GemmShared<Shape>>();
  const Pixel* places = p.places + static_cast<int64_t>(n) * p.pixels + part.begin;

  Product product;
  OutputRows<T, Shape> rows(p.of_y, n, places, part.count, output);
  const WindowColumns<T, Shape> windows(p, n, places, part.count, column);
  cuda::multiply<Shape>(shared, product, rows, windows, 0,
                        (part.count + cuda::kStageDepth<T> - 1) / cuda::kStageDepth<T>);

  const detail::Bounds bounds = detail::bounds_of(p, n, part.region);
  const bool whole = bounds.end - bounds.begin <= p.part_pixels;
  const int row_floats = p.vectors * p.taps * kWide;
  T* to = static_cast<T*>(p.to) + n * p.n + static_cast<int64_t>(part.region) * p.outputs * p.o;
  float* sums = whole ? nullptr
                      : p.sums + (static_cast<int64_t>(of_pass) * p.slots +
                                  detail::slot_of(p, part.begin, part.begin > bounds.begin)) *
                                     p.outputs * row_floats;
  cuda::store_sums<Shape>(shared, product, [&](int begin, const float* slab) {
    const int from = column + begin, outputs = min(p.outputs - output, Shape::kRows);
    if (!whole) {
      constexpr int kFours = cuda::kSlabColumns / 4;
      for (int task = static_cast<int>(threadIdx.x); task < outputs * kFours; task += Shape::kThreads) {
        const int r = task / kFours, four = task % kFours * 4;
        if (from + four < row_floats)
          *reinterpret_cast<float4*>(sums + static_cast<int64_t>(output + r) * row_floats + from + four) =
              *reinterpret_cast<const float4*>(slab + r * cuda::kSlabPitch + four);
      }
      return;
    }
    // Neighbouring threads have neighbouring taps or, where there is one, channels; always the same column.
    constexpr int kVectors = cuda::kSlabColumns / kWide, kAtOnce = Shape::kThreads / cuda::kSlabColumns;
    const int own = static_cast<int>(threadIdx.x) % cuda::kSlabColumns;
    const int of_slab = p.taps == 1 ? own : own % kVectors * kWide + own / kVectors;
    const int q = (from + of_slab) / kWide, vector = q / p.taps;
    const int channel = vector * kWide + of_slab % kWide, tap = q - vector * p.taps;
    if (channel >= p.channels) return;
    T* at = to + (static_cast<int64_t>(channel) * p.taps + tap) * p.d;
    for (int r = static_cast<int>(threadIdx.x) / cuda::kSlabColumns; r < outputs; r += kAtOnce)
      at[(output + r) * p.o] = cuda::from_float<T>(slab[r * cuda::kSlabPitch + of_slab]);
  });
}

inline constexpr int kJoinThreads = 256, kJoinOutputs = 16;

// Blocks: [sample][region][some outputs]. Nothing to do for regions of one part.
template <class T>
__global__ void __launch_bounds__(kJoinThreads) join(const Weighing p) {
  constexpr int kWide = cuda::kPerSixteen<T>;
  const int blocks = (p.outputs + kJoinOutputs - 1) / kJoinOutputs;
  int index = static_cast<int>(blockIdx.x);
  const int first = index % blocks * kJoinOutputs;
  index /= blocks;
  const int of_pass = index / p.regions, region = index - of_pass * p.regions, n = p.first + of_pass;
  const detail::Bounds bounds = detail::bounds_of(p, n, region);
  const int count = bounds.end - bounds.begin;
  if (count > 0 && count <= p.part_pixels) return;
  const int row_floats = p.vectors * p.taps * kWide, depth = p.channels * p.taps;
  const int64_t slot_floats = static_cast<int64_t>(p.outputs) * row_floats;
  const float* sums = p.sums + of_pass * p.slots * slot_floats;
  for (int output = first; output < min(first + kJoinOutputs, p.outputs); ++output) {
    T* to = static_cast<T*>(p.to) + n * p.n + (static_cast<int64_t>(region) * p.outputs + output) * p.o;
    for (int d = static_cast<int>(threadIdx.x); d < depth; d += kJoinThreads) {
      const int channel = d / p.taps, tap = d - channel * p.taps;
      const int64_t at = static_cast<int64_t>(output) * row_floats + (channel / kWide * p.taps + tap) * kWide + channel % kWide;
      float sum = 0.0f;
      for (int begin = bounds.begin; begin < bounds.end; begin += p.part_pixels)
        sum += sums[detail::slot_of(p, begin, begin > bounds.begin) * slot_floats + at];
      to[d * p.d] = cuda::from_float<T>(sum);
    }
  }
}

}  // namespace dyndeploy::drconv

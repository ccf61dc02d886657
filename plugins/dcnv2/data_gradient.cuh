// The gradients of X, offsets and masks: those of the columns, which are never written anywhere, are spread from the tile of
// a product as soon as it is made.
//
//             depth: outputs of a group                        rows     output pixels, counted over all samples
//          ┌──────────────────────┐                            columns  taps, and channels of a unit (depth.cuh): a slab
//   rows   │ gradient of Y        │   ┌────────┐
//          └──────────────────────┘   │   D    │  d[p, tap, c] = sum over o of dY[p, o] W[o, c, tap]
//          ┌──────────────────────┐   │        │
//  columns │ W (pack_outputs)     │   └────────┘  -> per pixel and tap, a warp:
//          └──────────────────────┘
//      X        four corners get their share of d, by atomic additions in float to sums that lie channels last: the one thing
//               whose order, and last bits, may differ from run to run
//      offset,  the sums over the channels of d times differences of the corners stay in shared memory until the block has
//      mask     had all slabs of its taps that are its own, units one after the other: one order, the same bits
//
// A slab has 64 columns: as many whole taps as there is room for, with the channels of each padded to a power of two, or 64
// channels of one tap. A block has all slabs of its taps or, where that would leave multiprocessors idle, a part of them:
// then its sums are kept in the workspace, and add_point_sums adds them up.
//
// Cost per pixel and tap, and 64 channels: 4 x 64 numbers of X, from the first cache where neighbouring pixels' points lie
// close together; up to 4 x 64 atomic additions of floats that lie side by side in the second cache, half as many where
// offsets are alike. Of the product 64 R + 64 C bytes and 32 R C multiply-adds a stage, of which there are outputs / 32, as in
// gemm.cuh. By these counts (not measured) the atomic additions take the longest.
#pragma once

#include "common/cuda/gemm.cuh"
#include "dcnv2/points.cuh"

namespace dyndeploy::dcnv2 {

inline constexpr int kSlab = cuda::kSlabColumns;
inline constexpr int kLeastTapColumns = 8;
inline constexpr int kMostSlabTaps = kSlab / kLeastTapColumns;

struct DataGradient {
  Sampling sampling;  // X, and its sums, dense: [pixel][vectors of all units]
  const cuda::Sixteen* gradient;  // of Y, [row][vectors of all groups]
  int gradient_vectors, group_vectors;
  const cuda::Sixteen* packed;  // W, [unit][stage][columns][kStageVectors]
  int stages, columns;          // of a unit
  int offset_groups, taps;
  int units_of_group, unit_channels, unit_vectors;
  int tap_columns;              // a power of two up to kSlab, or a multiple of it
  int row_tiles;
  int parts, part_slabs;
  float* x_sums;                // NULL: not wanted
  void* points;                 // the gradient of offset_mask; NULL: not wanted
  int64_t n, c, h, w;           // its strides in elements
  float4* point_sums;           // [part][offset group][tap][row], where there is more than one part

  __host__ __device__ int slab_taps() const { return tap_columns < kSlab ? kSlab / tap_columns : 1; }
  __host__ __device__ int tap_groups() const { return (taps + slab_taps() - 1) / slab_taps(); }
  __host__ __device__ int unit_slabs() const { return tap_columns < kSlab ? 1 : tap_columns / kSlab; }
  __host__ __device__ int slabs() const { return sampling.units_of_offset_group * unit_slabs(); }
};

template <class Tile>
struct DataGradientShared {
  cuda::GemmShared<Tile> gemm;
  Point points[kMostSlabTaps * Tile::kRows];
  float sums[kMostSlabTaps * Tile::kRows][4];
  Pixel pixels[Tile::kRows];
};

// Rows of multiply(): those of a dense matrix, as they are.
template <class T, class Tile>
class DenseRows {
 public:
  // `rows` and `vectors`: how many there are; beyond them are zeros.
  __device__ __forceinline__ DenseRows(const cuda::Sixteen* data, int pitch, int rows, int vectors)
      : data_(data), pitch_(pitch), rows_(rows), vectors_(vectors), vector_(place()) {}

  __device__ __forceinline__ void load() {
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      loaded_[task] = cuda::Sixteen{};
      if (row_of(task) < rows_ && vector_ < vectors_)
        loaded_[task] = cuda::load_sixteen(data_ + static_cast<int64_t>(row_of(task)) * pitch_ + vector_);
    }
    vector_ += cuda::kStageVectors;
  }
  __device__ __forceinline__ void store(cuda::Sixteen* a) const {
#pragma unroll
    for (int task = 0; task < kTasks; ++task) a[cuda::place(row_of(task), place())] = loaded_[task];
  }

 private:
  static constexpr int kRowsAtOnce = Tile::kThreads / cuda::kStageVectors;
  static constexpr int kTasks = Tile::kRows / kRowsAtOnce;
  static_assert(kTasks * kRowsAtOnce == Tile::kRows);

  static __device__ __forceinline__ int place() { return static_cast<int>(threadIdx.x) % cuda::kStageVectors; }
  static __device__ __forceinline__ int row_of(int task) {
    return static_cast<int>(threadIdx.x) / cuda::kStageVectors + task * kRowsAtOnce;
  }

  const cuda::Sixteen* data_;
  const int pitch_, rows_, vectors_;
  int vector_;
  cuda::Sixteen loaded_[kTasks];
};

namespace detail {

// Two neighbouring channels.
template <class T>
__device__ __forceinline__ float2 load_pair(bool there, const T* from) {
  if (!there) return make_float2(0.0f, 0.0f);
  if constexpr (sizeof(T) == 4)
    return __ldg(reinterpret_cast<const float2*>(from));
  else
    return cuda::unpack_pair<T>(__ldg(reinterpret_cast<const uint32_t*>(from)));
}

// Four sums over lanes that follow each other (`lanes`: 4, 8, 16 or 32): lane l gets the (l % 4)-th of those of a, b, c, d.
__device__ __forceinline__ float sum_of_lanes(float a, float b, float c, float d, int lanes) {
  const bool odd = threadIdx.x & 1, second = threadIdx.x & 2;
  const float of_first = (odd ? b : a) + __shfl_xor_sync(~0u, odd ? a : b, 1);
  const float of_second = (odd ? d : c) + __shfl_xor_sync(~0u, odd ? c : d, 1);
  float sum = (second ? of_second : of_first) + __shfl_xor_sync(~0u, second ? of_first : of_second, 2);
  for (int step = 4; step < lanes; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
  return sum;
}

}  // namespace detail

// What a point's sums say about its offset and mask. Sums of d, over channels, times: the step down at the left, the step
// down at the right, the step to the right at the top, the upper left corner.
template <class T>
__device__ __forceinline__ void store_point(const DataGradient& p, const Point& point, int offset_group, int tap,
                                            int row, const float (&sums)[4]) {
  const Sampling& s = p.sampling;
  const float dy = __uint_as_float(point.dy & kFraction), dx = __uint_as_float(point.dx & kFraction);
  const float left = sums[0], right = sums[1], top = sums[2], value = sums[3];
  const float down = (1.0f - dx) * left + dx * right;
  const float across = (1.0f - dy) * top + dy * (top + right - left);
  const int n = row / s.pixels, of_sample = row - n * s.pixels, i = of_sample / s.width, j = of_sample - i * s.width;
  const int64_t at = offset_group * p.taps + tap;  // of all points
  float slope = s.mask_scale;
  if (s.sigmoid) {
    const float logit = cuda::to_float(
        static_cast<const T*>(s.offset_mask)[n * s.n + (2 * s.points + at) * s.c + i * s.h + j * s.w]);
    // Not 1 - sigmoid, which would lose the digits of a small difference.
    slope *= 1.0f / (1.0f + expf(-logit)) * (1.0f / (1.0f + expf(logit)));
  }
  T* to = static_cast<T*>(p.points) + n * p.n + i * p.h + j * p.w;
  to[2 * at * p.c] = cuda::from_float<T>(point.mask * down);
  to[(2 * at + 1) * p.c] = cuda::from_float<T>(point.mask * across);
  to[(2 * s.points + at) * p.c] = cuda::from_float<T>(slope * (value + dx * top + dy * down));
}

// A slab of D, by all warps: a warp has some rows, and its lanes the columns of one row after the other. `channel`: of the
// unit, in the slab's first column.
template <class T, class Tile>
__device__ __forceinline__ void spread(const DataGradient& p, DataGradientShared<Tile>& shared, const float* slab, int rows,
                                       int taps, int unit, int channel) {
  constexpr int kWide = cuda::kPerSixteen<T>, kWarps = Tile::kThreads / cuda::kWarp;
  constexpr int kAtOnce = 4;  // rows, whose loads are under way together
  constexpr int kOfWarp = Tile::kRows / kWarps;
  const Sampling& s = p.sampling;
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp, warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  const int width = min(p.tap_columns, kSlab);  // columns of a tap
  const int64_t first = static_cast<int64_t>(unit) * p.unit_vectors * kWide + channel;
  if (p.points) {
    const int column = 2 * lane, tap = column / width, of_tap = column - tap * width;
    const bool there = tap < taps && channel + of_tap < p.unit_channels;
    const bool both = channel + of_tap + 1 < p.unit_channels;  // or what is in the second column is no channel
    const T* x = reinterpret_cast<const T*>(s.x) + first + of_tap;
    const int64_t row_w = static_cast<int64_t>(s.map.row_w) * kWide, row_h = static_cast<int64_t>(s.map.row_h) * kWide;
#pragma unroll 1
    for (int begin = warp; begin < rows; begin += kAtOnce * kWarps) {
      float2 corners[kAtOnce][4];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int r = begin + k * kWarps;
        const bool exists = there && r < rows;
        const Point& point = shared.points[exists ? tap * Tile::kRows + r : 0];
        const bool up = exists && point.dy & kFirstExists, down = exists && point.dy & kSecondExists;
        const bool left = point.dx & kFirstExists, right = point.dx & kSecondExists;
        const T* at = x + static_cast<int64_t>(point.at) * kWide;
        corners[k][0] = detail::load_pair(up && left, at);
        corners[k][1] = detail::load_pair(up && right, at + row_w);
        corners[k][2] = detail::load_pair(down && left, at + row_h);
        corners[k][3] = detail::load_pair(down && right, at + row_h + row_w);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int r = begin + k * kWarps;
        if (r >= rows) break;
        float2 d = make_float2(0.0f, 0.0f);
        if (there) d = *reinterpret_cast<const float2*>(slab + r * cuda::kSlabPitch + column);
        if (!both) d.y = 0.0f;
        const float2 *const x00 = &corners[k][0], *const x01 = x00 + 1, *const x10 = x00 + 2, *const x11 = x00 + 3;
        const float sum = detail::sum_of_lanes(d.x * (x10->x - x00->x) + d.y * (x10->y - x00->y),
                                               d.x * (x11->x - x01->x) + d.y * (x11->y - x01->y),
                                               d.x * (x01->x - x00->x) + d.y * (x01->y - x00->y),
                                               d.x * x00->x + d.y * x00->y, width / 2);
        if (of_tap < 8 && tap < taps) shared.sums[tap * Tile::kRows + r][lane % 4] += sum;
      }
    }
  }
  if (!p.x_sums) return;
#pragma unroll
  for (int half = 0; half < kSlab; half += cuda::kWarp) {
    const int column = half + lane, tap = column / width, of_tap = column - tap * width;
    if (tap >= taps || channel + of_tap >= p.unit_channels) continue;
    float* x_sums = p.x_sums + first + of_tap;
    const int64_t row_h = static_cast<int64_t>(s.map.row_h) * kWide;
    // Where offsets are alike, the right corners of a pixel are the left ones of the next: they wait for these, and are added
    // together.
    int waiting = 0;  // where they lie, as Point::at
    float waiting_up = 0.0f, waiting_down = 0.0f;
    bool up_waits = false, down_waits = false;
    const auto add_waiting = [&] {
      float* at = x_sums + static_cast<int64_t>(waiting) * kWide;
      if (up_waits) atomicAdd(at, waiting_up);
      if (down_waits) atomicAdd(at + row_h, waiting_down);
    };
#pragma unroll 2
    for (int r = warp * kOfWarp; r < min(warp * kOfWarp + kOfWarp, rows); ++r) {
      const Point point = shared.points[tap * Tile::kRows + r];
      const float d = slab[r * cuda::kSlabPitch + column];
      const float dy = __uint_as_float(point.dy & kFraction), dx = __uint_as_float(point.dx & kFraction);
      const float upper = (1.0f - dy) * point.mask * d, lower = dy * point.mask * d;
      const bool up = point.dy & kFirstExists, down = point.dy & kSecondExists;
      const bool left = point.dx & kFirstExists, right = point.dx & kSecondExists;
      float up_left = upper * (1.0f - dx), down_left = lower * (1.0f - dx);
      // Of another sample may be what lies in the same place: then other rows of it exist.
      if (left && waiting == point.at && up == up_waits && down == down_waits)
        up_left += waiting_up, down_left += waiting_down;
      else
        add_waiting();
      float* at = x_sums + static_cast<int64_t>(point.at) * kWide;
      if (up && left) atomicAdd(at, up_left);
      if (down && left) atomicAdd(at + row_h, down_left);
      waiting = point.at + s.map.row_w;
      waiting_up = upper * dx, waiting_down = lower * dx;
      up_waits = up && right, down_waits = down && right;
    }
    add_waiting();
  }
}

// Blocks: [part][row tile][offset group][tap group], so that blocks side by side read the same gradient.
template <class T, class Tile, class Product>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks) spread_gradient(const DataGradient p) {
  static_assert(Tile::kColumns == kSlab);
  auto& shared = cuda::shared_memory<DataGradientShared<Tile>>();
  int index = static_cast<int>(blockIdx.x);
  const int first_tap = index % p.tap_groups() * p.slab_taps();
  index /= p.tap_groups();
  const int offset_group = index % p.offset_groups;
  index /= p.offset_groups;
  const int row = index % p.row_tiles * Tile::kRows, part = index / p.row_tiles;
  const int rows = min(p.sampling.rows - row, Tile::kRows), taps = min(p.slab_taps(), p.taps - first_tap);
  const int first = part * p.part_slabs, last = min(first + p.part_slabs, p.slabs());

  for (int r = static_cast<int>(threadIdx.x); r < Tile::kRows; r += Tile::kThreads)
    shared.pixels[r] = pixel_at(p.sampling, row + r);
  for (int i = static_cast<int>(threadIdx.x); i < taps * Tile::kRows * 4; i += Tile::kThreads)
    shared.sums[i / 4][i % 4] = 0.0f;
  __syncthreads();
  locate<T, Tile::kThreads>(p.sampling, shared.pixels, Tile::kRows, offset_group * p.taps, first_tap, taps,
                            shared.points);
#pragma unroll 1
  for (int slab = first; slab < last; ++slab) {
    __syncthreads();  // the sums of the slab before lie where stages come
    const int unit = offset_group * p.sampling.units_of_offset_group + slab / p.unit_slabs();
    const int channel = slab % p.unit_slabs() * kSlab, group = unit / p.units_of_group;
    Product product;
    const cuda::PackedColumns<Tile> weights(
        p.packed + static_cast<int64_t>(unit) * p.stages * p.columns * cuda::kStageVectors, p.columns,
        first_tap * p.tap_columns + channel);
    DenseRows<T, Tile> gradient(p.gradient + static_cast<int64_t>(row) * p.gradient_vectors + group * p.group_vectors,
                                p.gradient_vectors, rows, p.group_vectors);
    cuda::multiply<Tile>(shared.gemm, product, gradient, weights, 0, p.stages);
    cuda::store_sums<Tile>(shared.gemm, product, [&](int, const float* sums) {
      spread<T, Tile>(p, shared, sums, rows, taps, unit, channel);
    });
  }
  if (!p.points) return;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < taps * Tile::kRows; i += Tile::kThreads) {
    const int tap = i / Tile::kRows, r = i - tap * Tile::kRows;
    if (r >= rows) continue;
    if (p.parts == 1) {
      store_point<T>(p, shared.points[i], offset_group, first_tap + tap, row + r, shared.sums[i]);
    } else {
      const int64_t point = (static_cast<int64_t>(part) * p.offset_groups + offset_group) * p.taps + first_tap + tap;
      p.point_sums[point * p.sampling.rows + row + r] =
          make_float4(shared.sums[i][0], shared.sums[i][1], shared.sums[i][2], shared.sums[i][3]);
    }
  }
}

inline constexpr int kPointThreads = 256;

// The sums of all parts. A thread: one point; blocks: [offset group and tap][row tile].
template <class T>
__global__ void __launch_bounds__(kPointThreads) add_point_sums(const DataGradient p) {
  const Sampling& s = p.sampling;
  const int tiles = (s.rows + kPointThreads - 1) / kPointThreads;
  const int at = static_cast<int>(blockIdx.x) / tiles;  // of all points of a pixel
  const int row = (static_cast<int>(blockIdx.x) - at * tiles) * kPointThreads + static_cast<int>(threadIdx.x);
  if (row >= s.rows) return;
  float sums[4] = {};
  for (int part = 0; part < p.parts; ++part) {
    const float4 more = p.point_sums[(static_cast<int64_t>(part) * s.points + at) * s.rows + row];
    sums[0] += more.x, sums[1] += more.y, sums[2] += more.z, sums[3] += more.w;
  }
  const int offset_group = at / p.taps, tap = at - offset_group * p.taps;
  const Pixel pixel = pixel_at(s, row);
  const T* from = static_cast<const T*>(s.offset_mask) + pixel.offset_mask;
  const Point point = point_at(s, pixel, tap, cuda::to_float(from[2 * at * s.c]), cuda::to_float(from[(2 * at + 1) * s.c]),
                               cuda::to_float(from[(2 * s.points + at) * s.c]));
  store_point<T>(p, point, offset_group, tap, row, sums);
}

// --- what the sums begin with

inline constexpr int kClearThreads = 256;

struct Clearing {
  cuda::Sixteen* data;
  int64_t vectors;
};

// A template, so that its symbol is as the others': of one file only.
template <class T>
__global__ void __launch_bounds__(kClearThreads) clear(const Clearing p) {
  static_assert(sizeof(T) == 4);
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kClearThreads + static_cast<int>(threadIdx.x);
  if (at < p.vectors) cuda::store_sixteen(p.data + at, cuda::Sixteen{});
}

// Where add_parts_of_rows (common/cuda/parts.cuh) stores the sums of X: rows are pixels, columns padded channels of units.
template <class T>
struct ToMap {
  T* data;
  int64_t n, c, h, w;  // strides in elements
  int pixels, width;   // of a sample
  int unit_channels, unit_columns;

  __device__ __forceinline__ T* at(int row, int column) const {
    const int unit = column / unit_columns, channel = column - unit * unit_columns;
    if (channel >= unit_channels) return nullptr;
    const int sample = row / pixels, of_sample = row - sample * pixels, i = of_sample / width, j = of_sample - i * width;
    return data + sample * n + (static_cast<int64_t>(unit) * unit_channels + channel) * c + i * h + j * w;
  }
};

}  // namespace dyndeploy::dcnv2

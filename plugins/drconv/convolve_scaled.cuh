// Dynamic region-aware convolution with mixed filters that are never made: since
//
//   y = sum over j of share[n, M, j] * (banks[j] * patch) = sum over j of banks[j] * (share[n, M, j] * patch)
//
// it is one product for all samples and regions, whose rows are windows times a share and whose columns are the banks.
//
//             depth: taps, then channels, then bases            rows     output pixels, counted over all samples
//          ┌─────────────────────────────────┐                  columns  outputs
//   rows   │ windows of X, gathered, scaled  │   ┌────────┐
//          └─────────────────────────────────┘   │   Y    │     a block: one tile of Y, over all of the depth or, where that
//          ┌─────────────────────────────────┐   │        │     would leave multiprocessors idle, over a part of it: then
//  columns │ banks                           │   └────────┘     add_parts adds the parts up, in order
//          └─────────────────────────────────┘
//
// A window is read once and scaled for all bases while it is in registers. The banks are the same for all samples: they are
// read once per tile of rows, from the second cache. Nothing is sorted: a row's region only says which share is its own.
//
// Cost: `bases` times the multiply-adds of a convolution with filters that are there already, but no filters, which are
// regions / bases times the banks for every single sample. cuda_mix.cu says from how many pixels on they are made nevertheless.
#pragma once

#include "common/cuda/output.cuh"
#include "common/cuda/windows.cuh"
#include "drconv/convolve.cuh"

namespace dyndeploy::drconv {

struct ScaledConvolution {
  cuda::WindowMap map;
  const cuda::Sixteen* x;
  int vectors;       // of a pixel's channels
  Filters banks;     // in the place of the region: the base
  int bases, steps;  // steps of depth, each of a stage of every base
  const void* share;
  int64_t n, t, j;   // strides in elements
  Sorting guide;     // what argmax reads of it
  int outputs, columns;  // padded
  int column_tiles, row_tiles;
  int parts, part_steps;  // of the depth
  float* sums;            // [part][row][columns], where there is more than one part
  cuda::Output output;
};

// Rows of multiply() in gemm.cuh.
template <class T, class Tile>
class ScaledWindows {
 public:
  // `first`: row of the tile, counted over all samples. Begins with step `step`.
  __device__ __forceinline__ ScaledWindows(const ScaledConvolution& p, int first, int step) : p_(p) {
    const int stages = (p.vectors + cuda::kStageVectors - 1) / cuda::kStageVectors;
    tap_ = step / stages;
    vector_ = (step - tap_ * stages) * cuda::kStageVectors + place();
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      const int row = first + row_of(task);
      x_[task] = p.x;
      share_[task] = static_cast<const T*>(p.share);
      h_[task] = kOutside;
      v_[task] = 0;
      if (row >= p.output.rows) continue;
      const int n = row / p.output.pixels, pixel = row - n * p.output.pixels;
      const int i = pixel / p.output.width, j = pixel - i * p.output.width;
      x_[task] += n * p.map.n;
      share_[task] += n * p.n + detail::argmax<T>(p.guide, n, pixel) * p.t;
      h_[task] = i * p.map.stride_h - p.map.top;
      v_[task] = j * p.map.stride_w - p.map.left;
    }
  }

  __device__ __forceinline__ void load() {
    if (base_ == 0) load_windows();
#pragma unroll
    for (int task = 0; task < kTasks; ++task) scale_[task] = cuda::to_float(share_[task][base_ * p_.j]);
    if (++base_ == p_.bases) base_ = 0;
  }

  __device__ __forceinline__ void store(cuda::Sixteen* a) const {
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      float values[cuda::kPerSixteen<T>];
      cuda::unpack<T>(loaded_[task], values);
#pragma unroll
      for (int i = 0; i < cuda::kPerSixteen<T>; ++i) values[i] *= scale_[task];
      a[cuda::place(row_of(task), place())] = cuda::pack<T>(values);
    }
  }

 private:
  static constexpr int kOutside = -(1 << 30);
  static constexpr int kRowsAtOnce = Tile::kThreads / cuda::kStageVectors;
  static constexpr int kTasks = Tile::kRows / kRowsAtOnce;
  static_assert(kTasks * kRowsAtOnce == Tile::kRows);

  static __device__ __forceinline__ int place() { return static_cast<int>(threadIdx.x) % cuda::kStageVectors; }
  static __device__ __forceinline__ int row_of(int task) {
    return static_cast<int>(threadIdx.x) / cuda::kStageVectors + task * kRowsAtOnce;
  }

  __device__ __forceinline__ void load_windows() {
    const int down = tap_ / p_.map.kw, right = tap_ - down * p_.map.kw;
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      const int h = h_[task] + down * p_.map.dilation_h, v = v_[task] + right * p_.map.dilation_w;
      loaded_[task] = cuda::Sixteen{};
      if (vector_ < p_.vectors && h >= 0 && h < p_.map.H && v >= 0 && v < p_.map.W)
        loaded_[task] = cuda::load_sixteen(x_[task] + h * p_.map.row_h + v * p_.map.row_w + vector_);
    }
    vector_ += cuda::kStageVectors;
    if (vector_ - place() >= p_.vectors) {
      vector_ = place();
      ++tap_;
    }
  }

  const ScaledConvolution& p_;
  int tap_, vector_, base_ = 0;
  const cuda::Sixteen* x_[kTasks];
  const T* share_[kTasks];
  int h_[kTasks], v_[kTasks];
  float scale_[kTasks];
  cuda::Sixteen loaded_[kTasks];
};

// Columns of multiply() in gemm.cuh.
template <class Tile>
class BankColumns {
 public:
  __device__ __forceinline__ BankColumns(const ScaledConvolution& p, int first)
      : p_(p), data_(p.banks.data + static_cast<int64_t>(first) * p.banks.column), columns_(p.outputs - first) {}

  __device__ __forceinline__ void copy(int stage, cuda::Sixteen* b) const {
    const int step = stage / p_.bases, base = stage - step * p_.bases;
    const cuda::Sixteen* from = data_ + base * p_.banks.region + step * p_.banks.stage;
    const int vectors = step == p_.steps - 1 ? p_.banks.last_vectors : cuda::kStageVectors;
#pragma unroll
    for (int i = 0; i < Tile::kColumns * cuda::kStageVectors; i += Tile::kThreads) {
      const int task = i + static_cast<int>(threadIdx.x);
      const int column = task / cuda::kStageVectors, vector = task % cuda::kStageVectors;
      const bool there = column < columns_ && vector < vectors;
      cuda::copy_async_sixteen(b + cuda::place(column, vector),
                               there ? from + static_cast<int64_t>(column) * p_.banks.column + vector : p_.banks.data, there);
    }
  }

 private:
  static_assert(Tile::kColumns * cuda::kStageVectors % Tile::kThreads == 0);
  const ScaledConvolution& p_;
  const cuda::Sixteen* data_;
  const int columns_;
};

// Blocks: [part][row tile][column tile], so that blocks side by side read the same pixels.
template <class T, class Shape, class Product>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks) convolve_scaled(const ScaledConvolution p) {
  int index = static_cast<int>(blockIdx.x);
  const int column = index % p.column_tiles * Shape::kColumns;
  index /= p.column_tiles;
  const int row = index % p.row_tiles * Shape::kRows, part = index / p.row_tiles;
  auto& shared = cuda::shared_memory<cuda::GemmShared<Shape>>();
  const int first = part * p.part_steps, last = min(first + p.part_steps, p.steps);

  Product product;
  if (first < last) {
    const BankColumns<Shape> banks(p, column);
    ScaledWindows<T, Shape> windows(p, row, first);
    cuda::multiply<Shape>(shared, product, windows, banks, first * p.bases, last * p.bases);
  }
  cuda::store_sums<Shape>(shared, product, [&](int begin, const float* slab) {
    const int from = column + begin;
    if (p.parts == 1) {
      cuda::store_slab<T, Shape::kRows, Shape::kThreads>(p.output, slab, row, from,
                                                         min(p.outputs - from, cuda::kSlabColumns));
      return;
    }
    float* sums = p.sums + (static_cast<int64_t>(part) * p.output.rows + row) * p.columns + from;
    constexpr int kFours = cuda::kSlabColumns / 4;
    const int rows = min(Shape::kRows, p.output.rows - row);
    for (int task = static_cast<int>(threadIdx.x); task < rows * kFours; task += Shape::kThreads) {
      const int r = task / kFours, four = task % kFours * 4;
      if (from + four < p.columns)
        *reinterpret_cast<float4*>(sums + static_cast<int64_t>(r) * p.columns + four) =
            *reinterpret_cast<const float4*>(slab + r * cuda::kSlabPitch + four);
    }
  });
}

inline constexpr int kAddThreads = 256, kAddRows = 32;

struct AddShared {
  float slab[kAddRows * cuda::kSlabPitch];
};

// Y from the sums of the parts of depth. Blocks: [row tile][slab of columns].
template <class T>
__global__ void __launch_bounds__(kAddThreads) add_parts(const ScaledConvolution p) {
  auto& shared = cuda::shared_memory<AddShared>();
  const int slabs = (p.outputs + cuda::kSlabColumns - 1) / cuda::kSlabColumns;
  const int from = static_cast<int>(blockIdx.x) % slabs * cuda::kSlabColumns;
  const int row = static_cast<int>(blockIdx.x) / slabs * kAddRows;
  constexpr int kFours = cuda::kSlabColumns / 4;
  const int rows = min(kAddRows, p.output.rows - row);
  const int64_t part = static_cast<int64_t>(p.output.rows) * p.columns;
  for (int task = static_cast<int>(threadIdx.x); task < rows * kFours; task += kAddThreads) {
    const int r = task / kFours, four = task % kFours * 4;
    if (from + four >= p.columns) continue;
    const float* sums = p.sums + static_cast<int64_t>(row + r) * p.columns + from + four;
    float4 all = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
    for (int i = 0; i < p.parts; ++i) {
      const float4 one = *reinterpret_cast<const float4*>(sums + i * part);
      all = make_float4(all.x + one.x, all.y + one.y, all.z + one.z, all.w + one.w);
    }
    *reinterpret_cast<float4*>(shared.slab + r * cuda::kSlabPitch + four) = all;
  }
  __syncthreads();
  cuda::store_slab<T, kAddRows, kAddThreads>(p.output, shared.slab, row, from,
                                             min(p.outputs - from, cuda::kSlabColumns));
}

}  // namespace dyndeploy::drconv

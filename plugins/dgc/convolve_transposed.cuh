// The gradient of the heads' copies of X, before their gates: the convolution, turned round.
//
//             depth: taps, then outputs of the head             rows     pixels of X of one sample, of one phase
//          ┌──────────────────────────────┐                    columns  kept channels of one head
//   rows   │ windows of the gradient of Y │   ┌────────┐
//          │ [pixel][head][outputs]       │   │   D    │         D [sample][head][kept][pixel of X] in float: join.cuh
//          └──────────────────────────────┘   └────────┘         multiplies by the gates and adds up the heads
//          ┌──────────────────────────────┐
//  columns │ of packed W (convolve.cuh):  │   of one kept channel and tap all outputs lie side by side
//          └──────────────────────────────┘
//
// Pixel h of X is looked at by tap a of pixel (h + top - a * dilation) / stride of Y, where that is an integer. For pixels
// of one phase, h = phase + stride * i, these are the same taps: first, first + step, …, and pixels i + base - m * down of
// Y. So a block has pixels of one phase, its windows are those of a convolution with stride 1, and nothing is multiplied by
// a zero that a stride put there.
#pragma once

#include "common/cuda/windows.cuh"
#include "dgc/keep.cuh"

namespace dyndeploy::dgc {

// A window, along one axis, as pixels of X see it.
struct TransposedAxis {
  int size;         // of X
  int stride, before, dilation, taps;
  int step, down;   // from one tap of a phase to the next, and how far back that leads in Y
  int phases;
};

struct TransposedConvolution {
  Kept kept;
  const cuda::Sixteen* gradient;  // [sample][pixel of Y][head][vectors]
  int64_t n;                      // vectors of a sample of it
  int row_h, row_w, Ho, Wo;       // as in a WindowMap
  TransposedAxis h, w;
  const cuda::Sixteen* packed;  // [head][C][tap][vectors]
  int heads, C, vectors;
  float* columns;  // D
  int row_tiles, column_tiles;
};

// The taps that look at the pixels of a phase.
struct Phase {
  int first, count;  // of taps
  int base;          // the pixel of Y that the first tap of the first pixel belongs to
  int pixels;

  __device__ __forceinline__ Phase(const TransposedAxis& axis, int phase) : first(0), count(0), base(0) {
    const int most = min(axis.taps, axis.step);
    while (first < most && (phase + axis.before - first * axis.dilation) % axis.stride != 0) ++first;
    if (first < most) {
      count = (axis.taps - 1 - first) / axis.step + 1;
      base = (phase + axis.before - first * axis.dilation) / axis.stride;
    }
    pixels = (axis.size - phase + axis.stride - 1) / axis.stride;
  }
};

// Columns of multiply(): those of kept channels.
template <class T, class Tile>
class KeptColumns {
 public:
  __device__ __forceinline__ KeptColumns(const TransposedConvolution& p, const Phase& h, const Phase& w, int index,
                                         int kept, int column)
      : p_(p),
        h_(h),
        w_(w),
        packed_(p.packed + static_cast<int64_t>(index % p.heads) * p.C * p.h.taps * p.w.taps * p.vectors),
        stages_(cuda::Windows<T, Tile>::stages_of_tap(p.vectors)) {
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      const int k = column + column_of(task);
      channels_[task] = k < kept ? p.kept.channels[static_cast<int64_t>(index) * p.kept.most + k] : kNoChannel;
    }
  }

  __device__ __forceinline__ int stages() const { return h_.count * w_.count * stages_; }

  __device__ __forceinline__ void copy(int stage, cuda::Sixteen* b) const {
    const int of_taps = stage / stages_, vector = (stage - of_taps * stages_) * cuda::kStageVectors + vector_of();
    const int down = of_taps / w_.count, right = of_taps - down * w_.count;
    const int tap = (h_.first + down * p_.h.step) * p_.w.taps + w_.first + right * p_.w.step;
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      const bool there = channels_[task] != kNoChannel && vector < p_.vectors;
      const cuda::Sixteen* from =
          packed_ + (static_cast<int64_t>(channels_[task]) * p_.h.taps * p_.w.taps + tap) * p_.vectors + vector;
      cuda::copy_async_sixteen(b + cuda::place(column_of(task), vector_of()), there ? from : p_.packed, there);
    }
  }

 private:
  static constexpr int kTasks = Tile::kColumns * cuda::kStageVectors / Tile::kThreads;
  static_assert(kTasks * Tile::kThreads == Tile::kColumns * cuda::kStageVectors);
  static __device__ __forceinline__ int vector_of() { return static_cast<int>(threadIdx.x) % cuda::kStageVectors; }
  static __device__ __forceinline__ int column_of(int task) {
    return static_cast<int>(threadIdx.x) / cuda::kStageVectors + task * (Tile::kThreads / cuda::kStageVectors);
  }

  const TransposedConvolution& p_;
  const Phase &h_, &w_;
  const cuda::Sixteen* packed_;
  const int stages_;
  int channels_[kTasks];
};

// Blocks: [sample][head][phase][row tile][column tile].
template <class T, class Tile, class Product>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks) convolve_transposed(const TransposedConvolution p) {
  auto& shared = cuda::shared_memory<cuda::GemmShared<Tile>>();
  int index = static_cast<int>(blockIdx.x);
  const int column = index % p.column_tiles * Tile::kColumns;
  index /= p.column_tiles;
  const int row = index % p.row_tiles * Tile::kRows;
  index /= p.row_tiles;
  const int phases = p.h.phases * p.w.phases, phase = index % phases;
  index /= phases;  // of sample and head
  const int kept = p.kept.counts[index];
  const int phase_h = phase / p.w.phases, phase_w = phase - phase_h * p.w.phases;
  const Phase h(p.h, phase_h), w(p.w, phase_w);
  if (column >= kept || row >= h.pixels * w.pixels) return;

  const int n = index / p.heads, head = index - n * p.heads;
  const cuda::WindowMap map{.n = p.n,
                            .row_h = p.row_h,
                            .row_w = p.row_w,
                            .H = p.Ho,
                            .W = p.Wo,
                            .kw = w.count,
                            .stride_h = 1,
                            .stride_w = 1,
                            .top = -h.base,
                            .left = -w.base,
                            .dilation_h = -p.h.down,
                            .dilation_w = -p.w.down};
  Product product;
  const KeptColumns<T, Tile> weights(p, h, w, index, kept, column);
  if (weights.stages() > 0) {
    cuda::Windows<T, Tile> windows(map, p.gradient + n * p.n + head * p.vectors, p.vectors, [&](int r, int& i, int& j) {
      i = (row + r) / w.pixels;
      j = row + r - i * w.pixels;
      return row + r < h.pixels * w.pixels;
    });
    cuda::multiply<Tile>(shared, product, windows, weights, 0, weights.stages());
  }
  const int64_t pixels = static_cast<int64_t>(p.h.size) * p.w.size;
  float* columns = p.columns + (static_cast<int64_t>(index) * p.kept.most + column) * pixels;
  cuda::store_sums<Tile>(shared, product, [&](int begin, const float* slab) {
    // Neighbouring threads have neighbouring pixels.
    for (int task = static_cast<int>(threadIdx.x); task < Tile::kRows * cuda::kSlabColumns; task += Tile::kThreads) {
      const int r = task % Tile::kRows, k = task / Tile::kRows;
      if (row + r >= h.pixels * w.pixels || column + begin + k >= kept) continue;
      const int i = (row + r) / w.pixels, j = row + r - i * w.pixels;
      const int64_t pixel = static_cast<int64_t>(phase_h + i * p.h.stride) * p.w.size + phase_w + j * p.w.stride;
      columns[(begin + k) * pixels + pixel] = slab[r * cuda::kSlabPitch + k];
    }
  });
}

}  // namespace dyndeploy::dgc

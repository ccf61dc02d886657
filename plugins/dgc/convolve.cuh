// Dynamic group convolution, forward: per sample and head a product over the kept channels only.
//
//             depth: taps, then kept channels                  rows     output pixels of one sample
//          ┌──────────────────────────────┐                    columns  outputs of one head
//   rows   │ windows of the head's copy   │   ┌────────┐
//          │ of X (keep.cuh)              │   │   Y    │         a block: one tile of Y. How deep it has to go it reads from
//          └──────────────────────────────┘   └────────┘         the count of kept channels
//          ┌──────────────────────────────┐
//   depth  │ rows of W of kept channels   │   W is packed [head][channel][tap][outputs]: what one kept channel and tap
//          │ by their indices             │   needs are consecutive outputs, copied sixteen bytes at a time; the others
//          └──────────────────────────────┘   are not read
//
// Cost of a tile of R pixels and C outputs: 64 (R + C) bytes and 32 R C multiply-adds of halves per stage of 32 kept
// (16 of floats), taps * ceil(kept / 32) stages. With a quarter kept a quarter of the dense product's; what it adds are the
// passes over X in keep.cuh.
#pragma once

#include "common/cuda/output.cuh"
#include "common/cuda/windows.cuh"
#include "dgc/keep.cuh"

namespace dyndeploy::dgc {

struct Convolution {
  Kept kept;
  const cuda::Sixteen* x;  // the heads' copies, [sample][head][H][W][kept.most]
  cuda::WindowMap map;     // of a copy
  int taps;
  const cuda::Sixteen* packed;  // [head][C][tap][vectors]
  int heads, C;
  int outputs, vectors;  // of a head; vectors hold its outputs, padded
  cuda::Output output;   // of a head's first output, in the first sample
  int64_t head;          // distance of heads in Y, in elements
  int row_tiles, column_tiles;
};

// Columns of multiply(), in rows of depth: those of kept channels.
template <class T, class Tile>
class KeptWeights {
 public:
  __device__ __forceinline__ KeptWeights(const Convolution& p, int index, int kept, int column)
      : p_(p),
        channels_(p.kept.channels + static_cast<int64_t>(index) * p.kept.most),
        packed_(p.packed + static_cast<int64_t>(index % p.heads) * p.C * p.taps * p.vectors),
        kept_(kept),
        stages_(cuda::Windows<T, Tile>::stages_of_tap((kept + kWide - 1) / kWide)),
        first_(column / kWide) {}

  __device__ __forceinline__ int stages() const { return p_.taps * stages_; }

  __device__ __forceinline__ void copy(int stage, cuda::Sixteen* b) const {
    constexpr int kVectors = Tile::kColumns / kWide;
    const int tap = stage / stages_, begin = (stage - tap * stages_) * cuda::kStageDepth<T>;
#pragma unroll
    for (int i = 0; i < Tile::kColumns * cuda::kStageVectors; i += Tile::kThreads) {
      const int task = i + static_cast<int>(threadIdx.x), depth = task / kVectors, vector = task % kVectors;
      const bool there = begin + depth < kept_ && first_ + vector < p_.vectors;
      const int channel = there ? channels_[begin + depth] : 0;
      const cuda::Sixteen* from =
          packed_ + (static_cast<int64_t>(channel) * p_.taps + tap) * p_.vectors + first_ + vector;
      cuda::copy_async_sixteen(b + cuda::DepthInRows<T, Tile>::place(depth, vector), there ? from : p_.packed, there);
    }
  }

 private:
  static constexpr int kWide = cuda::kPerSixteen<T>;
  static_assert(Tile::kColumns * cuda::kStageVectors % Tile::kThreads == 0);
  const Convolution& p_;
  const int* channels_;
  const cuda::Sixteen* packed_;
  const int kept_, stages_, first_;
};

template <class T, class Tile, class Product>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks) convolve(const Convolution p) {
  auto& shared = cuda::shared_memory<cuda::GemmShared<Tile>>();
  int index = static_cast<int>(blockIdx.x);
  const int column = index % p.column_tiles * Tile::kColumns;
  index /= p.column_tiles;
  const int row = index % p.row_tiles * Tile::kRows;
  index /= p.row_tiles;  // of sample and head
  const int kept = p.kept.counts[index];

  Product product;
  if (kept > 0) {
    const KeptWeights<T, Tile> weights(p, index, kept, column);
    constexpr int kWide = cuda::kPerSixteen<T>;
    cuda::Windows<T, Tile> windows(p.map, p.x + index * p.map.n, (kept + kWide - 1) / kWide, [&](int r, int& i, int& j) {
      i = (row + r) / p.output.width;
      j = row + r - i * p.output.width;
      return row + r < p.output.pixels;
    });
    cuda::multiply<Tile>(shared, product, windows, weights, 0, weights.stages());
  }
  const int n = index / p.heads, head = index - n * p.heads;
  cuda::Output output = p.output;
  output.data = static_cast<T*>(output.data) + n * output.n + head * p.head;
  output.bias = static_cast<const T*>(output.bias) + head * p.outputs * output.bias_stride;
  output.rows = output.pixels;
  cuda::store_sums<Tile>(shared, product, [&](int begin, const float* slab) {
    const int from = column + begin;
    cuda::store_slab<T, Tile::kRows, Tile::kThreads>(output, slab, row, from, min(p.outputs - from, cuda::kSlabColumns));
  });
}

// --- W [O, C, kh, kw], any strides, to [head][C][tap][vectors]

struct Packing {
  const void* weights;
  int64_t o, c, h, w;  // strides in elements
  int heads, C, taps, kw;
  int outputs, vectors;  // of a head
  cuda::Sixteen* packed;
};

inline constexpr int kPackThreads = 256;

// A thread packs one vector. Neighbouring threads have neighbouring taps and channels, which W has in this order mostly.
template <class T>
__global__ void __launch_bounds__(kPackThreads) pack_weights(const Packing p) {
  constexpr int kWide = cuda::kPerSixteen<T>;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPackThreads + static_cast<int>(threadIdx.x);
  const int64_t of_channels = static_cast<int64_t>(p.C) * p.taps;
  if (index >= p.heads * of_channels * p.vectors) return;
  const int64_t place = index % of_channels, rest = index / of_channels;
  const int vector = static_cast<int>(rest % p.vectors), head = static_cast<int>(rest / p.vectors);
  const int64_t channel = place / p.taps;
  const int tap = static_cast<int>(place - channel * p.taps), down = tap / p.kw, right = tap - down * p.kw;
  const T* from = static_cast<const T*>(p.weights) + channel * p.c + down * p.h + right * p.w +
                  (static_cast<int64_t>(head) * p.outputs + vector * kWide) * p.o;
  float values[kWide];
#pragma unroll
  for (int i = 0; i < kWide; ++i) values[i] = vector * kWide + i < p.outputs ? cuda::to_float(from[i * p.o]) : 0.0f;
  p.packed[(head * of_channels + place) * p.vectors + vector] = cuda::pack<T>(values);
}

}  // namespace dyndeploy::dgc

// Modulated deformable convolution, forward: an implicit product of matrices whose rows are sampled as they are needed.
//
//             depth: taps and channels (depth.cuh)         rows     output pixels, counted over all samples
//          ┌──────────────────────┐                        columns  outputs of one group
//   rows   │ samples (sampler.cuh)│   ┌────────┐
//          └──────────────────────┘   │        │           A block makes one tile of Y, over all of the depth or, where
//          ┌──────────────────────┐   │   Y    │           that would leave multiprocessors idle, over a part of it: then
//  columns │ W (pack.cuh)         │   │        │           the sums are kept in the workspace, and add_parts adds them up,
//          └──────────────────────┘   └────────┘           in order.
//
// Cost of a tile of R pixels and C outputs per stage (64 bytes of depth: 32 halves or 16 floats), w x v warps:
//   products   32 R C multiply-adds on tensor cores; 16 R C of floats
//   samples    256 R bytes of X, some 4.3 R clocks of all instructions (sampler.cuh), whatever C is: so a tile takes all
//              outputs of a group where it can, and sampling weighs 1 / C
//   weights    64 C bytes from the second cache, whatever R is: so the more rows the better, while there are tiles for all
//   operands   64 R (1 + v) + 64 C (1 + w) bytes of shared memory, which shares its 128 bytes a clock with the samples
// By these counts (tiles.h; not measured) a tile of halves is bound on an H200 by what passes through the first cache and
// shared memory, at about half of what mma.sync could multiply; with 256 outputs the two are even.
#pragma once

#include "common/cuda/output.cuh"
#include "dcnv2/sampler.cuh"

namespace dyndeploy::dcnv2 {

struct Convolution {
  Sampling sampling;
  DepthOrder order;
  cuda::Output output;
  const cuda::Sixteen* packed;
  int groups, outputs, columns;  // of a group; padded
  int row_tiles, column_tiles;
  int parts, part_stages;  // of the depth
  float* sums;             // [part][group][row][columns], where there is more than one part
};

template <class T, class Tile>
struct ConvolveShared {
  cuda::GemmShared<Tile> gemm;
  SamplerShared<Tile> sampler;
};

// Blocks: [part][row tile][group][column tile], so that blocks side by side sample the same pixels.
template <class T, class Tile, class Product>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks) convolve(const Convolution p) {
  auto& shared = cuda::shared_memory<ConvolveShared<T, Tile>>();
  int index = static_cast<int>(blockIdx.x);
  const int column = index % p.column_tiles * Tile::kColumns;
  index /= p.column_tiles;
  const int group = index % p.groups;
  index /= p.groups;
  const int row = index % p.row_tiles * Tile::kRows, part = index / p.row_tiles;
  const int stages = p.order.stages();
  const int first = part * p.part_stages, last = min(first + p.part_stages, stages);

  Product product;
  if (first < last) {
    const cuda::PackedColumns<Tile> weights(
        p.packed + static_cast<int64_t>(group) * stages * p.columns * cuda::kStageVectors, p.columns, column);
    Sampler<T, Tile> sampler(p.sampling, p.order, shared.sampler, row, group, first);
    cuda::multiply<Tile>(shared.gemm, product, sampler, weights, first, last);
  }
  cuda::store_sums<Tile>(shared.gemm, product, [&](int begin, const float* slab) {
    const int from = column + begin;
    if (p.parts == 1) {
      cuda::store_slab<T, Tile::kRows, Tile::kThreads>(p.output, slab, row, group * p.outputs + from,
                                                       min(p.outputs - from, cuda::kSlabColumns));
      return;
    }
    const int rows = p.output.rows;
    float* sums = p.sums + ((static_cast<int64_t>(part) * p.groups + group) * rows + row) * p.columns + from;
    constexpr int kFours = cuda::kSlabColumns / 4;
    for (int task = static_cast<int>(threadIdx.x); task < min(Tile::kRows, rows - row) * kFours;
         task += Tile::kThreads) {
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

// Y from the sums of the parts of depth. Blocks: [row tile][group][slab of columns].
template <class T>
__global__ void __launch_bounds__(kAddThreads) add_parts(const Convolution p) {
  auto& shared = cuda::shared_memory<AddShared>();
  const int slabs = (p.outputs + cuda::kSlabColumns - 1) / cuda::kSlabColumns;
  int index = static_cast<int>(blockIdx.x);
  const int from = index % slabs * cuda::kSlabColumns;
  index /= slabs;
  const int group = index % p.groups, row = index / p.groups * kAddRows;
  constexpr int kFours = cuda::kSlabColumns / 4;
  const int rows = min(kAddRows, p.output.rows - row);
  const int64_t part = static_cast<int64_t>(p.groups) * p.output.rows * p.columns;
  for (int task = static_cast<int>(threadIdx.x); task < rows * kFours; task += kAddThreads) {
    const int r = task / kFours, four = task % kFours * 4;
    if (from + four >= p.columns) continue;
    const float* sums = p.sums + (static_cast<int64_t>(group) * p.output.rows + row + r) * p.columns + from + four;
    float4 all = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
    for (int i = 0; i < p.parts; ++i) {
      const float4 one = *reinterpret_cast<const float4*>(sums + i * part);
      all = make_float4(all.x + one.x, all.y + one.y, all.z + one.z, all.w + one.w);
    }
    *reinterpret_cast<float4*>(shared.slab + r * cuda::kSlabPitch + four) = all;
  }
  __syncthreads();
  cuda::store_slab<T, kAddRows, kAddThreads>(p.output, shared.slab, row, group * p.outputs + from,
                                             min(p.outputs - from, cuda::kSlabColumns));
}

}  // namespace dyndeploy::dcnv2

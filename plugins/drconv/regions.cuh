// The pixels of every sample sorted by region, and the tiles that the product is cut into: all of it on the GPU.
//
//   find    argmax of the guide per pixel, and how many pixels of every region a piece of the map has
//   place   per sample: where the pixels of (region, piece) begin in the sorted list; the table of tiles
//   sort    every pixel to its place; within a region in the order of the map
//
//   tiles   of a sample: [region 0: full, full, rest] [region 1: rest] [region 2: full, rest] … nothing, nothing
//
// A region has at most one tile that is not full, so that a sample never has more than pixels / rows + regions tiles: that
// many blocks are launched, whatever the guide is, and those without a tile end at once.
//
// Cost: the guide is read once, some sixteen bytes per pixel are moved besides. A sample of one piece takes one kernel.
#pragma once

#include "common/cuda/dtype.cuh"
#include "common/cuda/scan.cuh"

namespace dyndeploy::drconv {

struct Tile {
  int begin, count, region;  // count 0: none
};

// An output pixel.
struct Pixel {
  int i, j;
};

struct Sorting {
  const void* guide;
  int64_t n, c, h, w;  // strides in elements
  int regions, pixels, width;
  int pieces;      // of a sample
  int* chosen;     // [sample][pixel]
  int* starts;     // [sample][region][piece]: counts, then where they begin
  int* sorted;     // [sample][pixel]
  Tile* tiles;     // [sample][most_tiles]
  int most_tiles;
  int tile_rows;
  // For gradients, or NULL.
  Pixel* places;   // [sample][pixel], as `sorted`
  Tile* parts;     // another table: [sample][most_parts]
  int most_parts;
  int part_rows;
};

inline constexpr int kSortThreads = 256, kPiece = kSortThreads;
inline constexpr int kMostRegions = 1024;

struct SortShared {
  cuda::ScanShared<kSortThreads> scan;
  int counts[kMostRegions];
  int chosen[kPiece];
};

namespace detail {

// The first of the largest; the first NaN is larger than all numbers.
template <class T>
__device__ __forceinline__ int argmax(const Sorting& p, int n, int pixel) {
  const int i = pixel / p.width, j = pixel - i * p.width;
  const T* at = static_cast<const T*>(p.guide) + n * p.n + i * p.h + j * p.w;
  float best = cuda::to_float(at[0]);
  int region = 0;
  for (int r = 1; r < p.regions; ++r) {
    const float v = cuda::to_float(at[r * p.c]);
    if (v > best || (v != v && best == best)) {
      best = v;
      region = r;
    }
  }
  return region;
}

template <class T>
__device__ __forceinline__ void find(const Sorting& p, SortShared& shared, int n, int piece) {
  const int tid = static_cast<int>(threadIdx.x), pixel = piece * kPiece + tid;
  for (int r = tid; r < p.regions; r += kSortThreads) shared.counts[r] = 0;
  __syncthreads();
  if (pixel < p.pixels) {
    const int region = argmax<T>(p, n, pixel);
    p.chosen[static_cast<int64_t>(n) * p.pixels + pixel] = region;
    atomicAdd(&shared.counts[region], 1);
  }
  __syncthreads();
  for (int r = tid; r < p.regions; r += kSortThreads)
    p.starts[(static_cast<int64_t>(n) * p.regions + r) * p.pieces + piece] = shared.counts[r];
}

// The table of a sample's tiles of so many rows.
__device__ __forceinline__ void cut(const Sorting& p, SortShared& shared, const int* starts, Tile* tiles, int most_tiles,
                                    int rows) {
  const int tid = static_cast<int>(threadIdx.x);
  int used = 0;
  for (int first = 0; first < p.regions; first += kSortThreads) {
    const int region = first + tid;
    int begin = 0, end = 0;
    if (region < p.regions) {
      begin = starts[region * p.pieces];
      end = region + 1 < p.regions ? starts[(region + 1) * p.pieces] : p.pixels;
    }
    const int own = (end - begin + rows - 1) / rows;
    int all = 0;
    int at = used + cuda::sum_up_to(shared.scan, own, all) - own;
    for (; begin < end; begin += rows) tiles[at++] = {begin, min(end - begin, rows), region};
    used += all;
  }
  for (int at = used + tid; at < most_tiles; at += kSortThreads) tiles[at] = {0, 0, 0};
}

__device__ __forceinline__ void place(const Sorting& p, SortShared& shared, int n) {
  const int tid = static_cast<int>(threadIdx.x), count = p.regions * p.pieces;
  int* starts = p.starts + static_cast<int64_t>(n) * count;
  int before = 0;
  for (int first = 0; first < count; first += kSortThreads) {
    const int own = first + tid < count ? starts[first + tid] : 0;
    int all = 0;
    const int up_to = cuda::sum_up_to(shared.scan, own, all);
    if (first + tid < count) starts[first + tid] = before + up_to - own;
    before += all;
  }
  __syncthreads();
  cut(p, shared, starts, p.tiles + static_cast<int64_t>(n) * p.most_tiles, p.most_tiles, p.tile_rows);
  if (p.parts) cut(p, shared, starts, p.parts + static_cast<int64_t>(n) * p.most_parts, p.most_parts, p.part_rows);
}

__device__ __forceinline__ void sort(const Sorting& p, SortShared& shared, int n, int piece) {
  const int tid = static_cast<int>(threadIdx.x), pixel = piece * kPiece + tid;
  const bool there = pixel < p.pixels;
  const int region = there ? p.chosen[static_cast<int64_t>(n) * p.pixels + pixel] : -1;
  shared.chosen[tid] = region;
  __syncthreads();
  if (!there) return;
  int rank = 0;
  for (int other = 0; other < tid; ++other) rank += shared.chosen[other] == region;
  const int start = p.starts[(static_cast<int64_t>(n) * p.regions + region) * p.pieces + piece];
  const int64_t place = static_cast<int64_t>(n) * p.pixels + start + rank;
  p.sorted[place] = pixel;
  if (p.places) p.places[place] = {pixel / p.width, pixel % p.width};
}

}  // namespace detail

// Blocks: [sample][piece].
template <class T>
__global__ void __launch_bounds__(kSortThreads) find_regions(const Sorting p) {
  const int n = static_cast<int>(blockIdx.x) / p.pieces;
  detail::find<T>(p, cuda::shared_memory<SortShared>(), n, static_cast<int>(blockIdx.x) - n * p.pieces);
}
// Blocks: samples. A template, as the next one, so that more than one source may include it.
template <class = void>
__global__ void __launch_bounds__(kSortThreads) place_regions(const Sorting p) {
  detail::place(p, cuda::shared_memory<SortShared>(), static_cast<int>(blockIdx.x));
}
// Blocks: [sample][piece].
template <class = void>
__global__ void __launch_bounds__(kSortThreads) sort_pixels(const Sorting p) {
  const int n = static_cast<int>(blockIdx.x) / p.pieces;
  detail::sort(p, cuda::shared_memory<SortShared>(), n, static_cast<int>(blockIdx.x) - n * p.pieces);
}
// The three in one, for samples of one piece. Blocks: samples.
template <class T>
__global__ void __launch_bounds__(kSortThreads) sort_small(const Sorting p) {
  auto& shared = cuda::shared_memory<SortShared>();
  const int n = static_cast<int>(blockIdx.x);
  detail::find<T>(p, shared, n, 0);
  __syncthreads();
  detail::place(p, shared, n);
  __syncthreads();
  detail::sort(p, shared, n, 0);
}

}  // namespace dyndeploy::drconv

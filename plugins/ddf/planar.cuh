// 3 x 3 filters, stride 1, dilation 1, on maps whose rows are dense (NCHW): DDF, and DDF-Up to twice the size.
//
//   y[c, p] = sum over taps t of (channel[c, t] * spatial[p, t]) * x[c, p + t]
//
// A block owns a tile of pixels and walks over channels. A thread owns four neighbours in a row of Y, and holds their
// spatial filters, 36 numbers that it normalises itself, in registers while it does so:
//
//   Scale 1                                     Scale 2, one row of sub-pixels after the other
//     x   . . . . . .    four pixels, six         x   . . . .     two pixels, four columns, three rows;
//         . p p p p .    columns, three rows          . p p .     two branches
//         . . . . . .                                 . . . .
//     y     * * * *                               y    ****
//
// Small tiles leave threads over: those take other channels (`lanes` of them at once). A batch is kBatch channels per
// lane. While one is computed the next one's x is under way to registers, from where it goes to the other half of
// shared memory, widened, as planes with a margin of one pixel; where the map ends they are 0 from the beginning on:
//
//   load batch b + 1 -> registers | compute batch b from shared[b % 2] | registers -> shared[(b + 1) % 2] | wait
//
// Cost. Memory: x and y once (DDF-Up: x twice, the second time from a cache if the block's channels fit), of x 612
// numbers for 512 of y in the largest tile. Instructions per element of Y, counted in the code for sm_90, of float16
// without DDF-Up: 18 of arithmetic, 27 in the loop over channels, 38 with fetching and putting numbers one by one,
// which is what rows of any length and alignment cost. At 28.7e12 a second on an H200 those are 3.0 TB/s of x and y in
// float16, where memory has 4.8, and 6 in float32: memory is the limit in float32 only.
#pragma once

#include "ddf/filters.cuh"

namespace dyndeploy::cuda::ddf {

struct PlanarTile {
  static constexpr int kThreads = 128;
  static constexpr int kOutputs = 4;      // of a thread, in a row of Y
  static constexpr int kBatch = 4;        // channels of a lane
  static constexpr int kMostX = 896;      // floats of a plane of each lane
  // Blocks that are to share a multiprocessor.
  static constexpr int blocks(int scale) { return scale == 1 ? 3 : 4; }
  // Elements of a plane that a thread fetches, at most.
  __host__ __device__ static constexpr int most_loads(int scale) { return scale == 1 ? 7 : 4; }

  int rows, groups, lanes;  // of a tile; groups of pixels of one thread in a row; channels at once
  int pitch;                // floats from row to row of a plane, a multiple of 4
  int loads;                // <= most_loads
};

template <class T>
struct Planar {
  Map<const T, int> x, filters;
  Map<T, int> y;
  const float* channel;  // by channels
  int64_t channel_n, channel_branch;
  int H, W, Ho, Wo, top, left;
  int heads, head_channels;
  PlanarTile tile;
  Divisor across;        // tiles in a row of tiles
  int chunk, chunks;     // channels of a block, and how many of those a head has
  float spatial_gain;
  bool filter_norm, relu;
  bool whole;  // four outputs of a row are stored at once
  TurnedFilters turned;  // see channels_last.cuh
};

// A channel of each lane, [lane][rows + 2][pitch], and behind them a number for each thread.
using PlanarStep = float[PlanarTile::kMostX + PlanarTile::kThreads];

struct PlanarShared {
  PlanarStep x[2][PlanarTile::kBatch];
};
static_assert(sizeof(PlanarShared) <= kMostSharedBytes);

// The spatial filters of this thread's pixels, of a branch and head: `map`. Pixels beyond the map get zeros.
template <int Pixels, class T>
__device__ __forceinline__ void read_spatial(const Planar<T>& p, int n, int map, int i, int j,
                                             float (&taps)[Pixels][kNine]) {
#pragma unroll
  for (int q = 0; q < Pixels; ++q) {
#pragma unroll
    for (int t = 0; t < kNine; ++t) taps[q][t] = 0.0f;
    if (i < p.Ho && j + q < p.Wo && p.turned.taps) {
      p.turned.read(n, map, p.H, p.W, i - p.top, j + q - p.left, taps[q]);
    } else if (i < p.Ho && j + q < p.Wo) {
      const T* from = p.filters.at(n, map * kNine, i, j + q);
#pragma unroll
      for (int t = 0; t < kNine; ++t) taps[q][t] = to_float(from[t * p.filters.c]);
      normalise(p.filter_norm, p.spatial_gain, taps[q]);
    }
  }
}

// Columns of a row of shared memory, from one that is a multiple of a thread's pixels.
__device__ __forceinline__ void load_columns(const float* x, float (&columns)[6]) {
  const float4 four = *reinterpret_cast<const float4*>(x);
  const float2 two = *reinterpret_cast<const float2*>(x + 4);
  columns[0] = four.x, columns[1] = four.y, columns[2] = four.z, columns[3] = four.w;
  columns[4] = two.x, columns[5] = two.y;
}
__device__ __forceinline__ void load_columns(const float* x, float (&columns)[4]) {
  const float2 left = *reinterpret_cast<const float2*>(x), right = *reinterpret_cast<const float2*>(x + 2);
  columns[0] = left.x, columns[1] = left.y, columns[2] = right.x, columns[3] = right.y;
}

template <class T>
__device__ __forceinline__ void store_four(T* to, const float (&values)[4], int count, bool whole) {
  if (whole && count >= 4) {
    if constexpr (sizeof(T) == 4)
      store_sixteen(to, pack<T>(values));
    else
      *reinterpret_cast<uint2*>(to) =
          make_uint2(pack_pair<T>(values[0], values[1]), pack_pair<T>(values[2], values[3]));
    return;
  }
#pragma unroll
  for (int e = 0; e < 4; ++e)
    if (e < count) to[e] = from_float<T>(values[e]);
}

// blockIdx: x chunks of channels of all heads, then tiles along the row; y tiles down; z samples.
template <class T, bool Add, int Scale>
__global__ __launch_bounds__(PlanarTile::kThreads, PlanarTile::blocks(Scale)) void filter_planar(Planar<T> p) {
  constexpr int kBatch = PlanarTile::kBatch, kLoads = PlanarTile::most_loads(Scale);
  constexpr int kPixels = PlanarTile::kOutputs / Scale, kColumns = kPixels + 2;
  auto& shared = shared_memory<PlanarShared>();
  const int n = static_cast<int>(blockIdx.z);
  const int tile_chunk = p.across.quotient(static_cast<int>(blockIdx.x));
  const int head = tile_chunk / p.chunks, in_head = (tile_chunk - head * p.chunks) * p.chunk;
  const int begin = head * p.head_channels + in_head;
  const int channels = min(p.chunk, p.head_channels - in_head);
  const int i0 = static_cast<int>(blockIdx.y) * p.tile.rows;
  const int j0 = p.across.remainder(static_cast<int>(blockIdx.x), tile_chunk) * p.tile.groups * kPixels;

  // This thread: a channel of each step, a row and a group of pixels.
  const int per_lane = p.tile.rows * p.tile.groups;
  const int lane = static_cast<int>(threadIdx.x) / per_lane, in_lane = static_cast<int>(threadIdx.x) % per_lane;
  const int row = in_lane / p.tile.groups, group = in_lane % p.tile.groups;
  const bool works = lane < p.tile.lanes;
  const int i = i0 + row, j = j0 + group * kPixels;
  const int outputs = works && i < p.Ho ? min(kPixels, p.Wo - j) * Scale : 0;

  // The elements of a plane that it fetches: where they lie in the map, and in shared memory. For those outside of the
  // map it fetches the first one, and puts it behind the planes, which stay 0 there: no element has a branch of its
  // own.
  const int width = p.tile.groups * kPixels + 2, plane = (p.tile.rows + 2) * width;
  const int pitched = (p.tile.rows + 2) * p.tile.pitch;
  int from[kLoads], to[kLoads];  // in bytes, in floats
#pragma unroll
  for (int m = 0; m < kLoads; ++m) {
    const int e = in_lane + m * per_lane, r = e / width, column = e - r * width;
    const int h = i0 - p.top + r, w = j0 - p.left + column;
    const bool inside = works && e < plane && h >= 0 && h < p.H && w >= 0 && w < p.W;
    from[m] = inside ? (h * p.x.h + w) * static_cast<int>(sizeof(T)) : 0;
    to[m] = inside ? lane * pitched + r * p.tile.pitch + column
                   : PlanarTile::kMostX + static_cast<int>(threadIdx.x);
  }
  for (int e = static_cast<int>(threadIdx.x); e < static_cast<int>(sizeof shared / sizeof(Sixteen));
       e += static_cast<int>(blockDim.x))
    reinterpret_cast<Sixteen*>(&shared)[e] = {};
  __syncthreads();

  const T* sample = p.x.at(n, begin, 0, 0);
  T fetched[kBatch][kLoads];
  // Unless a share is smaller than the largest one: then the last of its elements are none.
  const auto is_used = [&](int m) __attribute__((always_inline)) { return m < kLoads - 2 || m < p.tile.loads; };
  const auto fetch = [&](int first) __attribute__((always_inline)) {
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      // Lanes that have no channel left fetch one that is there.
      const int c = min(first + b * p.tile.lanes + lane, channels - 1);
      const char* x = reinterpret_cast<const char*>(sample + static_cast<int64_t>(c) * p.x.c);
#pragma unroll
      for (int m = 0; m < kLoads; ++m)
        if (is_used(m)) fetched[b][m] = *reinterpret_cast<const T*>(x + from[m]);
    }
  };
  const auto put = [&](PlanarStep (&batch)[kBatch]) __attribute__((always_inline)) {
#pragma unroll
    for (int m = 0; m < kLoads; ++m)
      if (is_used(m))
#pragma unroll
        for (int b = 0; b < kBatch; ++b) batch[b][to[m]] = to_float(fetched[b][m]);
  };

  const int step = kBatch * p.tile.lanes;
  int half = 0;
#pragma unroll 1
  for (int down = 0; down < Scale; ++down) {
    fetch(0);
    float spatial[Scale][kPixels][kNine];
#pragma unroll
    for (int right = 0; right < Scale; ++right)
      read_spatial<kPixels>(p, n, (down * Scale + right) * p.heads + head, i, j, spatial[right]);
    T* y_row = p.y.at(n, begin, i * Scale + down, j * Scale);
    const float* filters = p.channel + n * p.channel_n + down * Scale * p.channel_branch + (begin + lane) * kNinePitch;
    y_row += static_cast<int64_t>(lane) * p.y.c;
    int left = outputs > 0 ? (channels - lane + p.tile.lanes - 1) / p.tile.lanes : 0;  // of this lane's channels
#pragma unroll 1
    for (int first = 0; first < channels; first += step, left -= kBatch, half ^= 1) {
      put(shared.x[half]);
      if (first + step < channels) fetch(first + step);
      __syncthreads();
      const float* x = shared.x[half][0] + lane * pitched + row * p.tile.pitch + group * kPixels;
#pragma unroll 1
      for (int b = 0; b < min(kBatch, left); ++b) {
        float taps[Scale][kNinePitch];
#pragma unroll
        for (int right = 0; right < Scale; ++right)
#pragma unroll
          for (int t = 0; t < kNinePitch; t += 4) {
            const Sixteen four = load_sixteen(filters + right * p.channel_branch + t);
#pragma unroll
            for (int e = 0; e < 4; ++e) taps[right][t + e] = __uint_as_float(four.words[e]);
          }
        float sums[PlanarTile::kOutputs] = {};
#pragma unroll
        for (int r = 0; r < 3; ++r) {
          float columns[kColumns];
          load_columns(x + r * p.tile.pitch, columns);
#pragma unroll
          for (int q = 0; q < kPixels; ++q)
#pragma unroll
            for (int right = 0; right < Scale; ++right)
#pragma unroll
              for (int t = 0; t < 3; ++t) {
                const float filter = combined<Add>(taps[right][3 * r + t], spatial[right][q][3 * r + t]);
                sums[q * Scale + right] = fmaf(filter, columns[q + t], sums[q * Scale + right]);
              }
        }
        if (p.relu)
#pragma unroll
          for (float& sum : sums) sum = relu(sum);
        store_four(y_row, sums, outputs, p.whole);
        x += sizeof(PlanarStep) / sizeof(float);
        filters += p.tile.lanes * kNinePitch;
        y_row += static_cast<int64_t>(p.tile.lanes) * p.y.c;
      }
    }
    // The next round puts into the half that was put into before last: all have read that.
  }
}

}  // namespace dyndeploy::cuda::ddf

// 3 x 3 filters, stride 1, dilation 1, on channels-last maps: pixels begin at multiples of sixteen bytes, and heads
// have whole vectors (sixteen bytes) of channels. What has a tail is left to general.cuh.
//
//   y[p, c] = sum over taps t of (channel[c, t] * spatial[p, t]) * x[p + t, c]
//
// A block owns up to eight rows of a strip of eight pixels, sixteen vectors of channels deep; where a head has no more
// than eight, of two strips side by side. A thread owns a row of a strip and one vector, together a slot:
//
//        columns of x
//      0 1 2 3 4 5 6 7 8 9            x   each strip with a margin of one pixel, copied to shared memory by cp.async as
//    +---------------------+              [row][column][slot], zeros where the map ends
//  0 | . . . . . . . . . . |  rows    spatial  normalised by the block, one thread per pixel, as [column of x][tap that
//  1 | . p p p p p p p p . |  of x        reads it]: each column meets nine numbers, of three neighbouring pixels
//  2 | . . . . . . . . . . |          channel  nine vectors of floats, held in registers along the strip
//    +---------------------+
//
// The strip is walked column by column. A column's three vectors are widened once, and added to the three pixels that
// read them. All is unrolled: which tap of a column meets which pixel of the strip is known to the compiler.
//
// DDF-Up: branches one after the other over the same tile of x; a sub-pixel's vectors go to their place in Y.
// The gradient of X, without DDF-Up, is a filter of the gradient of Y with turned filters: x is that of Y then, y that of X.
//
// Cost. Memory: x and y once, the spatial filters once per block's channels; of x, 100 pixels are read from the second
// cache for 64 of y. Instructions per element of Y, counted in the code for sm_90, of float16: 18 of arithmetic (two
// per tap: a product of the two filters is needed once only), 26 with all that a strip does, 30 to 32 with what a block
// prepares; DDF-Up to twice the size 28. An H200 issues 28.7e12 a second at 1.7 GHz: 0.95e12 elements, which are 3.8
// TB/s of x and y, where memory has 4.8. So 16-bit DDF is bound by instructions and memory at about the same time.
// DDF-Up, 2.5 bytes per element, is by instructions alone: 2.6 TB/s at best. In float32 (8 and 5 bytes, and as many
// instructions) memory is the limit.
#pragma once

#include "common/cuda/mma.cuh"
#include "ddf/filters.cuh"

namespace dyndeploy::cuda::ddf {

struct ChannelsLastTile {
  // Pixels of a strip, and columns of x that it reads.
  static constexpr int kStrip = 8, kColumns = kStrip + 2;
  static constexpr int kThreads = 128;
  // Blocks that are to share a multiprocessor: 128 registers for a thread, which a loop over branches exceeds.
  static constexpr int blocks(int group) { return group == 1 ? 4 : 3; }
  // Limits: rows, strips of all rows, and slots, one for each vector of each strip of a row.
  static constexpr int kMostRows = 8, kMostStrips = 16, kMostSlots = 16;

  int rows;
  Divisor strips, vectors, slots;  // strips in a row; vectors of channels; slots = strips * vectors
};

template <class T>
struct ChannelsLast {
  Map<const T, int> x, filters;
  Map<T, int> y;
  const float* channel;  // by taps
  int64_t channel_n, channel_branch;
  int channel_pitch;
  int H, W, Ho, Wo, top, left;
  int heads, head_channels, scale;
  ChannelsLastTile tile;
  Divisor chunks, all_chunks;  // tiles of channels: of a head, of all heads
  TurnedFilters turned;
  float spatial_gain;
  bool filter_norm, relu;
};

// Four numbers for each row of x that a column's spatial filters meet: three, and one of padding.
using ChannelsLastStrip = float[ChannelsLastTile::kColumns][kNinePitch];

// `Group`: branches whose spatial filters are there at a time.
template <int Group>
struct ChannelsLastShared {
  Sixteen x[ChannelsLastTile::kMostRows + 2][ChannelsLastTile::kColumns][ChannelsLastTile::kMostSlots];
  ChannelsLastStrip spatial[Group][ChannelsLastTile::kMostStrips];
};
static_assert(sizeof(ChannelsLastShared<2>) <= kMostSharedBytes);

// This thread's share of the tile of x, under way to shared memory: the columns of its slot, in some rows.
template <class T>
__device__ __forceinline__ void copy_tile(const ChannelsLast<T>& p, Sixteen* slot, const T* x, int h0, int w0,
                                          int row) {
  constexpr int kColumns = ChannelsLastTile::kColumns, kSlots = ChannelsLastTile::kMostSlots;
#pragma unroll 1
  for (int r = row; r < p.tile.rows + 2; r += p.tile.rows) {
    const int h = h0 + r;
    const auto width = static_cast<unsigned>(h >= 0 && h < p.H ? p.W : 0);
    // Nothing is read where the map ends, so that the address may be any.
    const T* from = x + static_cast<int64_t>(h) * p.x.h + static_cast<int64_t>(w0) * p.x.w;
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      copy_async_sixteen(slot + (r * kColumns + column) * kSlots, from, static_cast<unsigned>(w0 + column) < width);
      from += p.x.w;
    }
  }
  copy_async_commit();
}

// A column's four numbers are read at once: where it meets no pixel of the strip there are zeros.
template <int Group>
__device__ __forceinline__ void clear_spatial(ChannelsLastShared<Group>& shared, int strips) {
  constexpr int kFours = sizeof(ChannelsLastStrip) / sizeof(Sixteen);
#pragma unroll
  for (int g = 0; g < Group; ++g) {
    auto* four = reinterpret_cast<Sixteen*>(shared.spatial[g]);
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < strips * kFours; i += static_cast<int>(blockDim.x)) four[i] = {};
  }
}

// The spatial filters of branch r, a pixel per thread. Pixels beyond the map get zeros, which nobody stores the result
// of.
template <class T>
__device__ __forceinline__ void fill_spatial(const ChannelsLast<T>& p, ChannelsLastStrip* spatial, int n, int head,
                                             int r, int i0, int j0) {
  constexpr int kStrip = ChannelsLastTile::kStrip;
  const int strips = p.tile.rows * p.tile.strips.divisor;
  for (int pixel = static_cast<int>(threadIdx.x); pixel < strips * kStrip; pixel += static_cast<int>(blockDim.x)) {
    const int strip = pixel / kStrip, in_strip = pixel % kStrip, row = p.tile.strips.quotient(strip);
    const int i = i0 + row, j = j0 + p.tile.strips.remainder(strip, row) * kStrip + in_strip;
    float taps[kNine] = {};
    if (i < p.Ho && j < p.Wo && p.turned.taps) {
      p.turned.read(n, head, p.H, p.W, i - p.top, j - p.left, taps);
    } else if (i < p.Ho && j < p.Wo) {
      const T* from = p.filters.at(n, (r * p.heads + head) * kNine, i, j);
#pragma unroll
      for (int t = 0; t < kNine; ++t) taps[t] = to_float(from[t * p.filters.c]);
      normalise(p.filter_norm, p.spatial_gain, taps);
    }
#pragma unroll
    for (int t = 0; t < kNine; ++t) spatial[strip][in_strip + t % 3][t / 3 * 4 + t % 3] = taps[t];
  }
}

// The strip of one thread: x and y at its first pixel; `pixels` of the strip are stored.
template <bool Add, class T>
__device__ __forceinline__ void filter_strip(const ChannelsLast<T>& p, const Sixteen* x,
                                             const float (*spatial)[kNinePitch], const float* channel, T* y, int y_step,
                                             int pixels) {
  constexpr int kVector = kPerSixteen<T>, kStrip = ChannelsLastTile::kStrip;
  constexpr int kColumns = ChannelsLastTile::kColumns, kSlots = ChannelsLastTile::kMostSlots;
  float held[kNine][kVector];
#pragma unroll
  for (int t = 0; t < kNine; ++t)
#pragma unroll
    for (int v = 0; v < kVector; v += 4) {
      const Sixteen four = load_sixteen(channel + t * p.channel_pitch + v);
#pragma unroll
      for (int e = 0; e < 4; ++e) held[t][v + e] = __uint_as_float(four.words[e]);
    }

  float sums[3][kVector];  // of pixel q at q % 3
#pragma unroll
  for (int column = 0; column < kColumns; ++column) {
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const float4 row = *reinterpret_cast<const float4*>(&spatial[column][4 * i]);
      const float s[3] = {row.x, row.y, row.z};
      float values[kVector];
      unpack<T>(x[(i * kColumns + column) * kSlots], values);
#pragma unroll
      for (int j = 0; j < 3; ++j) {
        const int q = column - j;
        if (q < 0 || q >= kStrip) continue;
        float(&sum)[kVector] = sums[q % 3];
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          const float filter = combined<Add>(held[3 * i + j][v], s[j]);
          sum[v] = i == 0 && j == 0 ? filter * values[v] : fmaf(filter, values[v], sum[v]);
        }
      }
    }
    if (const int q = column - 2; q >= 0) {
      float(&sum)[kVector] = sums[q % 3];
      if (p.relu)
#pragma unroll
        for (int v = 0; v < kVector; ++v) sum[v] = relu(sum[v]);
      if (q < pixels) store_sixteen(y + q * y_step, pack<T>(sum));
    }
  }
}

// blockIdx: x chunks of channels of all heads, then tiles along the row; y tiles down; z samples. Group: 1, without a
// loop, for one branch.
template <class T, bool Add, int Group>
__global__ __launch_bounds__(ChannelsLastTile::kThreads, ChannelsLastTile::blocks(Group))
void filter_channels_last(ChannelsLast<T> p) {
  constexpr int kVector = kPerSixteen<T>, kStrip = ChannelsLastTile::kStrip;
  auto& shared = shared_memory<ChannelsLastShared<Group>>();
  const int across = p.all_chunks.quotient(static_cast<int>(blockIdx.x));
  const int chunk = p.all_chunks.remainder(static_cast<int>(blockIdx.x), across), head = p.chunks.quotient(chunk);
  const int strips = p.tile.strips.divisor, vectors = p.tile.vectors.divisor;
  const int i0 = static_cast<int>(blockIdx.y) * p.tile.rows, j0 = across * strips * kStrip;
  const int n = static_cast<int>(blockIdx.z);

  const int thread = static_cast<int>(threadIdx.x);
  const int row = p.tile.slots.quotient(thread), slot = p.tile.slots.remainder(thread, row);
  const int strip = p.tile.vectors.quotient(slot), vector = p.tile.vectors.remainder(slot, strip);
  const int in_head = (p.chunks.remainder(chunk, head) * vectors + vector) * kVector;
  const int c = head * p.head_channels + in_head;
  const int i = i0 + row, j = j0 + strip * kStrip;
  const bool has_channels = row < p.tile.rows && in_head < p.head_channels;
  if (has_channels)
    copy_tile(p, &shared.x[0][0][slot], p.x.data + n * p.x.n + c, i0 - p.top, j - p.left, row);
  clear_spatial(shared, p.tile.rows * strips);
  __syncthreads();

  const int pixels = has_channels && i < p.Ho ? min(kStrip, p.Wo - j) : 0;
  const int row_strip = row * strips + strip;
  const Sixteen* x = shared.x[0][0] + row * ChannelsLastTile::kColumns * ChannelsLastTile::kMostSlots + slot;
  const float* channel = p.channel + n * p.channel_n + c;
  if constexpr (Group == 1) {
    fill_spatial(p, shared.spatial[0], n, head, 0, i0, j0);
    copy_async_wait<0>();
    __syncthreads();
    if (pixels > 0)
      filter_strip<Add>(p, x, shared.spatial[0][row_strip], channel, p.y.at(n, c, i, j), p.y.w, pixels);
    return;
  }
  const int branches = p.scale * p.scale;
#pragma unroll 1
  for (int first = 0; first < branches; first += Group) {
    if (first) __syncthreads();
    for (int g = 0; g < Group && first + g < branches; ++g)
      fill_spatial(p, shared.spatial[g], n, head, first + g, i0, j0);
    copy_async_wait<0>();
    __syncthreads();
    if (pixels <= 0) continue;
#pragma unroll 1
    for (int g = 0; g < Group && first + g < branches; ++g) {
      const int r = first + g, down = r / p.scale, right = r - down * p.scale;
      T* y = p.y.at(n, c, i * p.scale + down, j * p.scale + right);
      filter_strip<Add>(p, x, shared.spatial[g][row_strip], channel + r * p.channel_branch, y, p.scale * p.y.w, pixels);
    }
  }
}

}  // namespace dyndeploy::cuda::ddf

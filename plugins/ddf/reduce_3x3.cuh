// reduce_pixels and reduce_channels for 3 x 3 windows with strides and dilations of 1.
//
// A thread has strips: neighbouring pixels of a row of Y. It walks along a strip column by column; what it reads of X in a
// column, three rows, is widened once and meets the three pixels whose windows hold it. Which tap that is of each is
// known to the compiler, and so are the registers of all sums.
//
//   columns of X    0 1 2 3 4 5       a strip of four pixels, six columns, three rows
//                     p p p p
//
// What is no number in X may get into other taps of a channel than those that meet it: where a strip ends it is multiplied by
// 0, not left out.
//
// Cost, instructions per element of g counted in the code for sm_90, of float16: with vectors 39 for sums over pixels and 36 for
// those over channels, 18 of them arithmetic; otherwise 65 and 68, since elements are loaded one by one.
// Memory: X and g once each, in each of the two.
#pragma once

#include "ddf/reduce_channels.cuh"
#include "ddf/reduce_pixels.cuh"

namespace dyndeploy::cuda::ddf {

// Strips of a map's rows.
struct Strips {
  int in_row, count;  // of a row, of all rows
};

// Pixels of a strip, channels of a unit, and blocks that are to share a multiprocessor.
template <class T, bool Vectors>
struct PixelStrip {
  static constexpr int kPixels = 4, kChannels = kUnit<T, Vectors>, kBlocks = Vectors ? 2 : 3;
};
template <class T, bool Vectors>
struct ChannelStrip {
  static constexpr int kPixels = 4, kChannels = Vectors ? kPerSixteen<T> : 1, kBlocks = Vectors ? 2 : 4;
};

// A unit at `at` of what its channels' pointers point to, or, if it is not there, zeros.
template <bool Vectors, int Pointers, int Channels, class T>
__device__ __forceinline__ void load_if(bool there, const T* const (&from)[Pointers], int64_t at,
                                        float (&values)[Channels]) {
  if constexpr (Vectors) {
    Sixteen packed{};
    if (there) packed = load_sixteen(from[0] + at);
    unpack<T>(packed, values);
  } else {
#pragma unroll
    for (int v = 0; v < Channels; ++v) values[v] = there ? to_float(from[v][at]) : 0.0f;
  }
}

// Pointers for it: one of all channels of a vector, or one of each. Those of channels that are not there point to the last
// one that is; nobody stores what comes of it.
template <bool Vectors, int Channels>
inline constexpr int kPointers = Vectors ? 1 : Channels;

template <int Pointers, class T>
__device__ __forceinline__ void point_to(const T* unit, int step, int count, const T* (&to)[Pointers]) {
#pragma unroll
  for (int v = 0; v < Pointers; ++v) to[v] = unit + static_cast<int64_t>(min(v, count - 1)) * step;
}

// What the windows of a strip hold of X: three rows, and columns [first, last) of its own.
struct StripWindow {
  bool rows[3];
  int first, last;

  __device__ __forceinline__ StripWindow(const Windows& windows, int top, int left, int pixels)
      : rows{top >= 0 && top < windows.H, top + 1 >= 0 && top + 1 < windows.H, top + 2 >= 0 && top + 2 < windows.H},
        first(max(0, -left)),
        last(min(windows.W - left, pixels + 2)) {}
  __device__ __forceinline__ bool has(int row, int column) const { return rows[row] && column >= first && column < last; }
};

// p.part: strips of a part.
template <class T, bool Vectors>
__global__ __launch_bounds__(Lanes::kThreads, PixelStrip<T, Vectors>::kBlocks)
void reduce_pixels_3x3(ReducePixels<T> p, Strips strips) {
  using Strip = PixelStrip<T, Vectors>;
  constexpr int kPixels = Strip::kPixels, kChannels = Strip::kChannels;
  auto& shared = shared_memory<ReducePixelsShared<T, Vectors>>();
  const Windows& windows = p.windows;
  const int n = static_cast<int>(blockIdx.z);
  const int branches = p.scale * p.scale, all_chunk = static_cast<int>(blockIdx.x) / (p.parts * branches);
  const int branch_part = static_cast<int>(blockIdx.x) - all_chunk * p.parts * branches;
  const int r = branch_part / p.parts, part = branch_part - r * p.parts;
  const int head = all_chunk / p.chunks, chunk = all_chunk - head * p.chunks;
  const int in_head = (chunk * p.lanes.units() + p.lanes.unit()) * kChannels;
  const int count = min(kChannels, p.head_channels - in_head);  // <= 0: this thread only waits for the others
  const int c = count > 0 ? head * p.head_channels + in_head : 0;

  const T* of_y = p.gradient.at(n, c, r / p.scale, r % p.scale);
  const T* of_x = p.x.at(n, c, 0, 0);
  const float* spatial =
      p.spatial + n * p.spatial_n + static_cast<int64_t>(r * p.heads + head) * kNine * windows.pixels;
  float* to = p.sums + n * p.sums_n + (static_cast<int64_t>(part) * branches + r) * kNine * p.pitch + c;

  // Rows are dense without Vectors: what the compiler knows is in the instructions.
  const int step_x = Vectors ? p.x.w : 1, step_y = p.scale * (Vectors ? p.gradient.w : 1);
  const float without = p.add ? 1.0f : 0.0f;
  float sums[kNine * kChannels] = {};
  const int end = count > 0 ? min((part + 1) * p.part, strips.count) : 0;
#pragma unroll 1
  for (int strip = part * p.part + p.lanes.pixel(); strip < end; strip += p.lanes.pixels()) {
    const int row = strip / strips.in_row, column = (strip - row * strips.in_row) * kPixels;
    const int pixels = min(kPixels, windows.Wo - column), top = row - windows.top, left = column - windows.left;
    const int filtered = p.add ? 0 : pixels;
    const StripWindow window(windows, top, left, pixels);
    const T *g[kPointers<Vectors, kChannels>], *x[3][kPointers<Vectors, kChannels>];
    point_to(of_y + static_cast<int64_t>(row * p.scale) * p.gradient.h + static_cast<int64_t>(column) * step_y,
             p.gradient.c, count, g);
#pragma unroll
    for (int i = 0; i < 3; ++i)
      point_to(of_x + static_cast<int64_t>(top + i) * p.x.h + static_cast<int64_t>(left) * step_x, p.x.c, count, x[i]);
    const float* filters = spatial + row * windows.Wo + column;
    float held[3][kChannels];  // g of pixel q at q % 3
#pragma unroll
    for (int k = 0; k < kPixels + 2; ++k) {
      if (k < kPixels) load_if<Vectors>(k < pixels, g, static_cast<int64_t>(k) * step_y, held[k % 3]);
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        float values[kChannels];
        load_if<Vectors>(window.has(i, k), x[i], static_cast<int64_t>(k) * step_x, values);
#pragma unroll
        for (int j = 0; j < 3; ++j) {
          const int q = k - j, t = 3 * i + j;
          if (q < 0 || q >= kPixels) continue;
          float s = without;
          if (q < filtered) s = __ldg(filters + t * windows.pixels + q);
#pragma unroll
          for (int v = 0; v < kChannels; ++v)
            sums[t * kChannels + v] = fmaf(s * held[q % 3][v], values[v], sums[t * kChannels + v]);
        }
      }
    }
  }
  if (add_over_pixels(p.lanes, shared, sums) && count > 0)
#pragma unroll
    for (int t = 0; t < kNine; ++t)
#pragma unroll
      for (int v = 0; v < kChannels; ++v)
        if (v < count) to[t * p.pitch + v] = sums[t * kChannels + v];
}

// p.tiles: of strips, one for each of a block's lanes along pixels.
template <class T, bool Vectors>
__global__ __launch_bounds__(Lanes::kThreads, ChannelStrip<T, Vectors>::kBlocks)
void reduce_channels_3x3(ReduceChannels<T> p, Strips strips) {
  using Strip = ChannelStrip<T, Vectors>;
  constexpr int kPixels = Strip::kPixels, kChannels = Strip::kChannels;
  auto& shared = shared_memory<ReduceChannelsShared>();
  const Windows& windows = p.windows;
  const int n = static_cast<int>(blockIdx.z);
  const int map = static_cast<int>(blockIdx.x) / p.tiles, tile = static_cast<int>(blockIdx.x) - map * p.tiles;
  const int r = map / p.heads, head = map - r * p.heads, channels = head * p.head_channels;

  const int strip = tile * p.lanes.pixels() + p.lanes.pixel();
  const int row = strip / strips.in_row, column = (strip - row * strips.in_row) * kPixels;
  const int pixels = strip < strips.count ? min(kPixels, windows.Wo - column) : 0;
  const int top = row - windows.top, left = column - windows.left;
  const StripWindow window(windows, top, left, pixels);
  const int step_x = Vectors ? p.x.w : 1, step_y = p.scale * (Vectors ? p.gradient.w : 1);
  const T* g = p.gradient.at(n, channels, row * p.scale + r / p.scale, column * p.scale + r % p.scale);
  const T* x = p.x.at(n, channels, top, 0) + static_cast<int64_t>(left) * step_x;
  const float* channel = p.channel + n * p.channel_n + static_cast<int64_t>(r) * kNine * p.pitch + channels;
  float* to = p.sums + n * p.sums_n + static_cast<int64_t>(map) * kNine * windows.pixels;

  float sums[kNine * kPixels] = {};
  const int end = pixels > 0 ? p.head_channels : 0;
#pragma unroll 1
  for (int c = p.lanes.unit() * kChannels; c < end; c += p.lanes.units() * kChannels) {
    float of_y[kPixels][kChannels];
    const T* const of_g[] = {g + static_cast<int64_t>(c) * p.gradient.c};
#pragma unroll
    for (int q = 0; q < kPixels; ++q)
      load_if<Vectors>(q < pixels, of_g, static_cast<int64_t>(q) * step_y, of_y[q]);
    const float* filters = channel + c;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      float held[3][kChannels];
#pragma unroll
      for (int j = 0; j < 3; ++j, filters += p.pitch) {
#pragma unroll
        for (float& filter : held[j]) filter = 1.0f;
        if (!p.add) load_filters<Vectors>(filters, kChannels, held[j]);
      }
      const T* const row_x[] = {x + static_cast<int64_t>(c) * p.x.c + static_cast<int64_t>(i) * p.x.h};
#pragma unroll
      for (int k = 0; k < kPixels + 2; ++k) {
        float values[kChannels];
        load_if<Vectors>(window.has(i, k), row_x, static_cast<int64_t>(k) * step_x, values);
#pragma unroll
        for (int j = 0; j < 3; ++j) {
          const int q = k - j;
          if (q < 0 || q >= kPixels) continue;
          float& sum = sums[(3 * i + j) * kPixels + q];
#pragma unroll
          for (int v = 0; v < kChannels; ++v) sum = fmaf(held[j][v] * of_y[q][v], values[v], sum);
        }
      }
    }
  }
  if (add_over_units(p.lanes, shared, sums))
#pragma unroll
    for (int t = 0; t < kNine; ++t)
#pragma unroll
      for (int q = 0; q < kPixels; ++q)
        if (q < pixels) to[static_cast<int64_t>(t) * windows.pixels + row * windows.Wo + column + q] = sums[t * kPixels + q];
}

}  // namespace dyndeploy::cuda::ddf

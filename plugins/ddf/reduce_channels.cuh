// The gradient of the spatial filters after FilterNorm and gain: sums over the channels of a head.
//
//   db[r, t, p] = sum over channels c of a[r, c, t] * g[r, c, p] * X[c, p + t], or without a where the filters are added
//
// A block owns a branch, some pixels of one sample and one head (gradient.cuh). A thread has kPixels pixels, walks over
// its share of the units of channels, and holds the sums of nine taps at a time in registers. They are added up across
// the lanes of a warp by shuffles, and across warps in shared memory, always in the same order.
//
// Cost: as reduce_pixels.cuh, with a read of the channel filter, for all pixels of a thread, in the place of the spatial one: 7
// instructions per tap and element with vectors, 18 without.
#pragma once

#include "ddf/gradient.cuh"

namespace dyndeploy::cuda::ddf {

template <class T>
struct ReduceChannels {
  static constexpr int kPixels = 4;  // of a thread
  static constexpr int kBlocks = 3;  // that are to share a multiprocessor

  Map<const T, int> gradient, x;
  const float* channel;
  float* sums;  // [sample][branch][head][tap][pixel]
  int64_t channel_n, sums_n;
  int pitch;
  Windows windows;
  int heads, head_channels, scale;
  Lanes lanes;
  int tiles;
  bool add;
};

using ReduceChannelsShared = WarpSums<kTapGroup * ReduceChannels<float>::kPixels>;

// blockIdx: x tiles of pixels, then heads, then branches; z samples.
template <class T, bool Vectors>
__global__ __launch_bounds__(Lanes::kThreads, ReduceChannels<T>::kBlocks) void reduce_channels(ReduceChannels<T> p) {
  constexpr int kPixels = ReduceChannels<T>::kPixels, kChannels = kUnit<T, Vectors>;
  auto& shared = shared_memory<ReduceChannelsShared>();
  const Windows& windows = p.windows;
  const int n = static_cast<int>(blockIdx.z);
  const int map = static_cast<int>(blockIdx.x) / p.tiles, tile = static_cast<int>(blockIdx.x) - map * p.tiles;
  const int r = map / p.heads, head = map - r * p.heads, channels = head * p.head_channels;
  const T* g = p.gradient.at(n, channels, r / p.scale, r % p.scale);
  const T* x = p.x.at(n, channels, 0, 0);
  const float* channel = p.channel + n * p.channel_n + static_cast<int64_t>(r) * windows.taps * p.pitch + channels;
  float* to = p.sums + n * p.sums_n + static_cast<int64_t>(map) * windows.taps * windows.pixels;

  const int lanes = p.lanes.pixels(), first = tile * lanes * kPixels + p.lanes.pixel();
  int top[kPixels], left[kPixels];
  int64_t from[kPixels];
#pragma unroll
  for (int q = 0; q < kPixels; ++q) {
    const int at = min(first + q * lanes, windows.pixels - 1), row = at / windows.Wo, column = at - row * windows.Wo;
    top[q] = row * windows.stride_h.divisor - windows.top;
    left[q] = column * windows.stride_w.divisor - windows.left;
    from[q] = static_cast<int64_t>(row * p.scale) * p.gradient.h + static_cast<int64_t>(column * p.scale) * p.gradient.w;
  }

#pragma unroll 1
  for (int first_tap = 0; first_tap < windows.taps; first_tap += kTapGroup) {
    const int first_i = first_tap / windows.kw, first_j = first_tap - first_i * windows.kw;
    float sums[kTapGroup * kPixels] = {};
#pragma unroll 1
    for (int c = p.lanes.unit() * kChannels; c < p.head_channels; c += p.lanes.units() * kChannels) {
      const int count = min(kChannels, p.head_channels - c);
      float of_y[kPixels][kChannels];
#pragma unroll
      for (int q = 0; q < kPixels; ++q)
        load_unit<Vectors>(g + static_cast<int64_t>(c) * p.gradient.c + from[q], p.gradient.c, count, of_y[q]);
      const T* unit = x + static_cast<int64_t>(c) * p.x.c;
      int i = first_i, j = first_j;
#pragma unroll
      for (int t = 0; t < kTapGroup; ++t) {
        if (first_tap + t >= windows.taps) continue;
        float held[kChannels];
        if (p.add) {
#pragma unroll
          for (float& filter : held) filter = 1.0f;
        } else {
          load_filters<Vectors>(channel + static_cast<int64_t>(first_tap + t) * p.pitch + c, count, held);
        }
#pragma unroll
        for (int q = 0; q < kPixels; ++q) {
          const int h = top[q] + i * windows.dilation_h, w = left[q] + j * windows.dilation_w;
          if (h < 0 || h >= windows.H || w < 0 || w >= windows.W) continue;
          float values[kChannels];
          load_unit<Vectors>(unit + static_cast<int64_t>(h) * p.x.h + static_cast<int64_t>(w) * p.x.w, p.x.c, count, values);
#pragma unroll
          for (int v = 0; v < kChannels; ++v) {
            float& sum = sums[t * kPixels + q];
            sum = fmaf(held[v] * of_y[q][v], values[v], sum);
          }
        }
        if (++j == windows.kw) {
          j = 0;
          ++i;
        }
      }
    }
    if (add_over_units(p.lanes, shared, sums))
#pragma unroll
      for (int t = 0; t < kTapGroup; ++t)
#pragma unroll
        for (int q = 0; q < kPixels; ++q)
          if (first_tap + t < windows.taps && first + q * lanes < windows.pixels)
            to[static_cast<int64_t>(first_tap + t) * windows.pixels + first + q * lanes] = sums[t * kPixels + q];
  }
}

}  // namespace dyndeploy::cuda::ddf

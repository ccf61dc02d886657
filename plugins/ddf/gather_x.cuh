// The gradient of X: what every pixel gets from the pixels of Y whose windows hold it.
//
//   dX[c, q] = sum over branches r and taps t of (a[r, c, t] * b[r, t, p]) * g[r, c, p],  p * stride + t * dilation - pad = q
//
// or with a + b. A block owns some pixels of X and some units of channels of one head (gradient.cuh); a thread kPixels of
// those pixels and one unit, and keeps their sums in registers over all branches and taps.
//
// Cost: g is read from memory once and `taps` times from first cache, dX written once. Instructions per tap and element, counted
// in the code for sm_90, of float16: 7 with vectors, of which 2 are arithmetic, 17 without.
#pragma once

#include "ddf/gradient.cuh"

namespace dyndeploy::cuda::ddf {

template <class T>
struct GatherX {
  static constexpr int kPixels = 4;  // of a thread
  static constexpr int kBlocks = 4;  // that are to share a multiprocessor

  Map<const T, int> gradient;
  Map<T, int> to;
  const float *channel, *spatial;
  int64_t channel_n, spatial_n;  // floats of a sample
  int pitch;                     // channels of a tap, padded
  Windows windows;
  int heads, head_channels, scale;
  Lanes lanes;
  int tiles, chunks;  // tiles of pixels; chunks of units of a head
  bool add;
};

// blockIdx: x tiles of pixels, then chunks of all heads; z samples.
template <class T, bool Vectors>
__global__ __launch_bounds__(Lanes::kThreads, GatherX<T>::kBlocks) void gather_x(GatherX<T> p) {
  constexpr int kPixels = GatherX<T>::kPixels, kChannels = kUnit<T, Vectors>;
  const Windows& windows = p.windows;
  const int n = static_cast<int>(blockIdx.z);
  const int all_chunk = static_cast<int>(blockIdx.x) / p.tiles, tile = static_cast<int>(blockIdx.x) - all_chunk * p.tiles;
  const int head = all_chunk / p.chunks, chunk = all_chunk - head * p.chunks;
  const int in_head = (chunk * p.lanes.units() + p.lanes.unit()) * kChannels;
  if (in_head >= p.head_channels) return;
  const int c = head * p.head_channels + in_head, count = min(kChannels, p.head_channels - in_head);

  const int lanes = p.lanes.pixels(), first = tile * lanes * kPixels + p.lanes.pixel(), last = windows.H * windows.W;
  int h[kPixels], w[kPixels];  // where tap (0, 0) of a window at this pixel began, in pixels of X
#pragma unroll
  for (int q = 0; q < kPixels; ++q) {
    const int at = first + q * lanes;
    h[q] = at / windows.W;
    w[q] = at - h[q] * windows.W + windows.left;
    // No window is at a pixel that is not there.
    h[q] = at < last ? h[q] + windows.top : -1;
  }
  float sums[kPixels][kChannels] = {};
  const float* channel = p.channel + n * p.channel_n + c;
  const float* spatial = p.spatial + n * p.spatial_n + static_cast<int64_t>(head) * windows.taps * windows.pixels;
#pragma unroll 1
  for (int r = 0; r < p.scale * p.scale; ++r) {
    const T* g = p.gradient.at(n, c, r / p.scale, r % p.scale);
    const float* of_tap = spatial;
#pragma unroll 1
    for (int i = 0; i < windows.kh; ++i) {
      int row[kPixels];  // of Y, in pixels of a branch; -1: none
#pragma unroll
      for (int q = 0; q < kPixels; ++q) {
        const int down = h[q] - i * windows.dilation_h;
        row[q] = windows.stride_h.quotient(max(down, 0));
        if (down < 0 || row[q] >= windows.Ho || windows.stride_h.remainder(down, row[q]) != 0) row[q] = -1;
      }
#pragma unroll 1
      for (int j = 0; j < windows.kw; ++j, channel += p.pitch, of_tap += windows.pixels) {
        float held[kChannels];
        load_filters<Vectors>(channel, count, held);
#pragma unroll
        for (int q = 0; q < kPixels; ++q) {
          const int right = w[q] - j * windows.dilation_w, column = windows.stride_w.quotient(max(right, 0));
          if (row[q] < 0 || right < 0 || column >= windows.Wo || windows.stride_w.remainder(right, column) != 0) continue;
          float values[kChannels];
          load_unit<Vectors>(g + static_cast<int64_t>(row[q] * p.scale) * p.gradient.h +
                                 static_cast<int64_t>(column * p.scale) * p.gradient.w,
                             p.gradient.c, count, values);
          const float s = __ldg(of_tap + row[q] * windows.Wo + column);
          // The product with s is s * filter + 0, the sum 1 * filter + s.
          const float factor = p.add ? 1.0f : s, summand = p.add ? s : 0.0f;
#pragma unroll
          for (int v = 0; v < kChannels; ++v) sums[q][v] = fmaf(fmaf(held[v], factor, summand), values[v], sums[q][v]);
        }
      }
    }
    spatial += static_cast<int64_t>(p.heads) * windows.taps * windows.pixels;
  }
#pragma unroll
  for (int q = 0; q < kPixels; ++q) {
    const int at = first + q * lanes;
    if (at < last)
      store_unit<Vectors>(p.to.at(n, c, h[q] - windows.top, w[q] - windows.left), p.to.c, count, sums[q]);
  }
}

}  // namespace dyndeploy::cuda::ddf

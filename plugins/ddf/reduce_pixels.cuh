// The gradient of the channel filters after FilterNorm and gain: sums over pixels, in parts.
//
//   da[r, c, t] = sum over pixels p of b[r, t, p] * g[r, c, p] * X[c, p + t], or without b where the filters are added
//
// A block owns a branch, a part of the pixels of one sample and some units of channels of one head (gradient.cuh). A
// thread has one unit, walks over its share of the pixels, and holds the sums of nine taps at a time in registers. They
// are added up across the lanes of a warp by shuffles, and across warps in shared memory, always in the same order, and
// stored as this part's sums; norm_gradients.cuh adds the parts.
//
// Cost: X and g are read from memory once (X once per branch), X `taps` times from first cache; sums of one part, 4 * taps bytes
// per channel, are 7 % of what a part of 256 pixels reads in half types. Instructions per tap and element, counted in the code
// for sm_90, of float16: 9 with vectors, of which 2 are arithmetic, 23 without.
#pragma once

#include "ddf/gradient.cuh"

namespace dyndeploy::cuda::ddf {

template <class T>
struct ReducePixels {
  static constexpr int kBlocks = 3;  // that are to share a multiprocessor

  Map<const T, int> gradient, x;
  const float* spatial;
  float* sums;         // [sample][part][branch][tap][pitch]
  int64_t spatial_n, sums_n;  // floats of a sample
  int pitch;
  Windows windows;
  int heads, head_channels, scale;
  Lanes lanes;
  int part, parts, chunks;  // pixels of a part; parts of all pixels; chunks of units of a head
  bool add;
};

template <class T, bool Vectors>
using ReducePixelsShared = WarpSums<kTapGroup * kUnit<T, Vectors>>;

// blockIdx: x parts, then branches, then chunks of all heads; z samples.
template <class T, bool Vectors>
__global__ __launch_bounds__(Lanes::kThreads, ReducePixels<T>::kBlocks) void reduce_pixels(ReducePixels<T> p) {
  constexpr int kChannels = kUnit<T, Vectors>;
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

  const int end = count > 0 ? min((part + 1) * p.part, windows.pixels) : 0;
  const T* g = p.gradient.at(n, c, r / p.scale, r % p.scale);
  const T* x = p.x.at(n, c, 0, 0);
  const float* spatial =
      p.spatial + n * p.spatial_n + static_cast<int64_t>(r * p.heads + head) * windows.taps * windows.pixels;
  float* to = p.sums + n * p.sums_n + (static_cast<int64_t>(part) * branches + r) * windows.taps * p.pitch + c;

#pragma unroll 1
  for (int first_tap = 0; first_tap < windows.taps; first_tap += kTapGroup) {
    const int first_i = first_tap / windows.kw, first_j = first_tap - first_i * windows.kw;
    float sums[kTapGroup * kChannels] = {};
#pragma unroll 1
    for (int at = part * p.part + p.lanes.pixel(); at < end; at += p.lanes.pixels()) {
      const int row = at / windows.Wo, column = at - row * windows.Wo;
      float of_y[kChannels];
      load_unit<Vectors>(g + static_cast<int64_t>(row * p.scale) * p.gradient.h +
                             static_cast<int64_t>(column * p.scale) * p.gradient.w,
                         p.gradient.c, count, of_y);
      const int top = row * windows.stride_h.divisor - windows.top, left = column * windows.stride_w.divisor - windows.left;
      int i = first_i, j = first_j;
#pragma unroll
      for (int t = 0; t < kTapGroup; ++t) {
        if (first_tap + t >= windows.taps) continue;
        const int h = top + i * windows.dilation_h, w = left + j * windows.dilation_w;
        if (++j == windows.kw) {
          j = 0;
          ++i;
        }
        if (h < 0 || h >= windows.H || w < 0 || w >= windows.W) continue;
        float values[kChannels];
        load_unit<Vectors>(x + static_cast<int64_t>(h) * p.x.h + static_cast<int64_t>(w) * p.x.w, p.x.c, count, values);
        const float s =
            p.add ? 1.0f : __ldg(spatial + static_cast<int64_t>(first_tap + t) * windows.pixels + at);
#pragma unroll
        for (int v = 0; v < kChannels; ++v) {
          float& sum = sums[t * kChannels + v];
          sum = fmaf(s * of_y[v], values[v], sum);
        }
      }
    }
    if (add_over_pixels(p.lanes, shared, sums) && count > 0)
#pragma unroll
      for (int t = 0; t < kTapGroup; ++t)
#pragma unroll
        for (int v = 0; v < kChannels; ++v)
          if (first_tap + t < windows.taps && v < count)
            to[static_cast<int64_t>(first_tap + t) * p.pitch + v] = sums[t * kChannels + v];
  }
}

}  // namespace dyndeploy::cuda::ddf

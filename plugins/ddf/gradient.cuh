// What the kernels of the gradients share: windows, which thread does what, and what a thread reads at a time.
//
// With g = gradient of Y, a = channel filter, b = spatial filter, both after FilterNorm and gain, p = pixel of Y:
//
//   dX[c, q]  = sum over branches and taps t of (a * b)[p] * g[c, p]   gather_x.cuh: p the pixel whose tap t is at q
//   da[c, t]  = sum over pixels of b * g[c, p] * X[c, p + t]           reduce_pixels.cuh, reduce_3x3.cuh
//   db[t, p]  = sum over channels of a * g[c, p] * X[c, p + t]         reduce_channels.cuh, reduce_3x3.cuh
//
// and through gain and FilterNorm the gradients of what a and b were made from: norm_gradients.cuh. Every sum has one
// order, which the shapes decide. With 3 x 3 windows, strides and dilations of 1 and a scale of 1, dX is a filter of g: the
// forward's kernels compute it (channels_last.cuh, planar.cuh).
//
// A thread has some pixels and, of each, a unit of channels. Neighbours in a warp take what lies side by side:
//
//   Vectors    units of sixteen bytes: neighbouring units of a pixel first, then neighbouring pixels (channels last)
//   otherwise  units of four channels, read one by one: neighbouring pixels (dense rows, and any other layout)
//
// The filters are floats in the workspace, a as [branch][tap][channel], b as [branch][head][tap][pixel]: read by all
// threads of a warp from few lines. Nothing is in shared memory but sums across warps: what neighbouring pixels read
// again of X or g, at most `taps` times, comes from first cache.
#pragma once

#include "ddf/filters.cuh"

namespace dyndeploy::cuda::ddf {

// Where windows lie. A stride is 1 along a dim of which Y has one pixel.
struct Windows {
  int H, W, Ho, Wo, pixels;  // pixels: Ho * Wo
  int taps, kh, kw, top, left, dilation_h, dilation_w;
  Divisor stride_h, stride_w;
};

// How a block's threads share the work: `units` next to each other in a warp, a power of two, and pixels behind; so
// many of the block's warps go along units, the others along pixels.
struct Lanes {
  static constexpr int kThreads = 128, kWarps = kThreads / kWarp;

  int unit_shift;  // units: 1 << unit_shift
  int unit_warps;  // 1, 2 or 4

  __host__ __device__ int units() const { return (1 << unit_shift) * unit_warps; }
  __host__ __device__ int pixels() const { return kThreads / units(); }
  // Of this thread.
  __device__ __forceinline__ int unit() const {
    const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
    return (thread & ((1 << unit_shift) - 1)) + (warp % unit_warps << unit_shift);
  }
  __device__ __forceinline__ int pixel() const {
    const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
    return (thread % kWarp >> unit_shift) + warp / unit_warps * (kWarp >> unit_shift);
  }
};

// Channels of a unit.
template <class T, bool Vectors>
inline constexpr int kUnit = Vectors ? kPerSixteen<T> : 4;

// The channels of a unit that are there, `step` elements apart; the others, never with Vectors, are 0.
template <bool Vectors, class T>
__device__ __forceinline__ void load_unit(const T* from, int step, int count, float (&values)[kUnit<T, Vectors>]) {
  if constexpr (Vectors) {
    unpack<T>(load_sixteen(from), values);
  } else {
#pragma unroll
    for (int v = 0; v < kUnit<T, Vectors>; ++v)
      values[v] = v < count ? to_float(from[static_cast<int64_t>(v) * step]) : 0.0f;
  }
}
template <bool Vectors, class T>
__device__ __forceinline__ void store_unit(T* to, int step, int count, const float (&values)[kUnit<T, Vectors>]) {
  if constexpr (Vectors) {
    store_sixteen(to, pack<T>(values));
  } else {
#pragma unroll
    for (int v = 0; v < kUnit<T, Vectors>; ++v)
      if (v < count) to[static_cast<int64_t>(v) * step] = from_float<T>(values[v]);
  }
}

// Channel filters of a unit, of one tap.
template <bool Vectors, int Unit>
__device__ __forceinline__ void load_filters(const float* from, int count, float (&values)[Unit]) {
  if constexpr (Vectors) {
#pragma unroll
    for (int v = 0; v < Unit; v += 4) {
      const Sixteen four = load_sixteen(from + v);
#pragma unroll
      for (int e = 0; e < 4; ++e) values[v + e] = __uint_as_float(four.words[e]);
    }
  } else {
#pragma unroll
    for (int v = 0; v < Unit; ++v) values[v] = v < count ? __ldg(from + v) : 0.0f;
  }
}

// Taps whose sums a thread holds at a time.
inline constexpr int kTapGroup = kNine;

// Sums of all warps but those that add them up.
template <int Sums>
struct WarpSums {
  float sums[Lanes::kWarps - 1][Sums][kWarp];
};

// The sum over the lanes of a warp whose index differs in the bits [from, to).
__device__ __forceinline__ float sum_over_lanes(float value, int from, int to) {
#pragma unroll 1
  for (int bit = from; bit < to; bit *= 2) value += __shfl_xor_sync(~0u, value, bit);
  return value;
}

template <int Sums>
__device__ __forceinline__ void add_warp(const WarpSums<Sums>& shared, int place, float (&sums)[Sums]) {
#pragma unroll
  for (int e = 0; e < Sums; ++e) sums[e] += shared.sums[place][e][threadIdx.x % kWarp];
}
template <int Sums>
__device__ __forceinline__ void put_warp(WarpSums<Sums>& shared, int place, const float (&sums)[Sums]) {
#pragma unroll
  for (int e = 0; e < Sums; ++e) shared.sums[place][e][threadIdx.x % kWarp] = sums[e];
}

// Adds up what the block's threads of the same unit have of different pixels. One of each unit's gets the sums, and true.
template <int Sums>
__device__ __forceinline__ bool add_over_pixels(const Lanes& lanes, WarpSums<Sums>& shared, float (&sums)[Sums]) {
  const int units = 1 << lanes.unit_shift, warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
  for (float& sum : sums) sum = sum_over_lanes(sum, units, kWarp);
  const bool has_sums = static_cast<int>(threadIdx.x) % kWarp < units;
  if (lanes.unit_warps < Lanes::kWarps) {
    if (has_sums && warp >= lanes.unit_warps) put_warp(shared, warp - lanes.unit_warps, sums);
    __syncthreads();
    if (has_sums && warp < lanes.unit_warps)
      for (int other = warp; other < Lanes::kWarps - lanes.unit_warps; other += lanes.unit_warps)
        add_warp(shared, other, sums);
    __syncthreads();
  }
  return has_sums && warp < lanes.unit_warps;
}

// The same of the same pixels and different units.
template <int Sums>
__device__ __forceinline__ bool add_over_units(const Lanes& lanes, WarpSums<Sums>& shared, float (&sums)[Sums]) {
  const int units = 1 << lanes.unit_shift, warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
  for (float& sum : sums) sum = sum_over_lanes(sum, 1, units);
  const bool has_sums = (static_cast<int>(threadIdx.x) & (units - 1)) == 0, adds = warp % lanes.unit_warps == 0;
  if (lanes.unit_warps > 1) {
    // Behind each other, without the warps that add.
    const int place = warp - warp / lanes.unit_warps - 1;
    if (has_sums && !adds) put_warp(shared, place, sums);
    __syncthreads();
    if (has_sums && adds)
      for (int other = 1; other < lanes.unit_warps; ++other) add_warp(shared, place + other, sums);
    __syncthreads();
  }
  return has_sums && adds;
}

}  // namespace dyndeploy::cuda::ddf

// The two filters on a GPU: FilterNorm in float, and the kernel that makes all channel filters of a call once.
//
//   channel_filter [N, R*C*K], channel_gain [R*C*K]  ->  workspace, FN(filter) * gain in float, one thread per filter
//
//   by taps      [N][R][K][pitch]  a thread of the main kernel reads neighbouring channels of a tap; pitch is C
//                                  rounded up to 8, zeros behind C, so that vectors need no tail
//   by channels  [N][R][C][12]     a thread reads the nine taps of a channel, and three zeros (planar.cuh)
//
// Cost: R*C*K numbers per sample are read twice and written once; it takes the time of a launch.
#pragma once

#include "common/cuda/dtype.cuh"

namespace dyndeploy::cuda::ddf {

// Added to the standard deviation, as in the official code.
inline constexpr float kEpsilon = 1e-10f;

// Taps of a 3 x 3 filter, and floats from one to the next where it is read as three float4.
inline constexpr int kNine = 9;
inline constexpr int kNinePitch = 12;

// Where the elements of a map [N, C, H, W] lie: strides in elements. Stride is int where all but that of the samples
// fit: a product is one instruction then.
template <class T, class Stride = int64_t>
struct Map {
  T* data;
  int64_t n;
  Stride c, h, w;

  __device__ __forceinline__ T* at(int in, int ic, int ih, int iw) const {
    return data + in * n + static_cast<int64_t>(ic) * c + static_cast<int64_t>(ih) * h + static_cast<int64_t>(iw) * w;
  }
};

// x / divisor by a product: `factor` is 2^32 / divisor, rounded up. Exact where x * divisor < 2^32, which the host sees
// to.
struct Divisor {
  int divisor;
  unsigned factor;  // 0 for a divisor of 1

  static Divisor of(int64_t divisor) {
    const auto factor = static_cast<unsigned>(((uint64_t{1} << 32) + static_cast<uint64_t>(divisor) - 1) /
                                              static_cast<uint64_t>(divisor));
    return {static_cast<int>(divisor), factor};
  }
  __device__ __forceinline__ int quotient(int x) const {
    const auto high = static_cast<int>((uint64_t{static_cast<unsigned>(x)} * factor) >> 32);
    return factor == 0 ? x : high;
  }
  __device__ __forceinline__ int remainder(int x, int quotient) const { return x - quotient * divisor; }
};

// FN(D) * gain of one filter: (tap - first - mean) * factor.
//
// From the first tap on: the mean of equal numbers is not always that number, and the rounding error that is left of a
// constant filter would be blown up to size 1.
struct Norm {
  float first, mean, factor;

  __device__ __forceinline__ float operator()(float tap) const { return (tap - first - mean) * factor; }
};

// Of the taps of one filter; the mean is counted from the first one.
struct Statistics {
  float first, mean, deviation;
};

// `tap(t)` reads a tap. It is read twice.
template <class Tap>
__device__ __forceinline__ Statistics statistics_of(int taps, Tap tap) {
  const float first = tap(0);
  float sum = 0.0f, squares = 0.0f;
  for (int t = 1; t < taps; ++t) sum += tap(t) - first;
  const float mean = sum * (1.0f / static_cast<float>(taps));
  for (int t = 0; t < taps; ++t) {
    const float centred = tap(t) - first - mean;
    squares += centred * centred;
  }
  return {first, mean, sqrtf(squares * (1.0f / static_cast<float>(taps - 1)))};
}

__device__ __forceinline__ Norm norm_of(const Statistics& of, float gain) {
  return {of.first, of.mean, gain / (of.deviation + kEpsilon)};
}
template <class Tap>
__device__ __forceinline__ Norm norm_of(bool filter_norm, float gain, int taps, Tap tap) {
  if (!filter_norm) return {0.0f, 0.0f, gain};
  return norm_of(statistics_of(taps, tap), gain);
}

// The same for nine taps in registers, in place.
__device__ __forceinline__ void normalise(bool filter_norm, float gain, float (&taps)[kNine]) {
  if (filter_norm) {
    const float first = taps[0];
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int t = 1; t < kNine; ++t) sum += taps[t] - first;
    const float mean = sum * (1.0f / kNine);
#pragma unroll
    for (int t = 0; t < kNine; ++t) {
      taps[t] = taps[t] - first - mean;
      squares += taps[t] * taps[t];
    }
    gain = gain / (sqrtf(squares * (1.0f / (kNine - 1))) + kEpsilon);
  }
#pragma unroll
  for (int t = 0; t < kNine; ++t) taps[t] *= gain;
}

// Spatial filters as the gradient of X needs them, where y is that gradient and x that of Y: of the pixel that lies at tap t
// of a pixel of X the tap 8 - t, with which it meets that pixel. 0 where there is none.
struct TurnedFilters {
  const float* taps;  // [sample][head][tap][H][W], after FilterNorm and gain; NULL: these are not turned
  int64_t n;          // floats of a sample

  // Of the taps of pixel (i, j) of X, in `head`. H, W, top, left: those of the turned problem.
  __device__ __forceinline__ void read(int sample, int head, int H, int W, int i, int j, float (&to)[kNine]) const {
    const float* from = taps + sample * n + static_cast<int64_t>(head) * kNine * H * W;
#pragma unroll
    for (int t = 0; t < kNine; ++t) {
      const int h = i + t / 3, w = j + t % 3;
      const bool inside = h >= 0 && h < H && w >= 0 && w < W;
      to[t] = inside ? __ldg(from + (static_cast<int64_t>(kNine - 1 - t) * H + h) * W + w) : 0.0f;
    }
  }
};

// One tap of the filter: the product or the sum of the two.
template <bool Add>
__device__ __forceinline__ float combined(float channel, float spatial) {
  if constexpr (Add)
    return channel + spatial;
  else
    return channel * spatial;
}

// max(v, 0), of which a NaN stays one.
__device__ __forceinline__ float relu(float v) { return v < 0.0f ? 0.0f : v; }

// --- channel filters

struct ChannelFilters {
  const void *filters, *gains;
  int64_t filter_n, filter_step, gain_step;  // strides in elements
  float* to;
  int64_t to_n, to_branch, to_channel, to_tap;  // strides in floats
  int branches, channels, padded;               // of the filters behind `channels` zeros are written
  int taps, padded_taps;                        // and behind `taps`
  bool filter_norm, turned;                     // turned: the last tap first
};

inline constexpr int kChannelFilterThreads = 64, kChannelFilterBlocks = 12;

// A thread for each channel, padding among them; a row of blocks for each branch; blocks behind each other for samples.
template <class T>
__global__ __launch_bounds__(kChannelFilterThreads, kChannelFilterBlocks) void make_channel_filters(ChannelFilters p) {
  const int c = static_cast<int>(blockIdx.x * kChannelFilterThreads + threadIdx.x);
  if (c >= p.padded) return;
  const int64_t n = blockIdx.z;
  for (int r = static_cast<int>(blockIdx.y); r < p.branches; r += static_cast<int>(gridDim.y)) {
    float* to = p.to + n * p.to_n + r * p.to_branch + c * p.to_channel;
    if (c >= p.channels) {
      for (int t = 0; t < p.padded_taps; ++t) to[t * p.to_tap] = 0.0f;
      continue;
    }
    const int64_t index = (static_cast<int64_t>(r) * p.channels + c) * p.taps;
    const T* filter = static_cast<const T*>(p.filters) + n * p.filter_n + index * p.filter_step;
    const T* gain = static_cast<const T*>(p.gains) + index * p.gain_step;
    const Norm norm = norm_of(p.filter_norm, 1.0f, p.taps, [&](int t) { return to_float(filter[t * p.filter_step]); });
    for (int t = 0; t < p.taps; ++t) {
      const float tap = norm(to_float(filter[t * p.filter_step])) * to_float(gain[t * p.gain_step]);
      to[(p.turned ? p.taps - 1 - t : t) * p.to_tap] = tap;
    }
    for (int t = p.taps; t < p.padded_taps; ++t) to[t * p.to_tap] = 0.0f;
  }
}

}  // namespace dyndeploy::cuda::ddf

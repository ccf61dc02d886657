// Around the sums of the gradients: the spatial filters as floats, and from the gradient of the filters after FilterNorm
// and gain those of what they were made from.
//
//   z = FN(D) = (D - mean) / (std + e),  dD = (dz - mean(dz) - z * (1 + e / std) * sum(dz * z) / (K - 1)) / (std + e)
//
// A constant filter (std 0, z = 0) gets dz - mean(dz), as if its std were 1: its slope is 1e10 in theory, and would throw
// a training off its course. Without FilterNorm dD = dz.
//
// Cost: the filters and their gradients are read up to three times, from first cache but for the first time; a sum over
// parts or samples once. Little beside what is read of X and g, unless a head has few channels.
#pragma once

#include "ddf/filters.cuh"

namespace dyndeploy::cuda::ddf {

// Blocks: that are to share a multiprocessor.
inline constexpr int kNormThreads = 64, kNormBlocks = 12;

// store(t, dD of the tap). Of tap t, `tap(t)` reads D and `of_z(t)` dz, up to three times. Returns FN.
template <class Tap, class OfZ, class Store>
__device__ __forceinline__ Norm normalise_gradient(bool filter_norm, int taps, Tap tap, OfZ of_z, Store store) {
  if (!filter_norm) {
    for (int t = 0; t < taps; ++t) store(t, of_z(t));
    return {0.0f, 0.0f, 1.0f};
  }
  const Statistics of = statistics_of(taps, tap);
  const Norm norm = norm_of(of, 1.0f);
  float sum = 0.0f, along = 0.0f;
  for (int t = 0; t < taps; ++t) {
    const float g = of_z(t);
    sum += g;
    along = fmaf(g, norm(tap(t)), along);
  }
  const bool constant = !(of.deviation > 0.0f);
  const float mean = sum * (1.0f / static_cast<float>(taps)), spread = constant ? 1.0f : of.deviation;
  const float factor = constant ? 1.0f : norm.factor;  // 1 / (spread + kEpsilon)
  const float slope = along * (1.0f / static_cast<float>(taps - 1)) * (1.0f + kEpsilon / spread);
  for (int t = 0; t < taps; ++t) store(t, (of_z(t) - mean - norm(tap(t)) * slope) * factor);
  return norm;
}

// --- spatial filters

struct SpatialFilters {
  const void* filters;
  void* gradients;                   // where those go
  int64_t n, c, h, w;                // strides of the filters in elements
  int64_t to_n, to_c, to_h, to_w;    // of the gradients
  float* floats;                     // [sample][map][tap][pixel]: the filters after FilterNorm and gain, or dz / gain
  int64_t floats_n;
  int maps, taps, width, pixels;     // maps: branches * heads
  float gain;
  bool filter_norm;
};

// A thread for each pixel; a row of blocks for each branch and head; blocks behind each other for samples.
template <class T>
__global__ __launch_bounds__(kNormThreads, kNormBlocks) void make_spatial_filters(SpatialFilters p) {
  const int at = static_cast<int>(blockIdx.x * kNormThreads + threadIdx.x);
  if (at >= p.pixels) return;
  const int64_t n = blockIdx.z, row = at / p.width, column = at - row * p.width;
  for (int map = static_cast<int>(blockIdx.y); map < p.maps; map += static_cast<int>(gridDim.y)) {
    const int64_t first = static_cast<int64_t>(map) * p.taps;
    const T* filter = static_cast<const T*>(p.filters) + n * p.n + first * p.c + row * p.h + column * p.w;
    float* to = p.floats + n * p.floats_n + first * p.pixels + at;
    const auto tap = [&](int t) { return to_float(filter[t * p.c]); };
    const Norm norm = norm_of(p.filter_norm, p.gain, p.taps, tap);
    for (int t = 0; t < p.taps; ++t) to[static_cast<int64_t>(t) * p.pixels] = norm(tap(t));
  }
}

// The same blocks.
template <class T>
__global__ __launch_bounds__(kNormThreads, kNormBlocks) void finish_spatial_filters(SpatialFilters p) {
  const int at = static_cast<int>(blockIdx.x * kNormThreads + threadIdx.x);
  if (at >= p.pixels) return;
  const int64_t n = blockIdx.z, row = at / p.width, column = at - row * p.width;
  for (int map = static_cast<int>(blockIdx.y); map < p.maps; map += static_cast<int>(gridDim.y)) {
    const int64_t first = static_cast<int64_t>(map) * p.taps;
    const T* filter = static_cast<const T*>(p.filters) + n * p.n + first * p.c + row * p.h + column * p.w;
    T* to = static_cast<T*>(p.gradients) + n * p.to_n + first * p.to_c + row * p.to_h + column * p.to_w;
    const float* sums = p.floats + n * p.floats_n + first * p.pixels + at;
    const auto tap = [&](int t) { return to_float(filter[t * p.c]); };
    const auto of_z = [&](int t) { return p.gain * sums[static_cast<int64_t>(t) * p.pixels]; };
    const auto store = [&](int t, float value) { to[t * p.to_c] = from_float<T>(value); };
    normalise_gradient(p.filter_norm, p.taps, tap, of_z, store);
  }
}

// --- channel filters

struct ChannelGradients {
  const void *filters, *gains;
  void *to, *to_gains;  // `to` may be NULL
  int64_t filter_n, filter_step, gain_step, to_n, to_step, to_gain_step;  // strides in elements
  const float* parts;  // [sample][part][branch][tap][pitch]
  float* sums;         // [sample][branch][tap][pitch]: of all parts, then what they are to the gains
  int64_t parts_n, sums_n, part;  // floats of a sample, of a part
  int samples, part_count, branches, channels, pitch, taps;
  bool filter_norm;
};

// A thread for each channel; a row of blocks for each branch; blocks behind each other for samples.
template <class T>
__global__ __launch_bounds__(kNormThreads, kNormBlocks) void finish_channel_filters(ChannelGradients p) {
  const int c = static_cast<int>(blockIdx.x * kNormThreads + threadIdx.x);
  if (c >= p.channels) return;
  const int64_t n = blockIdx.z;
  for (int r = static_cast<int>(blockIdx.y); r < p.branches; r += static_cast<int>(gridDim.y)) {
    const int64_t index = (static_cast<int64_t>(r) * p.channels + c) * p.taps;
    const int64_t in_sample = static_cast<int64_t>(r) * p.taps * p.pitch + c;
    const T* filter = static_cast<const T*>(p.filters) + n * p.filter_n + index * p.filter_step;
    const T* gain = static_cast<const T*>(p.gains) + index * p.gain_step;
    const float* parts = p.parts + n * p.parts_n + in_sample;
    float* sums = p.sums + n * p.sums_n + in_sample;
    for (int t = 0; t < p.taps; ++t) {
      float sum = 0.0f;
      for (int part = 0; part < p.part_count; ++part) sum += parts[part * p.part + static_cast<int64_t>(t) * p.pitch];
      sums[static_cast<int64_t>(t) * p.pitch] = sum;
    }
    const auto tap = [&](int t) { return to_float(filter[t * p.filter_step]); };
    T* to = static_cast<T*>(p.to) + n * p.to_n + index * p.to_step;
    const auto of_z = [&](int t) { return sums[static_cast<int64_t>(t) * p.pitch] * to_float(gain[t * p.gain_step]); };
    const auto store = [&](int t, float value) {
      if (p.to) to[t * p.to_step] = from_float<T>(value);
    };
    const Norm norm = normalise_gradient(p.filter_norm, p.taps, tap, of_z, store);
    for (int t = 0; t < p.taps; ++t) sums[static_cast<int64_t>(t) * p.pitch] *= norm(tap(t));
  }
}

// A thread for each channel; a row of blocks for each branch and tap.
template <class T>
__global__ __launch_bounds__(kNormThreads, kNormBlocks) void add_gain_gradients(ChannelGradients p) {
  const int c = static_cast<int>(blockIdx.x * kNormThreads + threadIdx.x);
  if (c >= p.channels) return;
  for (int filter = static_cast<int>(blockIdx.y); filter < p.branches * p.taps; filter += static_cast<int>(gridDim.y)) {
    const int r = filter / p.taps, t = filter - r * p.taps;
    const float* sums = p.sums + static_cast<int64_t>(filter) * p.pitch + c;
    float sum = 0.0f;
    for (int n = 0; n < p.samples; ++n) sum += sums[n * p.sums_n];
    const int64_t index = (static_cast<int64_t>(r) * p.channels + c) * p.taps + t;
    static_cast<T*>(p.to_gains)[index * p.to_gain_step] = from_float<T>(sum);
  }
}

}  // namespace dyndeploy::cuda::ddf

// The gradient of a bias: the sum of a map [N, O, H, W], in any layout, over samples and pixels.
//
//   sum_pixels      a block: kBiasChannels channels of a part of the pixels of all samples; reads the map once
//   add_pixel_sums  a thread: one channel, the sums of all parts in order
//
// All sums are in float, each in one order: the same bits in every run.
#pragma once

#include <algorithm>

#include "common/cuda/call.h"

namespace dyndeploy::cuda {

inline constexpr int kBiasThreads = 256, kBiasWarps = kBiasThreads / kWarp, kBiasChannels = 32;
// Of the pixels: at least so many a part, and so many parts at most.
inline constexpr int kBiasPixels = 256, kBiasParts = 256;

struct BiasGradient {
  const void* map;
  int64_t n, c, h, w;  // strides in elements
  int pixels, width;   // of a sample, of its rows
  int rows;            // pixels of all samples
  int channels;
  int units;  // channels in sequence belong to units in sequence, whose channels lie side by side in `to`
  int parts, part_rows;
  float* sums;  // [part][channels]
  void* to;
  int64_t to_stride;
};

struct BiasShared {
  float sums[kBiasWarps][kBiasChannels];
};

// Blocks: [part][channel tile]. Neighbouring lanes read neighbouring channels where these lie side by side, or pixels.
template <class T>
__global__ void __launch_bounds__(kBiasThreads) sum_pixels(const BiasGradient p) {
  auto& shared = shared_memory<BiasShared>();
  const int tiles = (p.channels + kBiasChannels - 1) / kBiasChannels;
  const int part = static_cast<int>(blockIdx.x) / tiles;
  const int channel = (static_cast<int>(blockIdx.x) - part * tiles) * kBiasChannels;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  const int begin = part * p.part_rows, end = min(begin + p.part_rows, p.rows);
  const T* map = static_cast<const T*>(p.map) + channel * p.c;
  const auto place_of = [&](int row) {
    const int n = row / p.pixels, pixel = row - n * p.pixels, i = pixel / p.width;
    return n * p.n + i * p.h + (pixel - i * p.width) * p.w;
  };
  if (p.c == 1) {
    float sum = 0.0f;
    if (channel + lane < p.channels)
#pragma unroll 4
      for (int row = begin + warp; row < end; row += kBiasWarps) sum += to_float(map[place_of(row) + lane]);
    shared.sums[warp][lane] = sum;
  } else {
    constexpr int kOfWarp = kBiasChannels / kBiasWarps;
    float sums[kOfWarp] = {};
#pragma unroll 2
    for (int row = begin + lane; row < end; row += kWarp) {
      const T* at = map + place_of(row) + warp * kOfWarp * p.c;
#pragma unroll
      for (int k = 0; k < kOfWarp; ++k)
        if (channel + warp * kOfWarp + k < p.channels) sums[k] += to_float(at[k * p.c]);
    }
#pragma unroll
    for (int k = 0; k < kOfWarp; ++k) {
#pragma unroll
      for (int step = kWarp / 2; step > 0; step /= 2) sums[k] += __shfl_xor_sync(~0u, sums[k], step);
      if (lane == 0) shared.sums[0][warp * kOfWarp + k] = sums[k];
    }
  }
  __syncthreads();
  if (warp > 0 || channel + lane >= p.channels) return;
  float sum = shared.sums[0][lane];
  if (p.c == 1)
#pragma unroll
    for (int w = 1; w < kBiasWarps; ++w) sum += shared.sums[w][lane];
  p.sums[static_cast<int64_t>(part) * p.channels + channel + lane] = sum;
}

template <class T>
__global__ void __launch_bounds__(kBiasThreads) add_pixel_sums(const BiasGradient p) {
  const int channel = static_cast<int>(blockIdx.x) * kBiasThreads + static_cast<int>(threadIdx.x);
  if (channel >= p.channels) return;
  float sum = 0.0f;
#pragma unroll 8
  for (int part = 0; part < p.parts; ++part) sum += p.sums[static_cast<int64_t>(part) * p.channels + channel];
  const int of_unit = channel / p.units, unit = channel - of_unit * p.units;
  static_cast<T*>(p.to)[(unit * (p.channels / p.units) + of_unit) * p.to_stride] = from_float<T>(sum);
}

// Floats of workspace; never fewer for larger extents. `rows`: pixels of all samples.
inline int64_t bias_sums(int64_t rows, int64_t channels) {
  return std::min<int64_t>(divide_up(rows, kBiasPixels), kBiasParts) * channels;
}

// to [O] = the sum of `map`. Checked before: pixels, channels and tiles of them fit 32 bits. `names`: of the two kernels;
// `units`: interleaved in the map, see above.
template <class = void>
dyndeploy_status launch_bias_gradient(const char* const (&names)[2], const dyndeploy_tensor& map,
                                      const dyndeploy_tensor& to, float* sums, cudaStream_t stream, int64_t units = 1) {
  const int64_t rows = map.extents[0] * map.extents[2] * map.extents[3], channels = map.extents[1];
  if (channels == 0) return DYNDEPLOY_OK;
  const int64_t part_rows = std::max<int64_t>(divide_up(rows, kBiasParts), kBiasPixels);
  const int64_t parts = divide_up(rows, part_rows);
  const BiasGradient gradient{.map = map.data,
                              .n = stride_of(map, 0),
                              .c = channels > 1 ? stride_of(map, 1) : 1,
                              .h = stride_of(map, 2),
                              .w = stride_of(map, 3),
                              .pixels = static_cast<int>(map.extents[2] * map.extents[3]),
                              .width = static_cast<int>(map.extents[3]),
                              .rows = static_cast<int>(rows),
                              .channels = static_cast<int>(channels),
                              .units = static_cast<int>(units),
                              .parts = static_cast<int>(parts),
                              .part_rows = static_cast<int>(part_rows),
                              .sums = sums,
                              .to = to.data,
                              .to_stride = stride_of(to, 0)};
  return with_type(map.dtype, [&](auto type) -> dyndeploy_status {
    using T = decltype(type);
    Launch how{.name = names[0],
               .blocks = dim3(static_cast<unsigned>(parts * divide_up(channels, kBiasChannels))),
               .threads = kBiasThreads,
               .shared_bytes = sizeof(BiasShared),
               .stream = stream};
    DYNDEPLOY_TRY(launch(how, sum_pixels<T>, gradient));
    how.name = names[1];
    how.blocks = dim3(static_cast<unsigned>(divide_up(channels, kBiasThreads)));
    how.shared_bytes = 0;
    return launch(how, add_pixel_sums<T>, gradient);
  });
}

}  // namespace dyndeploy::cuda

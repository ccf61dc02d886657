// X [N, C, H, W] in any strides, copied to [N][H * W][vectors]: channels last, in vectors of sixteen bytes, padded with zeros.
//
// Only moves data: X is read once along its planes, or its channels, and written once along channels, through a tile in
// shared memory.
#pragma once

#include "common/cuda/dtype.cuh"

namespace dyndeploy::cuda {

// Channels may come in units, each of which begins a vector: what reads the copy then finds no vector of two of them.
struct ChannelsLast {
  const void* x;
  int64_t n, c, h, w;  // strides in elements
  int pixels, width;   // of a sample, of its rows
  int unit_channels, unit_vectors;
  int vectors;      // of a pixel
  int pixel_tiles;  // of a sample
  Sixteen* rows;
};

inline constexpr int kCopyThreads = 256, kCopyPixels = 32, kCopyVectors = 8;

template <class T>
struct CopyShared {
  // One more than a row has, so that neither pixels nor channels in sequence meet in a bank.
  float values[kCopyVectors * kPerSixteen<T>][kCopyPixels + 1];
};

// A block: kCopyPixels pixels of a sample, kCopyVectors vectors of their channels. Blocks: [vectors][sample][pixels].
//
// A thread has one pixel and some channels or, where channels lie side by side, one channel and some pixels: its loads differ
// by one stride, and are all under way at once.
template <class T>
__global__ void __launch_bounds__(kCopyThreads) copy_channels_last(const ChannelsLast p) {
  constexpr int kWide = kPerSixteen<T>, kChannels = kCopyVectors * kWide;
  constexpr int kLoads = kChannels * kCopyPixels / kCopyThreads;
  auto& shared = shared_memory<CopyShared<T>>();
  const int vector_tiles = (p.vectors + kCopyVectors - 1) / kCopyVectors;
  int index = static_cast<int>(blockIdx.x);
  const int first_vector = index % vector_tiles * kCopyVectors;
  index /= vector_tiles;
  const int n = index / p.pixel_tiles, first_pixel = (index - n * p.pixel_tiles) * kCopyPixels;
  const T* x = static_cast<const T*>(p.x) + n * p.n;
  const bool channels_first = p.c == 1, one_unit = p.unit_vectors == p.vectors;
  const int tid = static_cast<int>(threadIdx.x);
  const int channel = channels_first ? tid % kChannels : tid / kCopyPixels;
  const int pixel = channels_first ? tid / kChannels : tid % kCopyPixels;
  // Channels or pixels from one load to the next.
  const int channel_step = channels_first ? 0 : kCopyThreads / kCopyPixels;
  const int pixel_step = channels_first ? kCopyThreads / kChannels : 0;
  // Where channel `c` of the tile lies, or -1.
  const auto place_of_channel = [&](int c) -> int64_t {
    const int vector = first_vector + c / kWide;
    if (vector >= p.vectors) return -1;
    const int unit = one_unit ? 0 : vector / p.unit_vectors;
    const int of_unit = (vector - unit * p.unit_vectors) * kWide + c % kWide;
    return of_unit < p.unit_channels ? (static_cast<int64_t>(unit) * p.unit_channels + of_unit) * p.c : -1;
  };
  const auto place_of_pixel = [&](int of_tile) -> int64_t {
    const int all = first_pixel + of_tile, row = all / p.width;
    return row * p.h + (all - row * p.width) * p.w;
  };
  const int64_t own_channel = place_of_channel(channel), own_pixel = place_of_pixel(pixel);
  T values[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int64_t of_channel = channel_step ? place_of_channel(channel + i * channel_step) : own_channel;
    const int64_t of_pixel = pixel_step ? place_of_pixel(pixel + i * pixel_step) : own_pixel;
    values[i] = T{};
    if (of_channel >= 0 && first_pixel + pixel + i * pixel_step < p.pixels) values[i] = x[of_channel + of_pixel];
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i)
    shared.values[channel + i * channel_step][pixel + i * pixel_step] = to_float(values[i]);
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kCopyPixels * kCopyVectors; i += kCopyThreads) {
    const int vector = i % kCopyVectors, pixel = i / kCopyVectors;
    if (first_pixel + pixel >= p.pixels || first_vector + vector >= p.vectors) continue;
    float values[kWide];
#pragma unroll
    for (int k = 0; k < kWide; ++k) values[k] = shared.values[vector * kWide + k][pixel];
    const int64_t at = static_cast<int64_t>(n) * p.pixels + first_pixel + pixel;
    store_sixteen(p.rows + at * p.vectors + first_vector + vector, pack<T>(values));
  }
}

}  // namespace dyndeploy::cuda

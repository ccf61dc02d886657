// X [N, C, H, W] in any strides, copied to [N][H * W][vectors]: channels last, in vectors of sixteen bytes, padded with zeros.
//
// Only moves data: X is read once along its planes, or its channels, and written once along channels, through a tile in
// shared memory.
#pragma once

#include "common/dtype.cuh"

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
template <class T>
__global__ void __launch_bounds__(kCopyThreads) copy_channels_last(const ChannelsLast p) {
  constexpr int kWide = kPerSixteen<T>, kChannels = kCopyVectors * kWide;
  auto& shared = shared_memory<CopyShared<T>>();
  const int vector_tiles = (p.vectors + kCopyVectors - 1) / kCopyVectors;
  int index = static_cast<int>(blockIdx.x);
  const int first_vector = index % vector_tiles * kCopyVectors;
  index /= vector_tiles;
  const int n = index / p.pixel_tiles, first_pixel = (index - n * p.pixel_tiles) * kCopyPixels;
  const T* x = static_cast<const T*>(p.x) + n * p.n;
  const bool channels_first = p.c == 1;  // which of both neighbouring threads read
  for (int i = static_cast<int>(threadIdx.x); i < kCopyPixels * kChannels; i += kCopyThreads) {
    const int channel = channels_first ? i % kChannels : i / kCopyPixels;
    const int pixel = channels_first ? i / kChannels : i % kCopyPixels;
    const int vector = first_vector + channel / kWide, unit = vector / p.unit_vectors;
    const int of_unit = (vector - unit * p.unit_vectors) * kWide + channel % kWide;
    const int all = first_pixel + pixel;
    float value = 0.0f;
    if (all < p.pixels && vector < p.vectors && of_unit < p.unit_channels) {
      const int row = all / p.width;
      value = to_float(x[(static_cast<int64_t>(unit) * p.unit_channels + of_unit) * p.c + row * p.h +
                         (all - row * p.width) * p.w]);
    }
    shared.values[channel][pixel] = value;
  }
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

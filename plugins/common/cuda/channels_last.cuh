// X [N, C, H, W] in any strides, copied to [N][H * W][vectors]: channels last, in vectors of sixteen bytes, padded with
// zeros.
//
// X is read once along its planes, or its channels, and written once along channels, through a tile in shared memory.
#pragma once

#include "common/cuda/dtype.cuh"

namespace dyndeploy::cuda {

// Channels may come in units, each of which begins a vector: what reads the copy then finds no vector of two of them.
struct ChannelsLast {
  const void* x;
  int64_t n, c, h, w;  // strides in elements; c: of the channels of a unit
  int64_t unit;        // distance of units
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

// A tile of X: kCopyPixels pixels of a sample from `first` on, kCopyVectors vectors of channels, to shared memory as
// floats. place_of_channel(c): where channel c of the tile lies in X, or -1; value(c, float): what becomes of its numbers.
//
// A thread has one pixel and some channels or, where channels lie side by side, one channel and some pixels: its loads
// differ by one stride, and are all under way at once.
template <class T, class Place, class Value>
__device__ __forceinline__ void read_tile(CopyShared<T>& shared, const T* x, bool channels_first, int64_t h, int64_t w,
                                          int first, int pixels, int width, Place place_of_channel, Value value) {
  constexpr int kChannels = kCopyVectors * kPerSixteen<T>;
  constexpr int kLoads = kChannels * kCopyPixels / kCopyThreads;
  const int tid = static_cast<int>(threadIdx.x);
  const int channel = channels_first ? tid % kChannels : tid / kCopyPixels;
  const int pixel = channels_first ? tid / kChannels : tid % kCopyPixels;
  // Channels or pixels from one load to the next.
  const int channel_step = channels_first ? 0 : kCopyThreads / kCopyPixels;
  const int pixel_step = channels_first ? kCopyThreads / kChannels : 0;
  const auto place_of_pixel = [&](int of_tile) -> int64_t {
    const int all = first + of_tile, row = all / width;
    return row * h + (all - row * width) * w;
  };
  const int64_t own_channel = place_of_channel(channel), own_pixel = place_of_pixel(pixel);
  T values[kLoads];
  int there = 0;  // a bit for each load
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int64_t of_channel = channel_step ? place_of_channel(channel + i * channel_step) : own_channel;
    const int64_t of_pixel = pixel_step ? place_of_pixel(pixel + i * pixel_step) : own_pixel;
    values[i] = T{};
    if (of_channel < 0) continue;
    there |= 1 << i;
    if (first + pixel + i * pixel_step < pixels) values[i] = x[of_channel + of_pixel];
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int c = channel + i * channel_step;
    shared.values[c][pixel + i * pixel_step] = there >> i & 1 ? value(c, to_float(values[i])) : 0.0f;
  }
  __syncthreads();
}

// Its first pixels and vectors, as far as there are any, to `rows`, whose pixels are `pitch` vectors apart.
template <class T>
__device__ __forceinline__ void write_tile(const CopyShared<T>& shared, int pixels, int vectors, Sixteen* rows,
                                           int pitch) {
  constexpr int kWide = kPerSixteen<T>;
  for (int i = static_cast<int>(threadIdx.x); i < kCopyPixels * kCopyVectors; i += kCopyThreads) {
    const int vector = i % kCopyVectors, pixel = i / kCopyVectors;
    if (pixel >= pixels || vector >= vectors) continue;
    float values[kWide];
#pragma unroll
    for (int k = 0; k < kWide; ++k) values[k] = shared.values[vector * kWide + k][pixel];
    store_sixteen(rows + static_cast<int64_t>(pixel) * pitch + vector, pack<T>(values));
  }
}

// A block: a tile. Blocks: [vectors][sample][pixels].
template <class T>
__global__ void __launch_bounds__(kCopyThreads) copy_channels_last(const ChannelsLast p) {
  constexpr int kWide = kPerSixteen<T>;
  auto& shared = shared_memory<CopyShared<T>>();
  const int vector_tiles = (p.vectors + kCopyVectors - 1) / kCopyVectors;
  int index = static_cast<int>(blockIdx.x);
  const int first_vector = index % vector_tiles * kCopyVectors;
  index /= vector_tiles;
  const int n = index / p.pixel_tiles, first_pixel = (index - n * p.pixel_tiles) * kCopyPixels;
  const bool one_unit = p.unit_vectors == p.vectors;
  const auto place_of_channel = [&](int c) -> int64_t {
    const int vector = first_vector + c / kWide;
    if (vector >= p.vectors) return -1;
    const int unit = one_unit ? 0 : vector / p.unit_vectors;
    const int of_unit = (vector - unit * p.unit_vectors) * kWide + c % kWide;
    return of_unit < p.unit_channels ? unit * p.unit + of_unit * p.c : -1;
  };
  const bool channels_first = p.c == 1 || p.unit == 1;
  read_tile(shared, static_cast<const T*>(p.x) + n * p.n, channels_first, p.h, p.w, first_pixel, p.pixels, p.width,
            place_of_channel, [](int, float v) { return v; });
  write_tile(shared, p.pixels - first_pixel, p.vectors - first_vector,
             p.rows + (static_cast<int64_t>(n) * p.pixels + first_pixel) * p.vectors + first_vector, p.vectors);
}

}  // namespace dyndeploy::cuda

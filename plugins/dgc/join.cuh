// From D, the gradient of the heads' copies of X before their gates (convolve_transposed.cuh), to those of X and the
// saliency.
//
//   join           X         sum over the heads, in their order, of gate * D, where the head keeps the channel
//                  saliency  of one (sample, head, channel), the sum of x * D over kJoinPixels pixels: a part
//   sum_saliency   the parts of each, in order; 0 where the channel was dropped
//
// Reads D once, heads * kept floats a pixel, and X, and writes X's gradient.
#pragma once

#include "dgc/keep.cuh"

namespace dyndeploy::dgc {

struct Joining {
  const void* x;
  int64_t n, c, h, w;  // strides in elements
  void* gradient;      // of X, or NULL
  int64_t gradient_n, gradient_c, gradient_h, gradient_w;
  int heads, C;
  int pixels, width;  // of X
  int pixel_tiles, channel_tiles;
  Kept kept;             // with places
  const float* columns;  // D [sample][head][kept.most][pixel]
  float* slopes;         // [sample][head][pixel tile][kept.most], or NULL
};

inline constexpr int kJoinThreads = 256, kJoinChannels = 32, kJoinPixels = 256;

struct JoinShared {
  // One more than a row has, so that neither pixels nor channels in sequence meet in a bank.
  float values[kJoinChannels][kJoinPixels + 1];
};

namespace detail {

// call(channel, pixel, place) for all of a tile that are there; neighbouring threads have neighbours in memory.
template <class Call>
__device__ __forceinline__ void for_tile(const Joining& p, int channel, int pixel, int64_t c, int64_t h, int64_t w,
                                         Call call) {
  const bool channels_first = c == 1;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < kJoinChannels * kJoinPixels; i += kJoinThreads) {
    const int of_channel = channels_first ? i % kJoinChannels : i / kJoinPixels;
    const int of_pixel = channels_first ? i / kJoinChannels : i % kJoinPixels;
    if (channel + of_channel >= p.C || pixel + of_pixel >= p.pixels) continue;
    const int row = (pixel + of_pixel) / p.width;
    call(of_channel, of_pixel, (channel + of_channel) * c + row * h + (pixel + of_pixel - row * p.width) * w);
  }
}

}  // namespace detail

// A block: kJoinChannels channels of kJoinPixels pixels of a sample. Blocks: [sample][channels][pixels].
template <class T>
__global__ void __launch_bounds__(kJoinThreads) join(const Joining p) {
  constexpr int kOfLane = kJoinPixels / cuda::kWarp, kWarps = kJoinThreads / cuda::kWarp;
  auto& shared = cuda::shared_memory<JoinShared>();
  int index = static_cast<int>(blockIdx.x);
  const int tile = index % p.pixel_tiles, pixel = tile * kJoinPixels;
  index /= p.pixel_tiles;
  const int n = index / p.channel_tiles, channel = (index - n * p.channel_tiles) * kJoinChannels;
  if (p.slopes) {
    const T* x = static_cast<const T*>(p.x) + n * p.n;
    detail::for_tile(p, channel, pixel, p.c, p.h, p.w,
                     [&](int c, int q, int64_t at) { shared.values[c][q] = cuda::to_float(x[at]); });
    __syncthreads();
  }
  const int lane = static_cast<int>(threadIdx.x) % cuda::kWarp, warp = static_cast<int>(threadIdx.x) / cuda::kWarp;
  for (int c = warp; c < kJoinChannels && channel + c < p.C; c += kWarps) {
    float x[kOfLane], sums[kOfLane];
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) {
      const int q = i * cuda::kWarp + lane;
      x[i] = p.slopes && pixel + q < p.pixels ? shared.values[c][q] : 0.0f;
      sums[i] = 0.0f;
    }
    for (int head = 0; head < p.heads; ++head) {
      const int64_t of_head = static_cast<int64_t>(n) * p.heads + head;
      const int k = p.kept.places[of_head * p.C + channel + c];
      if (k == kNoChannel) continue;  // the same for all lanes
      const float gate = p.kept.gates[of_head * p.kept.most + k];
      const float* columns = p.columns + (of_head * p.kept.most + k) * p.pixels + pixel;
      float slope = 0.0f;
#pragma unroll
      for (int i = 0; i < kOfLane; ++i) {
        const int q = i * cuda::kWarp + lane;
        if (pixel + q >= p.pixels) continue;
        const float d = columns[q];
        sums[i] += gate * d;
        slope += x[i] * d;
      }
      if (!p.slopes) continue;
#pragma unroll
      for (int step = cuda::kWarp / 2; step > 0; step /= 2) slope += __shfl_xor_sync(~0u, slope, step);
      if (lane == 0) p.slopes[(of_head * p.pixel_tiles + tile) * p.kept.most + k] = slope;
    }
    // In the place of this lane's pixels of X.
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) shared.values[c][i * cuda::kWarp + lane] = sums[i];
  }
  if (!p.gradient) return;
  __syncthreads();
  T* gradient = static_cast<T*>(p.gradient) + n * p.gradient_n;
  detail::for_tile(p, channel, pixel, p.gradient_c, p.gradient_h, p.gradient_w,
                   [&](int c, int q, int64_t at) { gradient[at] = cuda::from_float<T>(shared.values[c][q]); });
}

struct SaliencySums {
  const float* slopes;
  int tiles;
  int64_t count;  // of samples, heads, channels
  int heads, C;
  Kept kept;
  void* gradient;  // of the saliency
  int64_t n, c;    // strides in elements
};

inline constexpr int kSaliencyThreads = 128;

// A thread: one channel of a (sample, head).
template <class T>
__global__ void __launch_bounds__(kSaliencyThreads) sum_saliency(const SaliencySums p) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kSaliencyThreads + static_cast<int>(threadIdx.x);
  if (index >= p.count) return;
  const int64_t of_head = index / p.C, channel = index - of_head * p.C;
  const int64_t n = of_head / p.heads, head = of_head - n * p.heads;
  const int k = p.kept.places[index];
  float sum = 0.0f;
  if (k != kNoChannel)
#pragma unroll 4
    for (int tile = 0; tile < p.tiles; ++tile) sum += p.slopes[(of_head * p.tiles + tile) * p.kept.most + k];
  static_cast<T*>(p.gradient)[n * p.n + (head * p.C + channel) * p.c] = cuda::from_float<T>(sum);
}

}  // namespace dyndeploy::dgc

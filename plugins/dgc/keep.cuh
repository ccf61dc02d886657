// Which channels a head keeps, and its copy of X: what the product reads.
//
//   keep      per (sample, head): the limit below which channels are dropped, found digit by digit (radix selection: a
//             histogram of 256 per digit of 8 bits, highest first), then the channels above it in their order, and their
//             gates. They stay on the GPU, and so does their number
//   compress  X, in any layout, times the gates, to [sample][head][pixel of X][kept channels], padded to whole vectors of
//             sixteen bytes with zeros: rows that the taps of the product read as they are
//
// A head keeps C - inactive channels at most (ties drop more), which is what the workspace has room for. Only where the limit is
// a NaN are all kept; one of them then says it all, since every output whose window has a pixel is NaN: the NaNs come first.
//
// Cost: keep reads the saliency five times, from the first cache; compress reads what is kept of X once per head, and
// writes it. With a quarter kept by each of four heads that is X twice.
#pragma once

#include "common/cuda/dtype.cuh"
#include "common/cuda/scan.cuh"

namespace dyndeploy::dgc {

inline constexpr int kNoChannel = -1;

// Of all (sample, head), in sequence.
struct Kept {
  int* counts;
  int* channels;  // [most]; after the last one kNoChannel up to a whole vector
  float* gates;   // [most]
  int most;       // a multiple of the vector
};

struct Keeping {
  const void* saliency;
  int64_t n, c;  // strides in elements
  int heads, C;
  int inactive;  // -1: the limit is `threshold`
  float threshold;
  int room;  // kept at most
  Kept kept;
};

inline constexpr int kKeepThreads = 256, kDigits = 256;
static_assert(kKeepThreads == kDigits);

struct KeepShared {
  int histogram[kDigits];
  cuda::ScanShared<kKeepThreads> scan;
  uint32_t digit;
  int rank;
};

// A number that orders as floats do, with NaN above all, as torch.kthvalue has it.
__device__ __forceinline__ uint32_t key_of(float v) {
  const uint32_t bits = __float_as_uint(v);
  return v != v ? ~0u : bits ^ (bits >> 31 ? ~0u : 1u << 31);
}
__device__ __forceinline__ float number_of(uint32_t key) {
  return key == ~0u ? __uint_as_float(0x7fffffff) : __uint_as_float(key ^ (key >> 31 ? 1u << 31 : ~0u));
}

// The inactive-th smallest key.
template <class Key>
__device__ __forceinline__ uint32_t smallest(KeepShared& shared, int count, int rank, Key key) {
  uint32_t found = 0, known = 0;  // the digits found so far, and which bits they are
  for (int shift = 24; shift >= 0; shift -= 8) {
    shared.histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < count; c += kKeepThreads) {
      const uint32_t k = key(c);
      if ((k & known) == found) atomicAdd(&shared.histogram[k >> shift & (kDigits - 1)], 1);
    }
    __syncthreads();
    int all = 0;
    const int own = shared.histogram[threadIdx.x], up_to = cuda::sum_up_to(shared.scan, own, all);
    if (up_to - own < rank && rank <= up_to) {
      shared.digit = threadIdx.x;
      shared.rank = rank - (up_to - own);
    }
    __syncthreads();
    found |= shared.digit << shift;
    known |= uint32_t{kDigits - 1} << shift;
    rank = shared.rank;
  }
  return found;
}

// A block: one head of one sample.
template <class T>
__global__ void __launch_bounds__(kKeepThreads) keep(const Keeping p) {
  auto& shared = cuda::shared_memory<KeepShared>();
  const int index = static_cast<int>(blockIdx.x), n = index / p.heads, head = index - n * p.heads;
  const T* saliency = static_cast<const T*>(p.saliency) + n * p.n + static_cast<int64_t>(head) * p.C * p.c;
  const auto value = [&](int c) { return cuda::to_float(saliency[c * p.c]); };
  float limit = p.threshold;
  if (p.inactive > 0) limit = number_of(smallest(shared, p.C, p.inactive, [&](int c) { return key_of(value(c)); }));
  const bool only_nan = p.inactive > 0 && limit != limit;

  const int64_t begin = static_cast<int64_t>(index) * p.kept.most;
  int count = 0;
  for (int first = 0; first < p.C; first += kKeepThreads) {
    const int c = first + static_cast<int>(threadIdx.x);
    const float v = c < p.C ? value(c) : 0.0f;
    const bool kept = c < p.C && (only_nan ? v != v : p.inactive == 0 || !(v <= limit));
    int all = 0;
    const int at = count + cuda::sum_up_to(shared.scan, kept ? 1 : 0, all) - 1;
    if (kept && at < p.room) {
      p.kept.channels[begin + at] = c;
      p.kept.gates[begin + at] = v;
    }
    count += all;
  }
  count = min(count, p.room);
  for (int at = count + static_cast<int>(threadIdx.x); at < p.kept.most; at += kKeepThreads)
    p.kept.channels[begin + at] = kNoChannel;
  if (threadIdx.x == 0) p.kept.counts[index] = count;
}

struct Compressing {
  const void* x;
  int64_t n, c, h, w;  // strides in elements
  int heads;
  int pixels, width;             // of X
  int pixel_tiles, vector_tiles;  // of a (sample, head)
  Kept kept;
  cuda::Sixteen* rows;  // [sample][head][pixel][kept.most]
};

inline constexpr int kCompressThreads = 256, kCompressPixels = 32, kCompressVectors = 8;

template <class T>
struct CompressShared {
  int channels[kCompressVectors * cuda::kPerSixteen<T>];
  float gates[kCompressVectors * cuda::kPerSixteen<T>];
  // One more than a row has, so that neither pixels nor channels in sequence meet in a bank.
  float values[kCompressVectors * cuda::kPerSixteen<T>][kCompressPixels + 1];
};

// A block: kCompressPixels pixels of a (sample, head), kCompressVectors vectors of its kept channels.
template <class T>
__global__ void __launch_bounds__(kCompressThreads) compress(const Compressing p) {
  constexpr int kWide = cuda::kPerSixteen<T>, kChannels = kCompressVectors * kWide;
  auto& shared = cuda::shared_memory<CompressShared<T>>();
  int index = static_cast<int>(blockIdx.x);
  const int first_pixel = index % p.pixel_tiles * kCompressPixels;
  index /= p.pixel_tiles;
  const int first_vector = index % p.vector_tiles * kCompressVectors;
  index /= p.vector_tiles;
  // Vectors that hold kept channels; the others are not read by anybody.
  const int vectors = min((p.kept.counts[index] + kWide - 1) / kWide - first_vector, kCompressVectors);
  if (vectors <= 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < vectors * kWide; i += kCompressThreads) {
    const int64_t at = static_cast<int64_t>(index) * p.kept.most + first_vector * kWide + i;
    const int channel = p.kept.channels[at];
    shared.channels[i] = channel;
    shared.gates[i] = channel == kNoChannel ? 0.0f : p.kept.gates[at];
  }
  __syncthreads();
  const T* x = static_cast<const T*>(p.x) + index / p.heads * p.n;
  // As in channels_last.cuh: a thread has one pixel and some channels, or the other way round.
  constexpr int kLoads = kChannels * kCompressPixels / kCompressThreads;
  const bool channels_first = p.c == 1;
  const int tid = static_cast<int>(threadIdx.x);
  const int channel = channels_first ? tid % kChannels : tid / kCompressPixels;
  const int pixel = channels_first ? tid / kChannels : tid % kCompressPixels;
  const int channel_step = channels_first ? 0 : kCompressThreads / kCompressPixels;
  const int pixel_step = channels_first ? kCompressThreads / kChannels : 0;
  const auto place_of_pixel = [&](int of_tile) -> int64_t {
    const int all = first_pixel + of_tile, row = all / p.width;
    return row * p.h + (all - row * p.width) * p.w;
  };
  const int64_t own_pixel = place_of_pixel(pixel);
  T values[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int of_tile = channel + i * channel_step;
    const int c = of_tile < vectors * kWide ? shared.channels[of_tile] : kNoChannel;
    const int64_t of_pixel = pixel_step ? place_of_pixel(pixel + i * pixel_step) : own_pixel;
    values[i] = T{};
    if (c != kNoChannel && first_pixel + pixel + i * pixel_step < p.pixels) values[i] = x[c * p.c + of_pixel];
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int of_tile = channel + i * channel_step;
    // What is dropped is not multiplied by 0: a NaN there stays where it is.
    const bool there = of_tile < vectors * kWide && shared.channels[of_tile] != kNoChannel;
    shared.values[of_tile][pixel + i * pixel_step] = there ? shared.gates[of_tile] * cuda::to_float(values[i]) : 0.0f;
  }
  __syncthreads();
  const int of_pixel = p.kept.most / kWide;
  for (int i = static_cast<int>(threadIdx.x); i < kCompressPixels * kCompressVectors; i += kCompressThreads) {
    const int vector = i % kCompressVectors, pixel = i / kCompressVectors;
    if (vector >= vectors || first_pixel + pixel >= p.pixels) continue;
    float values[kWide];
#pragma unroll
    for (int k = 0; k < kWide; ++k) values[k] = shared.values[vector * kWide + k][pixel];
    const int64_t at = static_cast<int64_t>(index) * p.pixels + first_pixel + pixel;
    store_sixteen(p.rows + at * of_pixel + first_vector + vector, cuda::pack<T>(values));
  }
}

}  // namespace dyndeploy::dgc

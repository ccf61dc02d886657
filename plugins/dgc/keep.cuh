// Which channels a head keeps, and its copy of X: what the product reads.
//
//   keep      per (sample, head): the limit below which channels are dropped, found digit by digit (radix selection: a
//             histogram of 256 per digit of 8 bits, highest first), then the channels above it in their order, and their
//             gates. They stay on the GPU, and so does their number
//   compress  X, in any layout, times the gates, to [sample][head][pixel of X][kept channels], padded to whole vectors
//             of sixteen bytes with zeros: rows that the taps of the product read as they are. In planes, a block per
//             head reads those that it keeps; channels last, where any of them costs all, a block makes all heads' rows
//             of one read
//
// A head keeps C - inactive channels at most (ties drop more), which is what the workspace has room for. Only where the limit is
// a NaN are all kept; one of them then says it all, since every output whose window has a pixel is NaN: the NaNs come first.
//
// Cost: keep reads the saliency five times, from the first cache; compress reads what is kept of X once per head, or X
// once, and writes it. With a quarter kept by each of four heads that is X twice.
#pragma once

#include "common/cuda/channels_last.cuh"
#include "common/cuda/scan.cuh"

namespace dyndeploy::dgc {

inline constexpr int kNoChannel = -1;

// Of all (sample, head), in sequence.
struct Kept {
  int* counts;
  int* channels;  // [most]; after the last one kNoChannel up to a whole vector
  float* gates;   // [most]
  int* places;    // [C]: where a channel is among these, or kNoChannel; may be NULL
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
    const bool there = kept && at < p.room;
    if (there) {
      p.kept.channels[begin + at] = c;
      p.kept.gates[begin + at] = v;
    }
    if (p.kept.places && c < p.C) p.kept.places[static_cast<int64_t>(index) * p.C + c] = there ? at : kNoChannel;
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
  int heads, C;
  int pixels, width;  // of X
  int pixel_tiles;    // of a sample
  int vector_tiles;   // of compress: of a (sample, head)
  // Of compress_rows: pixels of a block, vectors of one of them, and whether X can be read in them.
  int row_pixels, row_vectors;
  bool vectors;
  Kept kept;
  cuda::Sixteen* rows;  // [sample][head][pixel][kept.most]
};

template <class T>
struct CompressShared {
  int channels[cuda::kCopyVectors * cuda::kPerSixteen<T>];
  float gates[cuda::kCopyVectors * cuda::kPerSixteen<T>];
  cuda::CopyShared<T> tile;
};

// A block: kCopyPixels pixels of a (sample, head), kCopyVectors vectors of its kept channels.
template <class T>
__global__ void __launch_bounds__(cuda::kCopyThreads) compress(const Compressing p) {
  constexpr int kWide = cuda::kPerSixteen<T>;
  auto& shared = cuda::shared_memory<CompressShared<T>>();
  int index = static_cast<int>(blockIdx.x);
  const int first_pixel = index % p.pixel_tiles * cuda::kCopyPixels;
  index /= p.pixel_tiles;
  const int first_vector = index % p.vector_tiles * cuda::kCopyVectors;
  index /= p.vector_tiles;
  // Vectors that hold kept channels; the others are not read by anybody.
  const int vectors = min((p.kept.counts[index] + kWide - 1) / kWide - first_vector, cuda::kCopyVectors);
  if (vectors <= 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < cuda::kCopyVectors * kWide; i += cuda::kCopyThreads) {
    const int64_t at = static_cast<int64_t>(index) * p.kept.most + first_vector * kWide + i;
    const int channel = i < vectors * kWide ? p.kept.channels[at] : kNoChannel;
    shared.channels[i] = channel;
    if (channel != kNoChannel) shared.gates[i] = p.kept.gates[at];
  }
  __syncthreads();
  // What is dropped is not multiplied by 0: a NaN there stays where it is.
  cuda::read_tile(
      shared.tile, static_cast<const T*>(p.x) + index / p.heads * p.n, p.c == 1, p.h, p.w, first_pixel, p.pixels, p.width,
      [&](int c) -> int64_t { return shared.channels[c] == kNoChannel ? -1 : shared.channels[c] * p.c; },
      [&](int c, float v) { return shared.gates[c] * v; });
  const int of_pixel = p.kept.most / kWide;
  cuda::write_tile(shared.tile, p.pixels - first_pixel, vectors,
                   p.rows + (static_cast<int64_t>(index) * p.pixels + first_pixel) * of_pixel + first_vector, of_pixel);
}

inline constexpr int kRowsThreads = 256;

// Some pixels of X, all channels of each.
struct RowsShared {
  cuda::Sixteen x[2048];
};

// A block: p.row_pixels pixels of a sample, channels last, for all heads.
template <class T>
__global__ void __launch_bounds__(kRowsThreads) compress_rows(const Compressing p) {
  constexpr int kWide = cuda::kPerSixteen<T>;
  auto& shared = cuda::shared_memory<RowsShared>();
  T* const values = reinterpret_cast<T*>(shared.x);
  const int n = static_cast<int>(blockIdx.x) / p.pixel_tiles;
  const int first = (static_cast<int>(blockIdx.x) - n * p.pixel_tiles) * p.row_pixels;
  const int pixels = min(p.row_pixels, p.pixels - first), pitch = p.row_vectors * kWide;
  const T* x = static_cast<const T*>(p.x) + n * p.n;
  const auto place_of_pixel = [&](int of_tile) -> int64_t {
    const int all = first + of_tile, row = all / p.width;
    return row * p.h + (all - row * p.width) * p.w;
  };
  const int tid = static_cast<int>(threadIdx.x);
  if (p.vectors) {
    for (int i = tid; i < pixels * p.row_vectors; i += kRowsThreads) {
      const int pixel = i / p.row_vectors, vector = i - pixel * p.row_vectors;
      shared.x[i] = cuda::load_sixteen(x + place_of_pixel(pixel) + vector * kWide);
    }
  } else {
    for (int i = tid; i < pixels * p.C; i += kRowsThreads) {
      const int pixel = i / p.C, c = i - pixel * p.C;
      values[pixel * pitch + c] = x[place_of_pixel(pixel) + c];
    }
  }
  __syncthreads();
  const int of_pixel = p.kept.most / kWide;
  for (int head = 0; head < p.heads; ++head) {
    const int64_t index = static_cast<int64_t>(n) * p.heads + head;
    const int vectors = (p.kept.counts[index] + kWide - 1) / kWide;
    cuda::Sixteen* rows = p.rows + (index * p.pixels + first) * of_pixel;
    // A thread has one vector, whose channels it looks up once, of some pixels.
    const int at_once = vectors < kRowsThreads ? vectors : kRowsThreads;
    for (int begin = 0; begin < vectors; begin += kRowsThreads) {
      const int vector = begin + tid % at_once;
      if (tid >= kRowsThreads / at_once * at_once || vector >= vectors) continue;
      int channels[kWide];
      float gates[kWide];
#pragma unroll
      for (int k = 0; k < kWide; ++k) {
        channels[k] = p.kept.channels[index * p.kept.most + vector * kWide + k];
        gates[k] = channels[k] == kNoChannel ? 0.0f : p.kept.gates[index * p.kept.most + vector * kWide + k];
      }
      for (int pixel = tid / at_once; pixel < pixels; pixel += kRowsThreads / at_once) {
        float gated[kWide];
#pragma unroll
        for (int k = 0; k < kWide; ++k)
          gated[k] = channels[k] == kNoChannel ? 0.0f : gates[k] * cuda::to_float(values[pixel * pitch + channels[k]]);
        store_sixteen(rows + static_cast<int64_t>(pixel) * of_pixel + vector, cuda::pack<T>(gated));
      }
    }
  }
}

}  // namespace dyndeploy::dgc

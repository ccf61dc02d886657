// Any kernel, stride, dilation, scale and layout.
//
// A block owns some pixels of one sample (in the order of rows, so that small maps fill it too) and some channels of
// one head; a thread kPixels of those pixels and, at a time, one unit of channels: sixteen bytes of a channels-last
// map, or one channel of any other.
//
//   for each branch
//     statistics of the pixels' spatial filters -> shared memory                            a thread per pixel
//     for each unit
//       for as many taps at a time as fit: normalised spatial filters -> shared memory [tap][pixel], most often once
//         add tap * x to the sums in registers, where x is 0 outside of the map
//
// Threads next to each other take what lies next to each other in X: units, or pixels where rows are dense.
//
// Cost per tap, for a thread's four pixels of a vector of 8: two reads of the channel filter; for each pixel one of the
// spatial filter and one of x, some twelve instructions for its address, 8 to widen it, 16 of arithmetic. Five
// instructions per element and tap, where the kernels that know their taps need three.
#pragma once

#include "ddf/filters.cuh"

namespace dyndeploy::cuda::ddf {

struct GeneralTile {
  static constexpr int kThreads = 128, kBlocks = 4;
  static constexpr int kPixels = 4;         // of a thread
  static constexpr int kMostPixels = 256;   // of a tile
  static constexpr int kMostFilters = 4096;  // floats of spatial filters

  int unit_lanes, pixel_lanes;  // threads along units of channels, along pixels
  bool units_first;             // neighbours among threads take neighbouring units, not pixels
  int taps;                     // that fit at a time
};

template <class T>
struct General {
  Map<const T> x, filters;
  Map<T> y;
  const float* channel;  // by taps
  int64_t channel_n, channel_branch;
  int channel_pitch;
  int H, W, Wo, pixels;  // pixels: Ho * Wo
  int taps, kw, stride_h, stride_w, top, left, dilation_h, dilation_w;
  int heads, head_channels, scale;
  GeneralTile tile;
  int chunk, chunks;  // units of a block, a multiple of the lanes, and how many of those a head has
  float spatial_gain;
  bool add, filter_norm, relu;
};

struct GeneralShared {
  float spatial[GeneralTile::kMostFilters];  // [tap][pixel]
  Norm norms[GeneralTile::kMostPixels];
  int row[GeneralTile::kMostPixels], column[GeneralTile::kMostPixels];
};
static_assert(sizeof(GeneralShared) <= kMostSharedBytes);

// Vectors of which fewer than kPerSixteen channels are there, the last of a map: element by element.
template <class T>
__device__ __forceinline__ Sixteen load_some(const T* from, int count) {
  float values[kPerSixteen<T>];
#pragma unroll
  for (int e = 0; e < kPerSixteen<T>; ++e) values[e] = e < count ? to_float(from[e]) : 0.0f;
  return pack<T>(values);
}
template <class T>
__device__ __forceinline__ void store_some(T* to, const float (&values)[kPerSixteen<T>], int count) {
  if (count >= kPerSixteen<T>) return store_sixteen(to, pack<T>(values));
#pragma unroll
  for (int e = 0; e < kPerSixteen<T>; ++e)
    if (e < count) to[e] = from_float<T>(values[e]);
}

// Branch r's spatial filter of a pixel of the tile.
template <class T>
__device__ __forceinline__ const T* spatial_of(const General<T>& p, const GeneralShared& shared, int n, int head, int r,
                                               int pixel) {
  return p.filters.at(n, (r * p.heads + head) * p.taps, shared.row[pixel], shared.column[pixel]);
}

// Channels from c on, `count` of a unit of Unit, of this thread's pixels: taps [begin, end), those in shared memory.
template <int Unit, class T>
__device__ __forceinline__ void add_taps(const General<T>& p, const GeneralShared& shared, const T* x,
                                         const float* channel, int count, int pixel, int begin, int end,
                                         float (&sums)[GeneralTile::kPixels][Unit]) {
  constexpr int kPixels = GeneralTile::kPixels;
  const int lanes = p.tile.pixel_lanes, in_tile = lanes * kPixels;
  int h[kPixels], w[kPixels];
#pragma unroll
  for (int q = 0; q < kPixels; ++q) {
    h[q] = shared.row[pixel + q * lanes] * p.stride_h - p.top;
    w[q] = shared.column[pixel + q * lanes] * p.stride_w - p.left;
  }
  int i = begin / p.kw, j = begin - i * p.kw;
  for (int t = begin; t < end; ++t) {
    float held[Unit];
    const float* from = channel + static_cast<int64_t>(t) * p.channel_pitch;
    if constexpr (Unit == 1) {
      held[0] = *from;
    } else {
#pragma unroll
      for (int v = 0; v < Unit; v += 4) {
        const Sixteen four = load_sixteen(from + v);
#pragma unroll
        for (int e = 0; e < 4; ++e) held[v + e] = __uint_as_float(four.words[e]);
      }
    }
#pragma unroll
    for (int q = 0; q < kPixels; ++q) {
      const int tap_h = h[q] + i * p.dilation_h, tap_w = w[q] + j * p.dilation_w;
      const bool inside = tap_h >= 0 && tap_h < p.H && tap_w >= 0 && tap_w < p.W;
      float values[Unit];
      if constexpr (Unit == 1) {
        values[0] = inside ? to_float(x[tap_h * p.x.h + tap_w * p.x.w]) : 0.0f;
      } else {
        Sixteen packed{};
        if (inside) {
          const T* at = x + tap_h * p.x.h + tap_w * p.x.w;
          packed = count >= Unit ? load_sixteen(at) : load_some(at, count);
        }
        unpack<T>(packed, values);
      }
      // The product with s is 1 * filter + s for the sum.
      const float s = shared.spatial[(t - begin) * in_tile + pixel + q * lanes];
      const float factor = p.add ? 1.0f : s, summand = p.add ? s : 0.0f;
#pragma unroll
      for (int v = 0; v < Unit; ++v) sums[q][v] = fmaf(fmaf(held[v], factor, summand), values[v], sums[q][v]);
    }
    if (++j == p.kw) {
      j = 0;
      ++i;
    }
  }
}

// blockIdx: x tiles of pixels; y chunks of channels of all heads; z samples. Unit: channels, kPerSixteen<T> or 1.
template <class T, int Unit>
__global__ __launch_bounds__(GeneralTile::kThreads, GeneralTile::kBlocks) void filter_general(General<T> p) {
  constexpr int kPixels = GeneralTile::kPixels;
  auto& shared = shared_memory<GeneralShared>();
  const int n = static_cast<int>(blockIdx.z);
  const int head = static_cast<int>(blockIdx.y) / p.chunks;
  const int first_unit = (static_cast<int>(blockIdx.y) - head * p.chunks) * p.chunk;
  const int units = (p.head_channels + Unit - 1) / Unit, last_unit = min(units, first_unit + p.chunk);
  const int lanes = p.tile.pixel_lanes, in_tile = lanes * kPixels;
  const int first_pixel = static_cast<int>(blockIdx.x) * in_tile, tile_pixels = min(in_tile, p.pixels - first_pixel);

  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int unit_lane = p.tile.units_first ? thread % p.tile.unit_lanes : thread / lanes;
  const int pixel = p.tile.units_first ? thread / p.tile.unit_lanes : thread % lanes;
  const bool works = unit_lane < p.tile.unit_lanes && pixel < lanes;

  for (int q = thread; q < in_tile; q += threads) {
    // Pixels beyond the last do what the first does, but for storing it.
    const int at = q < tile_pixels ? first_pixel + q : first_pixel;
    shared.row[q] = at / p.Wo;
    shared.column[q] = at % p.Wo;
  }
  __syncthreads();
#pragma unroll 1
  for (int r = 0; r < p.scale * p.scale; ++r) {
    for (int q = thread; q < in_tile; q += threads) {
      const T* taps = spatial_of(p, shared, n, head, r, q);
      shared.norms[q] = norm_of(p.filter_norm, p.spatial_gain, p.taps,
                                [&](int t) { return to_float(taps[t * p.filters.c]); });
    }
    const int down = r / p.scale, right = r - down * p.scale;
#pragma unroll 1
    for (int units_done = first_unit; units_done < last_unit; units_done += p.tile.unit_lanes) {
      const int unit = units_done + unit_lane;
      const bool busy = works && unit < last_unit;
      const int in_head = unit * Unit, c = head * p.head_channels + in_head;
      const int count = min(Unit, p.head_channels - in_head);
      float sums[kPixels][Unit] = {};
#pragma unroll 1
      for (int begin = 0; begin < p.taps; begin += p.tile.taps) {
        const int end = min(p.taps, begin + p.tile.taps);
        if (p.tile.taps < p.taps || units_done == first_unit) {
          __syncthreads();
          for (int e = thread; e < (end - begin) * in_tile; e += threads) {
            const int t = e / in_tile, q = e - t * in_tile;
            const T* taps = spatial_of(p, shared, n, head, r, q);
            shared.spatial[e] = shared.norms[q](to_float(taps[(begin + t) * p.filters.c]));
          }
          __syncthreads();
        }
        if (busy)
          add_taps<Unit>(p, shared, p.x.data + n * p.x.n + c * p.x.c,
                         p.channel + n * p.channel_n + r * p.channel_branch + c, count, pixel, begin, end, sums);
      }
      if (!busy) continue;
#pragma unroll
      for (int q = 0; q < kPixels; ++q) {
        const int at = pixel + q * lanes;
        if (at >= tile_pixels) continue;
        if (p.relu)
#pragma unroll
          for (int v = 0; v < Unit; ++v) sums[q][v] = relu(sums[q][v]);
        T* y = p.y.at(n, c, shared.row[at] * p.scale + down, shared.column[at] * p.scale + right);
        if constexpr (Unit == 1)
          *y = from_float<T>(sums[q][0]);
        else
          store_some(y, sums[q], count);
      }
    }
    __syncthreads();
  }
}

}  // namespace dyndeploy::cuda::ddf

// Sampling points: where one lies among the pixels of X, and what is sampled there.
//
//            at ──────> .           The first neighbour may lie outside of the map, by one pixel. One that does is not
//       row_h │   x                 read: it counts 0, whatever its weight, so that a NaN or an infinity of another pixel
//             v                     cannot come in.
//             .         .
//                 row_w
#pragma once

#include "common/cuda/windows.cuh"

namespace dyndeploy::dcnv2 {

struct Sampling {
  const cuda::Sixteen* x;  // channels last
  cuda::WindowMap map;
  const void* offset_mask;
  int64_t n, c, h, w;  // strides in elements
  int pixels, width;   // of a sample of the output, of its rows
  int rows;            // pixels of all samples
  int points;  // offset groups times taps
  int units_of_offset_group;
  bool sigmoid;
  float mask_scale;
};

// Offsets beyond this are those of nobody; checks on the host keep coordinates without them far below.
inline constexpr float kMostOffset = 0x1p30f;

// A sampling point. The two highest bits of dy and dx, free in a float from 0 to 1, say which neighbours exist.
struct alignas(16) Point {
  int at;       // the first neighbour, in sixteen bytes from X
  uint32_t dy;  // fraction | upper row exists << 31 | lower row exists << 30
  uint32_t dx;  // fraction | left column exists << 31 | right column exists << 30
  float mask;
};
inline constexpr uint32_t kFirstExists = 1u << 31, kSecondExists = 1u << 30, kFraction = kSecondExists - 1;

// A pixel of the tile.
struct Pixel {
  int64_t offset_mask;  // where its offsets begin, in elements
  int h, v;             // where its window begins
  int sample;           // of X, in sixteen bytes; -1: there is no such pixel
};

// Pixel `row` of all samples of the output.
__device__ __forceinline__ Pixel pixel_at(const Sampling& s, int row) {
  if (row >= s.rows) return {0, 0, 0, -1};
  const int n = row / s.pixels, of_sample = row - n * s.pixels;
  const int i = of_sample / s.width, j = of_sample - i * s.width;
  return {.offset_mask = n * s.n + i * s.h + j * s.w,
          .h = i * s.map.stride_h - s.map.top,
          .v = j * s.map.stride_w - s.map.left,
          .sample = static_cast<int>(n * s.map.n)};
}

// Whole pixels are added up as integers, so that on large maps, too, the fraction is as exact as the offset.
__device__ __forceinline__ Point point_at(const Sampling& s, const Pixel& pixel, int tap, float y, float x, float mask) {
  if (pixel.sample < 0) return {0, 0, 0, 0.0f};
  if (s.sigmoid) mask = 1.0f / (1.0f + expf(-mask));
  mask *= s.mask_scale;
  // False for NaN.
  if (!(fabsf(y) < kMostOffset && fabsf(x) < kMostOffset)) return {0, 0, 0, mask};
  const float whole_y = floorf(y), whole_x = floorf(x);
  const int down = tap / s.map.kw, right = tap - down * s.map.kw;
  const int h = pixel.h + down * s.map.dilation_h + static_cast<int>(whole_y);
  const int v = pixel.v + right * s.map.dilation_w + static_cast<int>(whole_x);
  if (h < -1 || h >= s.map.H || v < -1 || v >= s.map.W) return {0, 0, 0, mask};
  uint32_t dy = __float_as_uint(y - whole_y), dx = __float_as_uint(x - whole_x);
  if (h >= 0) dy |= kFirstExists;
  if (h + 1 < s.map.H) dy |= kSecondExists;
  if (v >= 0) dx |= kFirstExists;
  if (v + 1 < s.map.W) dx |= kSecondExists;
  return {pixel.sample + h * s.map.row_h + v * s.map.row_w, dy, dx, mask};
}

// The points of taps first_tap, …, first_tap + taps - 1 of an offset group, at pixels[0], …, pixels[rows - 1], by all threads
// of the block: points[tap * rows + row]. `group_taps`: of all offset groups before this one.
template <class T, int Threads>
__device__ __forceinline__ void locate(const Sampling& s, const Pixel* pixels, int rows, int group_taps, int first_tap,
                                       int taps, Point* points) {
  constexpr int kAtOnce = 3;  // so that nine loads are under way
  const int count = taps * rows, first = group_taps + first_tap;
  const T* offset_mask = static_cast<const T*>(s.offset_mask);
  // Neighbouring threads read neighbouring elements: channels or pixels.
  const bool taps_first = s.c == 1;
#pragma unroll 1
  for (int begin = static_cast<int>(threadIdx.x); begin < count; begin += kAtOnce * Threads) {
    int slot[kAtOnce];                        // of points[]; -1: none
    T y[kAtOnce], x[kAtOnce], mask[kAtOnce];  // converted below, or a thread would wait for each
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int index = begin + k * Threads;
      slot[k] = index >= count ? -1 : taps_first ? index % taps * rows + index / taps : index;
      y[k] = x[k] = mask[k] = T{};
      if (slot[k] < 0) continue;
      const Pixel& pixel = pixels[slot[k] % rows];
      if (pixel.sample < 0) continue;
      const T* from = offset_mask + pixel.offset_mask + (first + slot[k] / rows) * s.c;
      const T* from_mask = from + 2 * s.points * s.c;
      from += (first + slot[k] / rows) * s.c;
      y[k] = from[0];
      x[k] = from[s.c];
      mask[k] = *from_mask;
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k)
      if (slot[k] >= 0)
        points[slot[k]] = point_at(s, pixels[slot[k] % rows], first_tap + slot[k] / rows, cuda::to_float(y[k]),
                                   cuda::to_float(x[k]), cuda::to_float(mask[k]));
  }
}

// The neighbours of a point, at vector `channels` of their channels; zeros for those that do not exist.
__device__ __forceinline__ void load_neighbours(const Sampling& s, const Point& point, int channels, bool exists,
                                                cuda::Sixteen (&to)[4]) {
  const cuda::Sixteen* at = s.x + point.at + channels;
  const bool up = exists && point.dy & kFirstExists, down = exists && point.dy & kSecondExists;
  const bool left = point.dx & kFirstExists, right = point.dx & kSecondExists;
  const auto load_if = [](bool there, const cuda::Sixteen* from) {
    cuda::Sixteen v{};
    if (there) v = cuda::load_sixteen(from);
    return v;
  };
  to[0] = load_if(up && left, at);
  to[1] = load_if(up && right, at + s.map.row_w);
  to[2] = load_if(down && left, at + s.map.row_h);
  to[3] = load_if(down && right, at + s.map.row_h + s.map.row_w);
}

// The weighted sum of the neighbours, in float, rounded once; the mask is in it.
template <class T>
__device__ __forceinline__ cuda::Sixteen interpolate(const Point& point, const cuda::Sixteen (&from)[4], bool exists) {
  constexpr int kWide = cuda::kPerSixteen<T>;
  const float dy = __uint_as_float(point.dy & kFraction), dx = __uint_as_float(point.dx & kFraction);
  const float upper = (1.0f - dy) * point.mask, lower = dy * point.mask;
  const float weights[4] = {upper * (1.0f - dx), upper * dx, lower * (1.0f - dx), lower * dx};
  float sums[kWide];
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    float values[kWide];
    cuda::unpack<T>(from[corner], values);
#pragma unroll
    for (int i = 0; i < kWide; ++i)
      sums[i] = corner == 0 ? weights[0] * values[i] : fmaf(weights[corner], values[i], sums[i]);
  }
  // A mask that is not finite times nothing would be NaN.
  return exists ? cuda::pack<T>(sums) : cuda::Sixteen{};
}

}  // namespace dyndeploy::dcnv2

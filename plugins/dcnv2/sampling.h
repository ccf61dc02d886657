// Where a deformable convolution samples, and the samples: what forward and backward share.
#pragma once

#include "common/cpu/layout.h"
#include "common/cpu/simd.h"
#include "dcnv2/problem.h"

namespace dyndeploy::DYNDEPLOY_ISA {

// One sampling point: the same for all channels of an offset group.
struct Sample {
  int64_t at[4];           // the four neighbours, row-major from the upper left: where they are, by a Place
  float weight[4];         // what each counts, the mask included
  float dy, dx;            // fractions of the position
  float mask, mask_slope;  // and the derivative of the mask by what offset_mask holds
};
static_assert(sizeof(Sample) == 64);  // 4 places, and 8 floats that are written as one vector

// Pixel (h, w) of a map is at h * row_h + w * row_w, and a neighbour outside of it is at `outside`, where zeros are.
// Zeros and not a weight of 0: that times an infinity or a NaN of another pixel would be NaN.
struct Place {
  int64_t row_h, row_w, outside;
};

namespace detail {

// 1 / (1 + exp(-m)) and its derivative, to about 1e-7 of their size; 0 and 1 at the infinities, NaN for NaN.
DYNDEPLOY_INLINE void sigmoid(Vector m, Vector& value, Vector& slope) {
  const auto all = [](float s) { return splat(s); };
  // exp(t) = 2^n * exp(r), |r| <= ln(2) / 2. Beyond the clamp float has nothing left to tell.
  Vector t = -m;
  t = t < all(-87.0f) ? all(-87.0f) : t;
  t = t > all(88.0f) ? all(88.0f) : t;
  const Vector to_integer = all(12582912.0f);  // 1.5 * 2^23: the sum has no bits left for a fraction
  const Vector shifted = t * all(1.44269504f) + to_integer;
  const Vector n = shifted - to_integer;
  const Vector r = t - n * all(0.693359375f) - n * all(-2.12194440e-4f);
  Vector series = all(1.9875691500e-4f);
  for (const float coefficient :
       {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f, 1.0f, 1.0f})
    series = series * r + all(coefficient);
  const Mask exponent = ((Mask)shifted - (Mask)to_integer + 127) << 23;
  const Vector e = series * (Vector)exponent;
  const Vector s = all(1.0f) / (all(1.0f) + e);
  value = m < all(-88.0f) ? Vector{} : s;
  slope = value * (s * e);  // s * e = 1 - s, without the cancellation
}

// Eight samples at a time: as many as there are 64-bit integers in the widest registers.
inline constexpr int kSome = 8;
typedef int64_t Longs __attribute__((vector_size(kSome * 8)));
typedef int32_t SomeMask __attribute__((vector_size(kSome * 4)));

// The whole pixel at or before base + offset, and how far behind it that is. Whole pixels are added up as integers, so
// that on large maps, too, the fraction is as exact as the offset.
struct Coordinate {
  Longs low;
  Floats<kSome> fraction;
  DYNDEPLOY_INLINE Coordinate(Floats<kSome> offset, Longs base) {
    Longs whole = __builtin_convertvector(offset, Longs);
    whole += __builtin_convertvector(offset < __builtin_convertvector(whole, Floats<kSome>), Longs);  // a mask is -1
    low = base + whole;
    fraction = offset - __builtin_convertvector(whole, Floats<kSome>);
  }
};

// Samples of offsets y and x to pixels base_h and base_w of a map of H x W.
DYNDEPLOY_INLINE void locate_some(Floats<kSome> y, Floats<kSome> x, Floats<kSome> mask, Floats<kSome> mask_slope,
                                  Longs base_h, Longs base_w, int64_t H, int64_t W, const Place& place, int64_t count,
                                  Sample* samples) {
  using Some = Floats<kSome>;
  constexpr Some kOne = {1, 1, 1, 1, 1, 1, 1, 1};
  // Only an offset that is finite and not huge is converted.
  constexpr float kHuge = 0x1p62f;
  const SomeMask finite = (y > -kHuge) & (y < kHuge) & (x > -kHuge) & (x < kHuge);
  const Coordinate h(finite ? y : Some{}, base_h), v(finite ? x : Some{}, base_w);
  // At -1 itself the value is 0, but its slope is that of the cell to the lower right.
  const Longs inside = (h.low >= -1) & (h.low < H) & (v.low >= -1) & (v.low < W);
  const Longs counts = __builtin_convertvector(finite, Longs) & inside;
  const Longs top = counts ? h.low : Longs{} - 2, left = counts ? v.low : Longs{} - 2;
  const Longs is_up = top >= 0, is_down = (top >= -1) & (top < H - 1);
  const Longs is_left = left >= 0, is_right = (left >= -1) & (left < W - 1);
  const Longs corner = top * place.row_h + left * place.row_w, outside = Longs{} + place.outside;
  const Longs at[4] = {is_up & is_left ? corner : outside, is_up & is_right ? corner + place.row_w : outside,
                       is_down & is_left ? corner + place.row_h : outside,
                       is_down & is_right ? corner + place.row_h + place.row_w : outside};
  const SomeMask counted = __builtin_convertvector(counts, SomeMask);
  const Some dy = counted ? h.fraction : Some{}, dx = counted ? v.fraction : Some{};
  const Some upper = (kOne - dy) * mask, lower = dy * mask;
  // From fields of samples to samples.
  Some floats[kSome] = {upper * (kOne - dx), upper * dx, lower * (kOne - dx), lower * dx, dy, dx, mask, mask_slope};
  exchange_all<kSome / 2, kSome>(floats);
  const Longs even[2] = {__builtin_shufflevector(at[0], at[1], 0, 8, 2, 10, 4, 12, 6, 14),
                         __builtin_shufflevector(at[2], at[3], 0, 8, 2, 10, 4, 12, 6, 14)};
  const Longs odd[2] = {__builtin_shufflevector(at[0], at[1], 1, 9, 3, 11, 5, 13, 7, 15),
                        __builtin_shufflevector(at[2], at[3], 1, 9, 3, 11, 5, 13, 7, 15)};
  const Longs places[4] = {__builtin_shufflevector(even[0], even[1], 0, 1, 8, 9, 2, 3, 10, 11),
                           __builtin_shufflevector(odd[0], odd[1], 0, 1, 8, 9, 2, 3, 10, 11),
                           __builtin_shufflevector(even[0], even[1], 4, 5, 12, 13, 6, 7, 14, 15),
                           __builtin_shufflevector(odd[0], odd[1], 4, 5, 12, 13, 6, 7, 14, 15)};
  const auto put = [&](int k) __attribute__((always_inline)) {
    const auto* from = reinterpret_cast<const char*>(&places[k / 4 * 2 + k % 2]) + k / 2 % 2 * sizeof samples->at;
    std::memcpy(samples[k].at, from, sizeof samples->at);
    std::memcpy(samples[k].weight, &floats[k], sizeof floats[k]);
  };
  if (count >= kSome) {
#pragma GCC unroll 8
    for (int k = 0; k < kSome; ++k) put(k);
  } else {
    for (int k = 0; k < count; ++k) put(k);
  }
}

}  // namespace detail

// Samples of tap `tap` of pixels [begin, begin + count) of sample n, in one offset group.
template <class T>
void locate(const dcnv2::Problem& problem, const Map<const T>& offset_mask, int64_t n, int64_t offset_group,
            int64_t tap, int64_t begin, int64_t count, const Place& place, Sample* samples) {
  const Window& window = problem.window;
  const int64_t down = tap / window.kw * window.dilation_h - window.top;
  const int64_t right = tap % window.kw * window.dilation_w - window.left;
  const int64_t point = offset_group * window.taps() + tap;
  const int64_t mask_channel = 2 * problem.offset_group * window.taps() + point;

  constexpr int64_t kBlock = 64;
  float y[kBlock] = {}, x[kBlock] = {}, mask[kBlock] = {}, slope[kBlock];
  int64_t base_h[kBlock] = {}, base_w[kBlock] = {};
  int64_t i = begin / window.Wo, j = begin % window.Wo;
  for (int64_t block = 0; block < count; block += kBlock, samples += kBlock) {
    const int64_t size = count - block < kBlock ? count - block : kBlock;
    for (int64_t k = 0, run; k < size; k += run) {
      const int64_t first = begin + block + k, h = first / window.Wo, w = first % window.Wo;
      run = offset_mask.run(window.Wo, first, first + size - k);
      const T* from_y = offset_mask.at(n, 2 * point, h, w);
      const T* from_x = offset_mask.at(n, 2 * point + 1, h, w);
      const T* from_mask = offset_mask.at(n, mask_channel, h, w);
      for (int64_t r = 0; r < run; ++r) {
        y[k + r] = to_float(from_y[r * offset_mask.w]);
        x[k + r] = to_float(from_x[r * offset_mask.w]);
        mask[k + r] = to_float(from_mask[r * offset_mask.w]);
      }
    }
    for (int64_t k = 0; k < size; k += kWidth) {
      Vector value = load(mask + k), step = splat(1.0f);
      if (problem.sigmoid) detail::sigmoid(value, value, step);
      store(mask + k, value * splat(problem.mask_scale));
      store(slope + k, step * splat(problem.mask_scale));
    }
    for (int64_t k = 0; k < size; ++k) {
      base_h[k] = i * window.stride_h + down;
      base_w[k] = j * window.stride_w + right;
      if (++j == window.Wo) j = 0, ++i;
    }
    for (int64_t k = 0; k < size; k += detail::kSome) {
      detail::Longs h, w;
      std::memcpy(&h, base_h + k, sizeof h);
      std::memcpy(&w, base_w + k, sizeof w);
      detail::locate_some(load<detail::kSome>(y + k), load<detail::kSome>(x + k), load<detail::kSome>(mask + k),
                          load<detail::kSome>(slope + k), h, w, window.H, window.W, place, size - k, samples + k);
    }
  }
}

// Row r of `to` is what sample r reads of `channels` channels of x, whose places are `pitch` floats apart. Not inlined:
// wherever a value is computed, it is computed by the same instructions.
__attribute__((noinline)) inline void interpolate(const float* x, int64_t pitch, const Sample* samples, int64_t count,
                                                  int64_t channels, float* to, int64_t ld) {
  for (int64_t r = 0; r < count; ++r, to += ld) {
    const Sample& sample = samples[r];
    const float *a = x + sample.at[0] * pitch, *b = x + sample.at[1] * pitch;
    const float *c = x + sample.at[2] * pitch, *d = x + sample.at[3] * pitch;
    const Vector wa = splat(sample.weight[0]), wb = splat(sample.weight[1]);
    const Vector wc = splat(sample.weight[2]), wd = splat(sample.weight[3]);
    int64_t i = 0;
    for (; i + kWidth <= channels; i += kWidth)
      store(to + i, wa * load(a + i) + wb * load(b + i) + wc * load(c + i) + wd * load(d + i));
    for (; i < channels; ++i)
      to[i] = sample.weight[0] * a[i] + sample.weight[1] * b[i] + sample.weight[2] * c[i] + sample.weight[3] * d[i];
  }
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

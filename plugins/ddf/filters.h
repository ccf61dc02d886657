// Filters of a strip of pixels or of some channels, as [taps][ld] floats, and their FilterNorm.
#pragma once

#include <cmath>

#include "common/cpu/layout.h"
#include "ddf/problem.h"

namespace dyndeploy::DYNDEPLOY_ISA {
namespace {

// Added to the standard deviation, as in the official code.
constexpr float kEpsilon = 1e-10f;

DYNDEPLOY_INLINE Vector square_root(Vector v) {
  float x[kWidth];
  store(x, v);
  for (float& element : x) element = std::sqrt(element);
  return load(x);
}

template <class T>
DYNDEPLOY_INLINE void read_floats(const T* from, int64_t count, float* to) {
  cover<kWidth>(0, count, [=](auto lanes, int64_t i) { store<lanes>(to + i, load_as_float<lanes>(from + i)); });
}

// D -> FN(D) * gain, in place, of `count` filters, a multiple of kWidth. With `std`, their standard deviations.
//
// FN starts from the first tap: the mean of equal numbers is not always that number, and the rounding error that is
// left of a constant filter would be blown up to size 1.
inline void normalise(const ddf::Problem& problem, float gain, int64_t count, float* filters, int64_t ld,
                      float* std = nullptr) {
  const int64_t taps = problem.window.taps();
  if (!problem.filter_norm) {
    if (gain != 1)
      for (int64_t t = 0; t < taps; ++t)
        for (int64_t i = 0; i < count; ++i) filters[t * ld + i] *= gain;
    return;
  }
  const float share = 1.0f / static_cast<float>(taps), degrees = 1.0f / static_cast<float>(taps - 1);
  for (int64_t i = 0; i < count; i += kWidth) {
    float* f = filters + i;
    const Vector first = load(f);
    Vector sum{}, squares{};
    for (int64_t t = 1; t < taps; ++t) sum += load(f + t * ld) - first;
    const Vector mean = sum * share;
    for (int64_t t = 0; t < taps; ++t) {
      const Vector centred = (load(f + t * ld) - first) - mean;
      squares += centred * centred;
      store(f + t * ld, centred);
    }
    const Vector deviation = square_root(squares * degrees);
    if (std) store(std + i, deviation);
    const Vector factor = gain / (deviation + kEpsilon);
    for (int64_t t = 0; t < taps; ++t) store(f + t * ld, load(f + t * ld) * factor);
  }
}

// The gradient of D from that of FN(D) * gain, in place, with z = FN(D) and its standard deviations.
//
// With e = kEpsilon: dD = (g - mean(g) - z * (1 + e/std) * sum(g*z)/(K-1)) / (std + e). A constant filter gets
// g - mean(g), as if its std were 1: its slope is 1e10 in theory, and would throw a training off its course.
inline void normalise_gradient(const ddf::Problem& problem, float gain, int64_t count, float* gradient, int64_t ld,
                               const float* z, int64_t z_ld, const float* std) {
  const int64_t taps = problem.window.taps();
  if (!problem.filter_norm) {
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t i = 0; i < count; ++i) gradient[t * ld + i] *= gain;
    return;
  }
  const float share = 1.0f / static_cast<float>(taps), degrees = 1.0f / static_cast<float>(taps - 1);
  const Vector one = splat(1);
  for (int64_t i = 0; i < count; i += kWidth) {
    Vector sum{}, along{};
    for (int64_t t = 0; t < taps; ++t) {
      const Vector g = load(gradient + t * ld + i) * gain;
      sum += g;
      along += g * load(z + t * z_ld + i);
      store(gradient + t * ld + i, g);
    }
    const Vector deviation = load(std + i), spread = deviation > Vector{} ? deviation : one;
    const Vector mean = sum * share, slope = along * degrees * (1 + kEpsilon / spread);
    const Vector factor = 1 / (spread + kEpsilon);
    for (int64_t t = 0; t < taps; ++t) {
      const Vector g = load(gradient + t * ld + i);
      store(gradient + t * ld + i, (g - mean - load(z + t * z_ld + i) * slope) * factor);
    }
  }
}

// Spatial filters `first` … `first + taps - 1` of `count` pixels of a row from (h, w) on, as [taps][ld].
template <class T>
void read_spatial(const Map<const T>& map, int64_t n, int64_t first, int64_t taps, int64_t h, int64_t w, int64_t count,
                  float* to, int64_t ld) {
  const T* from = map.at(n, first, h, w);
  if (map.w == 1) {
    for (int64_t t = 0; t < taps; ++t) read_floats(from + t * map.c, count, to + t * ld);
    return;
  }
  if constexpr (sizeof(T) == sizeof(float)) {
    if (map.c == 1) return transpose(count, taps, from, map.w, to, ld);
  }
  for (int64_t i = 0; i < count; ++i)
    for (int64_t t = 0; t < taps; ++t) to[t * ld + i] = to_float(from[i * map.w + t * map.c]);
}

// The inverse.
template <class T>
void write_spatial(const float* from, int64_t ld, int64_t taps, int64_t count, const Map<T>& map, int64_t n,
                   int64_t first, int64_t h, int64_t w) {
  T* to = map.at(n, first, h, w);
  if constexpr (sizeof(T) == sizeof(float)) {
    if (map.c == 1 && map.w != 1) return transpose(taps, count, from, ld, to, map.w);
  }
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t i = 0; i < count; ++i) to[t * map.c + i * map.w] = from_float<T>(from[t * ld + i]);
}

// Numbers of channels [begin, end) that lie as [channel][tap], `stride` apart from each other, as [taps][ld].
template <class T>
void read_per_channel(const T* from, int64_t stride, int64_t taps, int64_t begin, int64_t end, float* to, int64_t ld) {
  from += begin * taps * stride;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (stride == 1) return transpose(end - begin, taps, from, taps, to, ld);
  }
  for (int64_t c = 0; c < end - begin; ++c)
    for (int64_t t = 0; t < taps; ++t) to[t * ld + c] = to_float(from[(c * taps + t) * stride]);
}

template <class T>
void write_per_channel(const float* from, int64_t ld, int64_t taps, int64_t begin, int64_t end, T* to, int64_t stride) {
  for (int64_t c = begin; c < end; ++c)
    for (int64_t t = 0; t < taps; ++t) to[(c * taps + t) * stride] = from_float<T>(from[t * ld + c - begin]);
}

}  // namespace
}  // namespace dyndeploy::DYNDEPLOY_ISA

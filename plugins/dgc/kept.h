// Which channels a head keeps, and their copies: on CPUs.
#pragma once

#include <cstring>

#include "common/cpu/layout.h"
#include "dgc/problem.h"

namespace dyndeploy::DYNDEPLOY_ISA {

// Of a sample's head: the channels that are kept, in their order, and what they are multiplied by.
struct Kept {
  int64_t count;
  const int32_t* channels;
  const float* gates;
  // Those from `first` on, at most `most`.
  Kept part(int64_t first, int64_t most) const {
    return {count - first < most ? count - first : most, channels + first, gates + first};
  }
};

namespace detail {

// A number that orders as floats do, with NaN above all, as torch.kthvalue has it.
inline int32_t key_of(float v) {
  int32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return v != v ? INT32_MAX : bits ^ ((bits >> 31) & INT32_MAX);
}

inline float number_of(int32_t key) {
  const int32_t bits = key ^ ((key >> 31) & INT32_MAX);
  float v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// The rank-th smallest key, from 1. Its bits are found one after the other, from the highest: 32 rounds of counting,
// which vectorise, and take the same time for all data.
inline int32_t smallest(const int32_t* keys, int64_t count, int64_t rank) {
  uint32_t found = uint32_t{1} << 31;  // the lowest int32_t
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t candidate = found + (uint32_t{1} << bit);
    const auto limit = static_cast<int32_t>(candidate);
    int64_t below = 0;
    for (int64_t i = 0; i < count; ++i) below += keys[i] < limit;
    if (below < rank) found = candidate;
  }
  return static_cast<int32_t>(found);
}

}  // namespace detail

// What the head keeps whose saliencies these are: how many channels, and which with which gates, in memory for C of each.
template <class T>
int64_t choose(const dgc::Problem& problem, const T* saliency, int64_t stride, int32_t* channels, float* gates) {
  const int64_t C = problem.C;
  for (int64_t c = 0; c < C; ++c) gates[c] = to_float(saliency[c * stride]);
  float limit = problem.threshold;
  if (problem.inactive > 0) {
    // The keys stand where the channels will.
    for (int64_t c = 0; c < C; ++c) channels[c] = detail::key_of(gates[c]);
    limit = detail::number_of(detail::smallest(channels, C, problem.inactive));
  }
  int64_t count = 0;
  for (int64_t c = 0; c < C; ++c) {
    const float gate = gates[c];
    channels[count] = static_cast<int32_t>(c);
    gates[count] = gate;
    count += problem.inactive == 0 || !(gate <= limit);
  }
  return count;
}

namespace detail {

template <int Pixels, bool Gated, class T>
void compress_block(const T* from, int64_t c, int64_t step, const Kept& k, float* to, int64_t ld) {
  int64_t i = 0;
  for (; i + 4 <= k.count; i += 4) {
    const T* x[] = {from + k.channels[i] * c, from + k.channels[i + 1] * c, from + k.channels[i + 2] * c,
                    from + k.channels[i + 3] * c};
    const auto gates = Gated ? load<4>(k.gates + i) : Floats<4>{};
    for (int p = 0; p < Pixels; ++p) {
      const int64_t at = p * step;
      const Floats<4> four{to_float(x[0][at]), to_float(x[1][at]), to_float(x[2][at]), to_float(x[3][at])};
      store<4>(to + p * ld + i, Gated ? four * gates : four);
    }
  }
  for (; i < k.count; ++i) {
    const T* x = from + k.channels[i] * c;
    for (int p = 0; p < Pixels; ++p) to[p * ld + i] = Gated ? to_float(x[p * step]) * k.gates[i] : to_float(x[p * step]);
  }
}

}  // namespace detail

// Kept channels, which lie `c` elements apart, of pixels that lie `step` apart, side by side as [pixel][ld], times their
// gates if `Gated`. Blocks of pixels share the look at channels and gates; their size keeps the lines that a block reads in
// the first cache until it has read all of them.
template <bool Gated, class T>
void compress_pixels(const T* from, int64_t c, int64_t step, int64_t pixels, const Kept& k, float* to, int64_t ld) {
  using detail::compress_block;
  int64_t p = 0;
  if (c != 1)
    for (; p + 16 <= pixels; p += 16) compress_block<16, Gated>(from + p * step, c, step, k, to + p * ld, ld);
  for (; p + 4 <= pixels; p += 4) compress_block<4, Gated>(from + p * step, c, step, k, to + p * ld, ld);
  for (; p < pixels; ++p) compress_block<1, Gated>(from + p * step, c, step, k, to + p * ld, ld);
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

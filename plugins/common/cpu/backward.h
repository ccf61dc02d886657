// What gradients of convolutions on CPUs do alike: blocks of the gradient's transpose, and the gradient of B.
#pragma once

#include <algorithm>

#include "common/api.h"
#include "common/cpu/simd.h"

namespace dyndeploy::DYNDEPLOY_ISA {

// Pixels of Y of a block of the gradient's transpose, and the distance of its rows: not a power of two, as lines that
// far apart would evict each other.
inline constexpr int64_t kBlock = 256;
inline constexpr int64_t kGap = 16;
inline constexpr int64_t kBlockRow = kBlock + kGap;

// The gradient of B: sums over the pixels of a piece of the gradient of Y, then over the pieces.
class BiasSums {
 public:
  BiasSums() = default;
  BiasSums(float* sums, int64_t outputs) : sums_(sums), outputs_(outputs) {}

  static int64_t floats(int64_t outputs, int64_t pieces) { return (1 + pieces) * outputs; }

  void clear() const { std::fill_n(sums_, outputs_, 0.0f); }
  void clear(int64_t piece) const { std::fill_n(of(piece), outputs_, 0.0f); }
  // Pixels of a piece: rows of all outputs.
  DYNDEPLOY_INLINE void add(int64_t piece, const float* rows, int64_t pixels) const {
    float* sums = of(piece);
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t o = 0; o < outputs_; ++o) sums[o] += rows[p * outputs_ + o];
  }
  void add_pieces(int64_t count) const {
    for (int64_t piece = 0; piece < count; ++piece)
      for (int64_t o = 0; o < outputs_; ++o) sums_[o] += of(piece)[o];
  }
  // Output o is at(o) in the rows.
  template <class T, class At>
  void write(const dyndeploy_tensor& to, At at) const {
    for (int64_t o = 0; o < outputs_; ++o) static_cast<T*>(to.data)[o * to.strides[0]] = from_float<T>(sums_[at(o)]);
  }

 private:
  float* of(int64_t piece) const { return sums_ + (1 + piece) * outputs_; }

  float* sums_ = nullptr;  // [outputs], then [piece][outputs]
  int64_t outputs_ = 0;
};

}  // namespace dyndeploy::DYNDEPLOY_ISA

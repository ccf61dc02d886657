// Numbers of the references: in double, and with the error that the same formula may have in float.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

namespace dyndeploy::test {

// Twice what one rounding to float does, since the kernels' formula may be another one with the same value.
inline constexpr double kRounding = 0x1p-23;

// A value, and how far a computation in float may be off.
struct Real {
  double v = 0, e = 0;
};

inline Real rounded(double v, double e) { return {v, e + kRounding * std::fabs(v)}; }

inline Real operator+(Real a, Real b) { return rounded(a.v + b.v, a.e + b.e); }
inline Real operator-(Real a, Real b) { return rounded(a.v - b.v, a.e + b.e); }
inline Real operator*(Real a, Real b) {
  return rounded(a.v * b.v, std::fabs(a.v) * b.e + a.e * std::fabs(b.v) + a.e * b.e);
}
inline Real operator/(Real a, Real b) {
  const double quotient = a.v / b.v;
  return rounded(quotient, (a.e + std::fabs(quotient) * b.e) / (std::fabs(b.v) - b.e));
}
inline Real root(Real a) {
  const double v = std::sqrt(a.v);
  return rounded(v, a.e == 0 ? 0 : std::min(a.e / v, std::sqrt(a.e)));
}
inline Real relu(Real a) { return {a.v < 0 ? 0 : a.v, a.e}; }

// e^-x is computed by reduction, which costs roundings of x, and a polynomial; about 2^-126 float ends.
inline Real sigmoid(Real x) {
  const double v = 1 / (1 + std::exp(-x.v)), size = std::isfinite(x.v) ? std::fabs(x.v) : 0;
  return {v, v * (8 + size) * kRounding + 0x1p-124};
}

// What a factor is rounded to before it is multiplied: tensor cores take no floats. Relative to the number, and, below the
// normal numbers, in all.
struct Rounding {
  double unit = 0, smallest = 0;
  Real operator()(Real a) const {
    return unit == 0 ? a : Real{a.v, a.e + unit * (std::fabs(a.v) + a.e) + smallest};
  }
};

// A sum in any order.
class Sum {
 public:
  void add(Real x) {
    v_ += x.v;
    e_ += x.e;
    size_ += std::fabs(x.v);
    ++count_;
  }
  operator Real() const { return {v_, e_ + count_ * kRounding * size_}; }

 private:
  double v_ = 0, e_ = 0, size_ = 0, count_ = 0;
};

// A dense array of up to four dims.
template <class T>
class Array {
 public:
  explicit Array(std::vector<int64_t> extents) : extents_(std::move(extents)) {
    int64_t count = 1;
    for (const int64_t extent : extents_) count *= extent;
    data_.resize(static_cast<size_t>(count));
  }
  const std::vector<int64_t>& extents() const { return extents_; }
  template <class... I>
  T& operator()(I... index) {
    return data_[offset(index...)];
  }
  template <class... I>
  const T& operator()(I... index) const {
    return data_[offset(index...)];
  }
  T& flat(int64_t i) { return data_[static_cast<size_t>(i)]; }
  const T& flat(int64_t i) const { return data_[static_cast<size_t>(i)]; }
  int64_t count() const { return static_cast<int64_t>(data_.size()); }

 private:
  template <class... I>
  size_t offset(I... index) const {
    int64_t sum = 0;
    size_t axis = 0;
    ((sum = sum * extents_[axis++] + index), ...);
    return static_cast<size_t>(sum);
  }

  std::vector<int64_t> extents_;
  std::vector<T> data_;
};

using Reals = Array<Real>;
using Doubles = Array<double>;

// Ho and Wo of a window along one axis.
inline int64_t output_size(int64_t size, int64_t before, int64_t after, int64_t kernel, int64_t dilation, int64_t stride) {
  return (size + before + after - (dilation * (kernel - 1) + 1)) / stride + 1;
}

}  // namespace dyndeploy::test

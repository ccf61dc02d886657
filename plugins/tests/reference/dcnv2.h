// dcnv2/kernels.h in double, in plain loops.
#pragma once

#include "dcnv2/kernels.h"
#include "real.h"

namespace dyndeploy::test {

// inputs: X, offset_mask, W, B; their extents are right. `of_sample`, `of_weight`: what the factors of products are rounded to,
// the gradient of Y as W.
class Dcnv2Reference {
 public:
  Dcnv2Reference(const dyndeploy_dcnv2& attributes, const std::vector<Doubles>& inputs, Rounding of_sample = {},
                 Rounding of_weight = {})
      : a(attributes),
        X(inputs[0]),
        offset_mask(inputs[1]),
        W(inputs[2]),
        B(inputs[3]),
        of_sample_(of_sample),
        of_weight_(of_weight) {
    for (int64_t i = 0; i < X.count(); ++i)
      if (std::isfinite(X.flat(i))) largest_ = std::max(largest_, std::fabs(X.flat(i)));
  }

  std::vector<int64_t> extents() const { return {N, O, Ho, Wo}; }

  Reals forward() const {
    Reals Y(extents());
    const Reals columns = all_columns();
    for (int64_t n = 0; n < N; ++n)
      for (int64_t o = 0; o < O; ++o)
        for (int64_t i = 0; i < Ho; ++i)
          for (int64_t j = 0; j < Wo; ++j) {
            Sum sum;
            sum.add({B(o)});
            for (int64_t c = 0; c < width; ++c)
              for (int64_t t = 0; t < K; ++t)
                sum.add(of_weight_(Real{W(o, c, t / kw, t % kw)}) * columns(n, (o / outputs * width + c) * K + t, i, j));
            Y(n, o, i, j) = a.relu ? relu(sum) : sum;
          }
    return Y;
  }

  // Gradients of the inputs.
  std::vector<Reals> backward(const Doubles& gradient) const {
    Array<Sum> dX(X.extents()), dOffsetMask(offset_mask.extents()), dW(W.extents()), dB(B.extents());
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < Ho; ++i)
        for (int64_t j = 0; j < Wo; ++j) {
          for (int64_t o = 0; o < O; ++o) dB(o).add({gradient(n, o, i, j)});
          for (int64_t c = 0; c < C; ++c)
            for (int64_t t = 0; t < K; ++t) {
              const int64_t group = c / width, g = c / (C / a.offset_group);
              const Point p = point(n, g, t, i, j);
              const Real sample = interpolate(n, c, p), m = mask(n, g, t, i, j);
              Sum column;
              for (int64_t o = group * outputs; o < (group + 1) * outputs; ++o) {
                const Real of_y = of_weight_(Real{gradient(n, o, i, j)});
                column.add(of_y * of_weight_(Real{W(o, c % width, t / kw, t % kw)}));
                dW(o, c % width, t / kw, t % kw).add(of_y * of_sample_(sample * m));
              }
              for (int corner = 0; corner < 4; ++corner)
                if (p.exists[corner])
                  dX(n, c, p.h + corner / 2, p.v + corner % 2).add(Real(column) * m * p.weight[corner]);
              dOffsetMask(n, 2 * (g * K + t), i, j).add(Real(column) * m * slope(n, c, p, p.dx, 2, 1));
              dOffsetMask(n, 2 * (g * K + t) + 1, i, j).add(Real(column) * m * slope(n, c, p, p.dy, 1, 2));
              dOffsetMask(n, 2 * a.offset_group * K + g * K + t, i, j)
                  .add(Real(column) * sample * mask_slope(n, g, t, i, j));
            }
        }
    std::vector<Reals> gradients;
    for (const Array<Sum>* sums : {&dX, &dOffsetMask, &dW, &dB}) {
      gradients.emplace_back(sums->extents());
      for (int64_t i = 0; i < sums->count(); ++i) gradients.back().flat(i) = sums->flat(i);
    }
    return gradients;
  }

 private:
  // The four pixels around a sampling point: (h, v), (h, v + 1), (h + 1, v), (h + 1, v + 1).
  struct Point {
    int64_t h = 0, v = 0;
    bool exists[4] = {};
    Real dy, dx;
    Real weight[4];
    double error = 0;  // of the coordinates, in pixels
  };

  Real offset(int64_t n, int64_t g, int64_t t, int64_t axis, int64_t i, int64_t j) const {
    return {offset_mask(n, 2 * (g * K + t) + axis, i, j)};
  }
  Real mask_logit(int64_t n, int64_t g, int64_t t, int64_t i, int64_t j) const {
    return {offset_mask(n, 2 * a.offset_group * K + g * K + t, i, j)};
  }
  Real mask(int64_t n, int64_t g, int64_t t, int64_t i, int64_t j) const {
    const Real m = mask_logit(n, g, t, i, j);
    return Real{a.mask_scale} * (a.sigmoid ? sigmoid(m) : m);
  }
  Real mask_slope(int64_t n, int64_t g, int64_t t, int64_t i, int64_t j) const {
    if (!a.sigmoid) return {a.mask_scale};
    const Real s = sigmoid(mask_logit(n, g, t, i, j));
    return Real{a.mask_scale} * s * (Real{1} - s);
  }

  Point point(int64_t n, int64_t g, int64_t t, int64_t i, int64_t j) const {
    const double base_h = static_cast<double>(i * a.strides[0] - a.pads[0] + t / kw * a.dilations[0]);
    const double base_v = static_cast<double>(j * a.strides[1] - a.pads[1] + t % kw * a.dilations[1]);
    const double offset_h = offset(n, g, t, 0, i, j).v, offset_v = offset(n, g, t, 1, i, j).v;
    const double h = base_h + offset_h, v = base_v + offset_v;
    Point p;
    // Not a number, or so far away that it is no int64.
    if (!(h >= -1 && h < H && v >= -1 && v < Wd)) return p;
    p.h = static_cast<int64_t>(std::floor(h));
    p.v = static_cast<int64_t>(std::floor(v));
    // A sum that float holds exactly is exact, in whatever order.
    const double error_h = exact(base_h, offset_h) ? 0 : kRounding * (std::fabs(base_h) + std::fabs(offset_h));
    const double error_v = exact(base_v, offset_v) ? 0 : kRounding * (std::fabs(base_v) + std::fabs(offset_v));
    p.error = error_h + error_v;
    p.dy = {h - std::floor(h), error_h};
    p.dx = {v - std::floor(v), error_v};
    const Real one{1};
    p.weight[0] = (one - p.dy) * (one - p.dx);
    p.weight[1] = (one - p.dy) * p.dx;
    p.weight[2] = p.dy * (one - p.dx);
    p.weight[3] = p.dy * p.dx;
    for (int corner = 0; corner < 4; ++corner) {
      const int64_t row = p.h + corner / 2, column = p.v + corner % 2;
      p.exists[corner] = row >= 0 && row < H && column >= 0 && column < Wd;
    }
    return p;
  }
  // Both are multiples of 1/64 and small.
  static bool exact(double base, double offset) {
    return std::fabs(base) + std::fabs(offset) < 0x1p16 && offset * 64 == std::floor(offset * 64);
  }

  Real pixel(int64_t n, int64_t c, const Point& p, int corner) const {
    return {p.exists[corner] ? X(n, c, p.h + corner / 2, p.v + corner % 2) : 0};
  }

  Real interpolate(int64_t n, int64_t c, const Point& p) const {
    Sum sum;
    for (int corner = 0; corner < 4; ++corner)
      if (p.exists[corner]) sum.add(p.weight[corner] * pixel(n, c, p, corner));
    Real sample = sum;
    sample.e += of_differences(n, c, p);
    // Next to a border of two cells the kernel may interpolate in the other one: the surface has no steps, but its
    // slope is another.
    sample.e += 2 * largest_ * p.error;
    return sample;
  }

  // Along the axis whose neighbours are `step` corners apart; `across` lies at `fraction` of the other axis.
  Real slope(int64_t n, int64_t c, const Point& p, Real fraction, int step, int across) const {
    const Real near = pixel(n, c, p, step) - pixel(n, c, p, 0);
    const Real far = pixel(n, c, p, step + across) - pixel(n, c, p, across);
    Real slope = (Real{1} - fraction) * near + fraction * far;
    slope.e += of_differences(n, c, p);
    return slope;
  }

  // Interpolated may be weighted neighbours, or one of them and differences of all: then the error does not become
  // small with a weight.
  double of_differences(int64_t n, int64_t c, const Point& p) const {
    double size = 0;
    for (int corner = 0; corner < 4; ++corner) size += std::fabs(pixel(n, c, p, corner).v);
    return 4 * kRounding * size;
  }

  Reals all_columns() const {
    Reals columns({N, C * K, Ho, Wo});
    for (int64_t n = 0; n < N; ++n)
      for (int64_t g = 0; g < a.offset_group; ++g)
        for (int64_t t = 0; t < K; ++t)
          for (int64_t i = 0; i < Ho; ++i)
            for (int64_t j = 0; j < Wo; ++j) {
              const Point p = point(n, g, t, i, j);
              const Real m = mask(n, g, t, i, j);
              for (int64_t c = g * (C / a.offset_group); c < (g + 1) * (C / a.offset_group); ++c)
                columns(n, c * K + t, i, j) = of_sample_(interpolate(n, c, p) * m);
            }
    return columns;
  }

  dyndeploy_dcnv2 a;
  const Doubles &X, &offset_mask, &W, &B;
  Rounding of_sample_, of_weight_;
  double largest_ = 0;
  const int64_t N = X.extents()[0], C = X.extents()[1], H = X.extents()[2], Wd = X.extents()[3];
  const int64_t O = W.extents()[0], width = W.extents()[1], kh = W.extents()[2], kw = W.extents()[3], K = kh * kw;
  const int64_t outputs = O / a.group;  // of one group
  const int64_t Ho = output_size(H, a.pads[0], a.pads[2], kh, a.dilations[0], a.strides[0]);
  const int64_t Wo = output_size(Wd, a.pads[1], a.pads[3], kw, a.dilations[1], a.strides[1]);
};

}  // namespace dyndeploy::test

// drconv/kernels.h in double, in plain loops.
#pragma once

#include "drconv/kernels.h"
#include "real.h"

namespace dyndeploy::test {

// inputs: X, filters, guide, B; their extents are right. X and filters are rounded before they are multiplied.
class DrconvReference {
 public:
  DrconvReference(const dyndeploy_drconv& attributes, const std::vector<Doubles>& inputs, Rounding of_factors = {})
      : a(attributes), X(inputs[0]), filters(inputs[1]), guide(inputs[2]), B(inputs[3]), of_factors_(of_factors) {}

  std::vector<int64_t> extents() const { return {N, O, Ho, Wo}; }

  Reals forward() const {
    Reals Y(extents());
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < Ho; ++i)
        for (int64_t j = 0; j < Wo; ++j) {
          const int64_t region = chosen(n, i, j);
          for (int64_t o = 0; o < O; ++o) {
            Sum sum;
            sum.add({B(o)});
            for (int64_t c = 0; c < C; ++c)
              for (int64_t t = 0; t < kh * kw; ++t) {
                const int64_t h = i * a.strides[0] - a.pads[0] + t / kw * a.dilations[0];
                const int64_t v = j * a.strides[1] - a.pads[1] + t % kw * a.dilations[1];
                if (h >= 0 && h < H && v >= 0 && v < W)
                  sum.add(of_factors_(Real{filters(n, region * O + o, c * kh * kw + t)}) *
                          of_factors_(Real{X(n, c, h, v)}));
              }
            Y(n, o, i, j) = a.relu ? relu(sum) : sum;
          }
        }
    return Y;
  }

 private:
  // The first of the largest; the first NaN is larger than all numbers.
  int64_t chosen(int64_t n, int64_t i, int64_t j) const {
    int64_t best = 0;
    for (int64_t t = 0; t < a.regions; ++t) {
      if (std::isnan(guide(n, t, i, j))) return t;
      if (guide(n, t, i, j) > guide(n, best, i, j)) best = t;
    }
    return best;
  }

  dyndeploy_drconv a;
  const Doubles &X, &filters, &guide, &B;
  Rounding of_factors_;
  const int64_t N = X.extents()[0], C = X.extents()[1], H = X.extents()[2], W = X.extents()[3], O = B.extents()[0];
  const int64_t kh = a.kernel_shape[0], kw = a.kernel_shape[1];
  const int64_t Ho = output_size(H, a.pads[0], a.pads[2], kh, a.dilations[0], a.strides[0]);
  const int64_t Wo = output_size(W, a.pads[1], a.pads[3], kw, a.dilations[1], a.strides[1]);
};

}  // namespace dyndeploy::test

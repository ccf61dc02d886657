// drconv/kernels.h with mixed filters in double, in plain loops.
#pragma once

#include "drconv/kernels.h"
#include "real.h"

namespace dyndeploy::test {

// inputs: X, share, banks, guide, B; their extents are right. What a kernel makes before it multiplies, a mixed filter or share
// times a number of X, is rounded as `of_made` says, and what it reads, as `of_read`.
class DrconvMixReference {
 public:
  DrconvMixReference(const dyndeploy_drconv& attributes, const std::vector<Doubles>& inputs, Rounding of_made = {},
                     Rounding of_read = {})
      : a(attributes),
        X(inputs[0]),
        share(inputs[1]),
        banks(inputs[2]),
        guide(inputs[3]),
        B(inputs[4]),
        of_made_(of_made),
        of_read_(of_read) {}

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
                  for (int64_t base = 0; base < bases; ++base)
                    sum.add(product(share(n, region, base), banks(base * O + o, c * kh * kw + t), X(n, c, h, v)));
              }
            Y(n, o, i, j) = a.relu ? relu(sum) : sum;
          }
        }
    return Y;
  }

 private:
  // One of the bases' part. Whichever two of the factors are made one of, the error is not larger than this.
  Real product(double share, double bank, double x) const {
    Real result = of_made_(Real{share} * of_read_(Real{x})) * of_read_(Real{bank});
    result.e += of_made_.smallest * std::fabs(x);
    return result;
  }

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
  const Doubles &X, &share, &banks, &guide, &B;
  Rounding of_made_, of_read_;
  const int64_t N = X.extents()[0], C = X.extents()[1], H = X.extents()[2], W = X.extents()[3], O = B.extents()[0];
  const int64_t bases = share.extents()[2];
  const int64_t kh = a.kernel_shape[0], kw = a.kernel_shape[1];
  const int64_t Ho = output_size(H, a.pads[0], a.pads[2], kh, a.dilations[0], a.strides[0]);
  const int64_t Wo = output_size(W, a.pads[1], a.pads[3], kw, a.dilations[1], a.strides[1]);
};

}  // namespace dyndeploy::test

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
    for_each_pixel([&](int64_t n, int64_t i, int64_t j) {
      for (int64_t o = 0; o < O; ++o) {
        Sum sum = response(n, chosen(n, i, j), o, i, j);
        sum.add({B(o)});
        Y(n, o, i, j) = a.relu ? relu(sum) : sum;
      }
    });
    return Y;
  }

  // What the guide's gradient is that of: the regions' responses, weighted by the softmax of the logits.
  Reals soft_forward() const {
    Reals Y(extents());
    for_each_pixel([&](int64_t n, int64_t i, int64_t j) {
      const std::vector<Real> share = shares(n, i, j);
      for (int64_t o = 0; o < O; ++o) {
        Sum sum;
        sum.add({B(o)});
        for (int64_t t = 0; t < a.regions; ++t) sum.add(share[static_cast<size_t>(t)] * Real(response(n, t, o, i, j)));
        Y(n, o, i, j) = sum;
      }
    });
    return Y;
  }

  // Gradients of the inputs. Factors of products are rounded.
  std::vector<Reals> backward(const Doubles& gradient) const {
    Array<Sum> dX(X.extents()), dFilters(filters.extents()), dB(B.extents());
    Reals dGuide(guide.extents());
    for_each_pixel([&](int64_t n, int64_t i, int64_t j) {
      const int64_t region = chosen(n, i, j);
      for (int64_t o = 0; o < O; ++o) dB(o).add({gradient(n, o, i, j)});
      for_window(i, j, [&](int64_t t, int64_t h, int64_t v) {
        for (int64_t c = 0; c < C; ++c) {
          Sum column;
          for (int64_t o = 0; o < O; ++o) {
            const Real of_y = of_factors_(Real{gradient(n, o, i, j)});
            const int64_t row = region * O + o, d = c * kh * kw + t;
            column.add(of_y * of_factors_(Real{filters(n, row, d)}));
            dFilters(n, row, d).add(of_y * of_factors_(Real{X(n, c, h, v)}));
          }
          dX(n, c, h, v).add(column);
        }
      });
      const std::vector<Real> share = shares(n, i, j);
      std::vector<Real> g;
      Sum mean;
      for (int64_t t = 0; t < a.regions; ++t) {
        Sum sum;
        for (int64_t o = 0; o < O; ++o)
          sum.add(of_factors_(Real{gradient(n, o, i, j)}) * Real(response(n, t, o, i, j)));
        g.push_back(sum);
        // Kernels may sum over the outputs first: then the errors are those of other sums, of the same products.
        g.back().e += sum_of_sizes(n, t, i, j, gradient) * kRounding;
        mean.add(share[static_cast<size_t>(t)] * g.back());
      }
      for (int64_t t = 0; t < a.regions; ++t)
        dGuide(n, t, i, j) = share[static_cast<size_t>(t)] * (g[static_cast<size_t>(t)] - Real(mean));
    });
    std::vector<Reals> gradients;
    const auto add = [&](const Array<Sum>& sums) {
      gradients.emplace_back(sums.extents());
      for (int64_t i = 0; i < sums.count(); ++i) gradients.back().flat(i) = sums.flat(i);
    };
    add(dX);
    add(dFilters);
    gradients.push_back(dGuide);
    add(dB);
    return gradients;
  }

 private:
  template <class Call>
  void for_each_pixel(Call call) const {
    for (int64_t n = 0; n < N; ++n)
      for (int64_t i = 0; i < Ho; ++i)
        for (int64_t j = 0; j < Wo; ++j) call(n, i, j);
  }

  // call(tap, h, v) for those in X.
  template <class Call>
  void for_window(int64_t i, int64_t j, Call call) const {
    for (int64_t t = 0; t < kh * kw; ++t) {
      const int64_t h = i * a.strides[0] - a.pads[0] + t / kw * a.dilations[0];
      const int64_t v = j * a.strides[1] - a.pads[1] + t % kw * a.dilations[1];
      if (h >= 0 && h < H && v >= 0 && v < W) call(t, h, v);
    }
  }

  Sum response(int64_t n, int64_t region, int64_t o, int64_t i, int64_t j) const {
    Sum sum;
    for_window(i, j, [&](int64_t t, int64_t h, int64_t v) {
      for (int64_t c = 0; c < C; ++c)
        sum.add(of_factors_(Real{filters(n, region * O + o, c * kh * kw + t)}) * of_factors_(Real{X(n, c, h, v)}));
    });
    return sum;
  }

  // Of all that g is a sum of, in size: products of three, as many times as they are terms of the two sums.
  double sum_of_sizes(int64_t n, int64_t region, int64_t i, int64_t j, const Doubles& gradient) const {
    double size = 0;
    for_window(i, j, [&](int64_t t, int64_t h, int64_t v) {
      for (int64_t c = 0; c < C; ++c)
        for (int64_t o = 0; o < O; ++o)
          size += std::fabs(gradient(n, o, i, j) * filters(n, region * O + o, c * kh * kw + t) * X(n, c, h, v));
    });
    return size * static_cast<double>(O + C * kh * kw);
  }

  // The softmax of a pixel's logits, as float computes it.
  std::vector<Real> shares(int64_t n, int64_t i, int64_t j) const {
    double most = -HUGE_VAL;
    for (int64_t t = 0; t < a.regions; ++t) most = std::max(most, guide(n, t, i, j));
    std::vector<Real> shares;
    Sum all;
    for (int64_t t = 0; t < a.regions; ++t) {
      const double x = guide(n, t, i, j) - most, v = std::exp(x), size = std::isfinite(x) ? std::fabs(x) : 0;
      shares.push_back({v, v * (8 + size) * kRounding + 0x1p-124});
      all.add(shares.back());
    }
    for (Real& share : shares) share = share / Real(all);
    return shares;
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
  const Doubles &X, &filters, &guide, &B;
  Rounding of_factors_;
  const int64_t N = X.extents()[0], C = X.extents()[1], H = X.extents()[2], W = X.extents()[3], O = B.extents()[0];
  const int64_t kh = a.kernel_shape[0], kw = a.kernel_shape[1];
  const int64_t Ho = output_size(H, a.pads[0], a.pads[2], kh, a.dilations[0], a.strides[0]);
  const int64_t Wo = output_size(W, a.pads[1], a.pads[3], kw, a.dilations[1], a.strides[1]);
};

}  // namespace dyndeploy::test

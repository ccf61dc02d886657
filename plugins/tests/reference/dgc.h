// dgc/kernels.h in double, in plain loops.
#pragma once

#include "dgc/kernels.h"
#include "real.h"

namespace dyndeploy::test {

// inputs: X, saliency, W, B; their extents are right. Gated channels, and the other factors, are rounded before they are
// multiplied.
class DgcReference {
 public:
  DgcReference(const dyndeploy_dgc& attributes, const std::vector<Doubles>& inputs, Rounding of_gated = {},
               Rounding of_weight = {})
      : a(attributes),
        X(inputs[0]),
        saliency(inputs[1]),
        W(inputs[2]),
        B(inputs[3]),
        of_gated_(of_gated),
        of_weight_(of_weight) {}

  std::vector<int64_t> extents() const { return {N, O, Ho, Wo}; }

  // Whether head h of sample n reads channel c.
  bool kept(int64_t n, int64_t h, int64_t c) const {
    if (a.inactive == 0) return true;
    double limit = a.threshold;
    if (a.inactive > 0) {
      std::vector<double> sorted;
      for (int64_t other = 0; other < C; ++other) sorted.push_back(saliency(n, h * C + other));
      // A NaN is larger than all numbers.
      std::sort(sorted.begin(), sorted.end(), [](double s, double t) { return s < t || (std::isnan(t) && !std::isnan(s)); });
      limit = sorted[static_cast<size_t>(a.inactive - 1)];
    }
    return !(saliency(n, h * C + c) <= limit);
  }

  Reals forward() const {
    Reals Y(extents());
    for (int64_t n = 0; n < N; ++n)
      for (int64_t h = 0; h < a.heads; ++h) {
        std::vector<int64_t> channels;
        for (int64_t c = 0; c < C; ++c)
          if (kept(n, h, c)) channels.push_back(c);
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t i = 0; i < Ho; ++i)
            for (int64_t j = 0; j < Wo; ++j) {
              Real& y = Y(n, a.shuffle ? r * a.heads + h : h * rows + r, i, j);
              y = output(n, h, h * rows + r, i, j, channels);
              if (a.relu) y = relu(y);
            }
      }
    return Y;
  }

  // Gradients of the inputs.
  std::vector<Reals> backward(const Doubles& gradient) const {
    Array<Sum> dX(X.extents()), dSaliency(saliency.extents()), dW(W.extents()), dB(B.extents());
    for (int64_t n = 0; n < N; ++n)
      for (int64_t h = 0; h < a.heads; ++h) {
        const auto of_y = [&](int64_t r, int64_t i, int64_t j) {
          return Real{gradient(n, a.shuffle ? r * a.heads + h : h * rows + r, i, j)};
        };
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t i = 0; i < Ho; ++i)
            for (int64_t j = 0; j < Wo; ++j) dB(h * rows + r).add(of_y(r, i, j));
        for (int64_t c = 0; c < C; ++c) {
          if (!kept(n, h, c)) continue;
          const Real gate{saliency(n, h * C + c)};
          Array<Sum> of_copy({H, Wd});
          for (int64_t t = 0; t < kh * kw; ++t)
            for (int64_t i = 0; i < Ho; ++i)
              for (int64_t j = 0; j < Wo; ++j) {
                const int64_t y = row_of(i, t), x = column_of(j, t);
                if (!inside(y, x)) continue;
                const Real gated = of_gated_(gate * Real{X(n, c, y, x)});
                for (int64_t r = 0; r < rows; ++r) {
                  const Real of_output = of_weight_(of_y(r, i, j));
                  of_copy(y, x).add(of_output * of_weight_(Real{W(h * rows + r, c, t / kw, t % kw)}));
                  dW(h * rows + r, c, t / kw, t % kw).add(of_output * gated);
                }
              }
          for (int64_t y = 0; y < H; ++y)
            for (int64_t x = 0; x < Wd; ++x) {
              dX(n, c, y, x).add(gate * Real(of_copy(y, x)));
              dSaliency(n, h * C + c).add(Real{X(n, c, y, x)} * Real(of_copy(y, x)));
            }
        }
      }
    std::vector<Reals> gradients;
    for (const Array<Sum>* sums : {&dX, &dSaliency, &dW, &dB}) {
      gradients.emplace_back(sums->extents());
      for (int64_t i = 0; i < sums->count(); ++i) gradients.back().flat(i) = sums->flat(i);
    }
    return gradients;
  }

 private:
  // Where tap t of output row i, of output column j, looks in X.
  int64_t row_of(int64_t i, int64_t t) const { return i * a.strides[0] - a.pads[0] + t / kw * a.dilations[0]; }
  int64_t column_of(int64_t j, int64_t t) const { return j * a.strides[1] - a.pads[1] + t % kw * a.dilations[1]; }
  bool inside(int64_t y, int64_t x) const { return y >= 0 && y < H && x >= 0 && x < Wd; }

  Real output(int64_t n, int64_t h, int64_t row, int64_t i, int64_t j, const std::vector<int64_t>& channels) const {
    Sum sum;
    sum.add({B(row)});
    for (const int64_t c : channels)
      for (int64_t t = 0; t < kh * kw; ++t) {
        const int64_t y = row_of(i, t), x = column_of(j, t);
        if (inside(y, x))
          sum.add(of_weight_(Real{W(row, c, t / kw, t % kw)}) *
                  of_gated_(Real{saliency(n, h * C + c)} * Real{X(n, c, y, x)}));
      }
    return sum;
  }

  dyndeploy_dgc a;
  const Doubles &X, &saliency, &W, &B;
  Rounding of_gated_, of_weight_;
  const int64_t N = X.extents()[0], C = X.extents()[1], H = X.extents()[2], Wd = X.extents()[3];
  const int64_t O = W.extents()[0], kh = W.extents()[2], kw = W.extents()[3], rows = O / a.heads;
  const int64_t Ho = output_size(H, a.pads[0], a.pads[2], kh, a.dilations[0], a.strides[0]);
  const int64_t Wo = output_size(Wd, a.pads[1], a.pads[3], kw, a.dilations[1], a.strides[1]);
};

}  // namespace dyndeploy::test

// ddf/kernels.h in double, in plain loops.
#pragma once

#include "ddf/kernels.h"
#include "real.h"

namespace dyndeploy::test {

// inputs: X, channel_filter, spatial_filter, channel_gain; their extents are right.
class DdfReference {
 public:
  DdfReference(const dyndeploy_ddf& attributes, const std::vector<Doubles>& inputs)
      : a(attributes), X(inputs[0]), channel_filter(inputs[1]), spatial_filter(inputs[2]), channel_gain(inputs[3]) {
    for (int64_t n = 0; n < N; ++n)
      for (int64_t f = 0; f < a.scale * a.scale * C; ++f) {
        const Normed normed = norm(channel_taps(n, f));
        for (int64_t t = 0; t < K; ++t) channel(n, f * K + t) = normed.z[at(t)] * Real{channel_gain(f * K + t)};
      }
    for (int64_t n = 0; n < N; ++n)
      for (int64_t f = 0; f < a.scale * a.scale * a.heads; ++f)
        for (int64_t i = 0; i < Ho; ++i)
          for (int64_t j = 0; j < Wo; ++j) {
            const Normed normed = norm(spatial_taps(n, f, i, j));
            for (int64_t t = 0; t < K; ++t) spatial(n, f * K + t, i, j) = normed.z[at(t)] * Real{a.spatial_gain};
          }
  }

  std::vector<int64_t> extents() const { return {N, C, a.scale * Ho, a.scale * Wo}; }

  Reals forward() const {
    Reals Y(extents());
    for_each([&](int64_t n, int64_t r, int64_t c, int64_t i, int64_t j) {
      Sum sum;
      for (int64_t t = 0; t < K; ++t)
        if (inside(t, i, j)) sum.add(combined(n, r, c, t, i, j) * pixel(n, c, t, i, j));
      Real& y = Y(n, c, a.scale * i + r / a.scale, a.scale * j + r % a.scale);
      y = a.relu ? relu(sum) : sum;
    });
    return Y;
  }

  // Gradients of the inputs.
  std::vector<Reals> backward(const Doubles& gradient) const {
    // Of X, and of the filters after FilterNorm and gain.
    Array<Sum> dX(X.extents()), dChannel(channel_filter.extents()), dSpatial(spatial_filter.extents());
    for_each([&](int64_t n, int64_t r, int64_t c, int64_t i, int64_t j) {
      const Real g{gradient(n, c, a.scale * i + r / a.scale, a.scale * j + r % a.scale)};
      for (int64_t t = 0; t < K; ++t)
        if (inside(t, i, j)) {
          const Real x = pixel(n, c, t, i, j), one{1};
          dX(n, c, row(t, i), column(t, j)).add(g * combined(n, r, c, t, i, j));
          const int64_t of_c = (r * C + c) * K + t, of_g = (r * a.heads + c / width) * K + t;
          dChannel(n, of_c).add(g * x * (a.combine ? one : spatial(n, of_g, i, j)));
          dSpatial(n, of_g, i, j).add(g * x * (a.combine ? one : channel(n, of_c)));
        }
    });

    Reals of_x(X.extents()), of_channel(channel_filter.extents()), of_spatial(spatial_filter.extents());
    Array<Sum> of_gain(channel_gain.extents());
    for (int64_t i = 0; i < dX.count(); ++i) of_x.flat(i) = dX.flat(i);
    for (int64_t n = 0; n < N; ++n)
      for (int64_t f = 0; f < a.scale * a.scale * C; ++f) {
        std::vector<Real> of_z;
        for (int64_t t = 0; t < K; ++t)
          of_z.push_back(Real(dChannel(n, f * K + t)) * Real{channel_gain(f * K + t)});
        const Normed normed = norm(channel_taps(n, f));
        for (int64_t t = 0; t < K; ++t) of_gain(f * K + t).add(Real(dChannel(n, f * K + t)) * normed.z[at(t)]);
        const std::vector<Real> slopes = norm_gradient(of_z, normed);
        for (int64_t t = 0; t < K; ++t) of_channel(n, f * K + t) = slopes[at(t)];
      }
    for (int64_t n = 0; n < N; ++n)
      for (int64_t f = 0; f < a.scale * a.scale * a.heads; ++f)
        for (int64_t i = 0; i < Ho; ++i)
          for (int64_t j = 0; j < Wo; ++j) {
            std::vector<Real> of_z;
            for (int64_t t = 0; t < K; ++t)
              of_z.push_back(Real(dSpatial(n, f * K + t, i, j)) * Real{a.spatial_gain});
            const std::vector<Real> slopes = norm_gradient(of_z, norm(spatial_taps(n, f, i, j)));
            for (int64_t t = 0; t < K; ++t) of_spatial(n, f * K + t, i, j) = slopes[at(t)];
          }
    Reals gain(channel_gain.extents());
    for (int64_t i = 0; i < gain.count(); ++i) gain.flat(i) = of_gain.flat(i);
    return {of_x, of_channel, of_spatial, gain};
  }

 private:
  // A filter after FilterNorm, and its standard deviation.
  struct Normed {
    std::vector<Real> z;
    Real std;
  };

  static constexpr double kEpsilon = 1e-10;

  static size_t at(int64_t t) { return static_cast<size_t>(t); }

  template <class Body>
  void for_each(Body body) const {
    for (int64_t n = 0; n < N; ++n)
      for (int64_t r = 0; r < a.scale * a.scale; ++r)
        for (int64_t c = 0; c < C; ++c)
          for (int64_t i = 0; i < Ho; ++i)
            for (int64_t j = 0; j < Wo; ++j) body(n, r, c, i, j);
  }

  Normed norm(const std::vector<double>& filter) const {
    Normed normed;
    if (!a.filter_norm) {
      for (const double d : filter) normed.z.push_back({d});
      return normed;
    }
    // From the first tap on, which makes the filters that are constant exactly 0.
    std::vector<Real> shifted;
    Sum total, squares;
    for (const double d : filter) {
      shifted.push_back(Real{d} - Real{filter[0]});
      total.add(shifted.back());
    }
    const Real mean = Real(total) / Real{static_cast<double>(K)};
    for (const Real d : shifted) {
      normed.z.push_back(d - mean);
      squares.add(normed.z.back() * normed.z.back());
    }
    normed.std = root(Real(squares) / Real{static_cast<double>(K - 1)});
    for (Real& z : normed.z) z = z / (normed.std + Real{kEpsilon});
    return normed;
  }

  // The gradient of a filter from that of its z. A constant filter has a slope of 1e10: taken is that of std = 1.
  std::vector<Real> norm_gradient(const std::vector<Real>& of_z, const Normed& normed) const {
    if (!a.filter_norm) return of_z;
    const Real taps{static_cast<double>(K)}, one{1}, epsilon{kEpsilon};
    Sum total, products;
    for (size_t t = 0; t < of_z.size(); ++t) {
      total.add(of_z[t]);
      products.add(of_z[t] * normed.z[t]);
    }
    const Real mean = Real(total) / taps, slope = Real(products) / (taps - one);
    const Real spread = normed.std.v > 0 ? normed.std : one;
    std::vector<Real> result;
    for (size_t t = 0; t < of_z.size(); ++t)
      result.push_back((of_z[t] - mean - normed.z[t] * slope * (one + epsilon / spread)) / (spread + epsilon));
    return result;
  }

  std::vector<double> channel_taps(int64_t n, int64_t f) const {
    std::vector<double> taps;
    for (int64_t t = 0; t < K; ++t) taps.push_back(channel_filter(n, f * K + t));
    return taps;
  }
  std::vector<double> spatial_taps(int64_t n, int64_t f, int64_t i, int64_t j) const {
    std::vector<double> taps;
    for (int64_t t = 0; t < K; ++t) taps.push_back(spatial_filter(n, f * K + t, i, j));
    return taps;
  }
  Real combined(int64_t n, int64_t r, int64_t c, int64_t t, int64_t i, int64_t j) const {
    const Real of_c = channel(n, (r * C + c) * K + t), of_g = spatial(n, (r * a.heads + c / width) * K + t, i, j);
    return a.combine ? of_c + of_g : of_c * of_g;
  }

  int64_t row(int64_t t, int64_t i) const { return i * a.strides[0] - a.pads[0] + t / kw * a.dilations[0]; }
  int64_t column(int64_t t, int64_t j) const { return j * a.strides[1] - a.pads[1] + t % kw * a.dilations[1]; }
  bool inside(int64_t t, int64_t i, int64_t j) const {
    return row(t, i) >= 0 && row(t, i) < H && column(t, j) >= 0 && column(t, j) < W;
  }
  Real pixel(int64_t n, int64_t c, int64_t t, int64_t i, int64_t j) const { return {X(n, c, row(t, i), column(t, j))}; }

  dyndeploy_ddf a;
  const Doubles &X, &channel_filter, &spatial_filter, &channel_gain;
  const int64_t N = X.extents()[0], C = X.extents()[1], H = X.extents()[2], W = X.extents()[3];
  const int64_t kh = a.kernel_shape[0], kw = a.kernel_shape[1], K = kh * kw;
  const int64_t width = std::max<int64_t>(C / a.heads, 1);  // channels of a head
  const int64_t Ho = output_size(H, a.pads[0], a.pads[2], kh, a.dilations[0], a.strides[0]);
  const int64_t Wo = output_size(W, a.pads[1], a.pads[3], kw, a.dilations[1], a.strides[1]);
  // The filters after FilterNorm and gain.
  Reals channel{channel_filter.extents()}, spatial{spatial_filter.extents()};
};

}  // namespace dyndeploy::test

// Cases of dynamic group convolution.
#pragma once

#include "cases/draw.h"
#include "reference/dgc.h"

namespace dyndeploy::test {

struct Dgc {
  using Attributes = dyndeploy_dgc;
  using Reference = DgcReference;
  static constexpr const char* name = "dgc";
  static constexpr const char* inputs[] = {"X", "saliency", "W", "B"};
  static constexpr auto output = dyndeploy_dgc_output;

  static std::vector<Number> numbers(Attributes& a) {
    std::vector<Number> all = window_numbers(a);
    all.insert(all.end(), {{"heads", &a.heads}, {"inactive", &a.inactive}, {"shuffle", &a.shuffle}, {"relu", &a.relu}});
    return all;
  }
  static std::string floats(const Attributes& a) { return "threshold=" + std::to_string(a.threshold); }
};

using DgcCase = Case<dyndeploy_dgc>;

enum class Saliency { relu, ties, signs, special };

inline double some_saliency(Random& random, Saliency kind) {
  switch (kind) {
    case Saliency::relu:  // what a ReLU leaves: many zeros
      return std::max(0.0, random.normal());
    case Saliency::ties:
      return static_cast<double>(random.integer(0, 2)) / 2;
    case Saliency::signs:
      return random.normal();
    default:
      return random.pick<double>({NAN, 0.0, -0.0, 1.0, 1.0, 2.0, -1.0, HUGE_VAL, -HUGE_VAL});
  }
}

inline dyndeploy_dgc attributes_of(Random& random, const WindowCase& window, int64_t heads, int64_t inactive) {
  dyndeploy_dgc a{};
  a.size = sizeof a;
  window.write(a);
  a.heads = heads;
  a.inactive = inactive;
  a.threshold = random.pick({0.0f, 0.5f, -0.25f, 1.0f, 100.0f});
  a.shuffle = random.integer(0, 1);
  a.relu = random.integer(0, 1);
  return a;
}

// `rows`: outputs of a head.
inline Extents extents_of(const dyndeploy_dgc& a, const WindowCase& window, int64_t C, int64_t rows) {
  const int64_t O = product({rows, a.heads});
  return {{window.N, C, window.H, window.W},
          {window.N, product({a.heads, C})},
          {O, C, window.kernel[0], window.kernel[1]},
          {O}};
}

inline DgcCase case_of(Random& random, const WindowCase& window, int64_t heads, int64_t C, int64_t rows, int64_t inactive,
                  Saliency kind) {
  DgcCase drawn{attributes_of(random, window, heads, inactive), {}};
  for (const auto& extents : extents_of(drawn.attributes, window, C, rows))
    drawn.inputs.push_back(normal_values(random, extents));
  for (int64_t i = 0; i < drawn.inputs[1].count(); ++i) drawn.inputs[1].flat(i) = some_saliency(random, kind);
  return drawn;
}

inline DgcCase some_case(Random& random, int64_t budget) {
  const WindowCase window(random);
  int64_t heads = random.pick<int64_t>({1, 2, 4, 4, 5}), c = random.size(600), rows = random.size(150);
  fit(budget, std::max<int64_t>(window.N, 1) * window.pixels() * window.taps(), {&c, &rows, &heads});
  if (random.chance(0.02)) c = 0;
  if (random.chance(0.02)) rows = 0, heads = 1;
  const int64_t inactive = random.pick<int64_t>({-1, 0, random.integer(0, c), random.integer(0, c), c * 3 / 4, c});
  return case_of(random, window, heads, c, rows, inactive,
                 random.pick({Saliency::relu, Saliency::relu, Saliency::ties, Saliency::signs, Saliency::special}));
}

// With saliencies that are numbers: a gradient that an infinite one is a factor of is the sum of products with it, or its
// product with a sum.
inline DgcCase finite(DgcCase drawn) {
  Doubles& saliency = drawn.inputs[1];
  for (int64_t i = 0; i < saliency.count(); ++i)
    if (!std::isfinite(saliency.flat(i))) saliency.flat(i) = std::isnan(saliency.flat(i)) ? 0.5 : 3.0;
  return drawn;
}

// All extents are larger than 1.
inline DgcCase usual_case(Random& random) { return case_of(random, WindowCase(), 2, 6, 3, 2, Saliency::relu); }

}  // namespace dyndeploy::test

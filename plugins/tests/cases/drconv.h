// Cases of dynamic region-aware convolution.
#pragma once

#include "cases/draw.h"
#include "reference/drconv.h"

namespace dyndeploy::test {

struct Drconv {
  using Attributes = dyndeploy_drconv;
  using Reference = DrconvReference;
  static constexpr const char* name = "drconv";
  static constexpr const char* inputs[] = {"X", "filters", "guide", "B"};
  static constexpr auto output = dyndeploy_drconv_output;

  static std::vector<Number> numbers(Attributes& a) {
    std::vector<Number> all = window_numbers(a);
    all.insert(all.end(), {{"kernel", &a.kernel_shape[0]},
                           {"kernel", &a.kernel_shape[1]},
                           {"regions", &a.regions},
                           {"relu", &a.relu}});
    return all;
  }
  static std::string floats(const Attributes&) { return ""; }
};

using DrconvCase = Case<dyndeploy_drconv>;

// How the regions lie.
enum class Guide { noise, ties, one, blocks, special };

inline double some_logit(Random& random, Guide guide, int64_t region, int64_t i, int64_t regions) {
  switch (guide) {
    case Guide::noise:
      return random.normal();
    case Guide::ties:
      return static_cast<double>(random.integer(-1, 1));
    case Guide::one:
      return region == regions - 1;
    case Guide::blocks:
      return region == i / 3 % regions ? 2 : 0;
    default:
      return random.pick<double>({NAN, -NAN, HUGE_VAL, -HUGE_VAL, 0.0, -0.0, 1.0, -1.0, 1.0});
  }
}

inline dyndeploy_drconv attributes_of(Random& random, const WindowCase& window, int64_t regions) {
  dyndeploy_drconv a{};
  a.size = sizeof a;
  window.write(a);
  std::copy(window.kernel, window.kernel + 2, a.kernel_shape);
  a.regions = regions;
  a.relu = random.integer(0, 1);
  return a;
}

inline Extents extents_of(const dyndeploy_drconv& a, const WindowCase& window, int64_t C, int64_t O) {
  return {{window.N, C, window.H, window.W},
          {window.N, product({a.regions, O}), product({C, window.taps()})},
          {window.N, a.regions, window.Ho, window.Wo},
          {O}};
}

inline DrconvCase case_of(Random& random, const WindowCase& window, int64_t regions, int64_t C, int64_t O, Guide kind) {
  DrconvCase drawn{attributes_of(random, window, regions), {}};
  for (const auto& extents : extents_of(drawn.attributes, window, C, O))
    drawn.inputs.push_back(normal_values(random, extents));
  for (int64_t n = 0; n < window.N; ++n)
    for (int64_t t = 0; t < regions; ++t)
      for (int64_t i = 0; i < window.Ho; ++i)
        for (int64_t j = 0; j < window.Wo; ++j) drawn.inputs[2](n, t, i, j) = some_logit(random, kind, t, i, regions);
  return drawn;
}

inline DrconvCase some_case(Random& random, int64_t budget) {
  const WindowCase window(random);
  int64_t regions = random.pick<int64_t>({1, 2, 3, 8, 8, 8, 32}), c = random.size(600), o = random.size(600);
  const int64_t K = window.taps(), N = std::max<int64_t>(window.N, 1);
  fit(budget, N * window.pixels() * K, {&c, &o});
  fit(2 * budget, N * K, {&regions, &c, &o});
  if (random.chance(0.02)) c = 0;
  if (random.chance(0.02)) o = 0;
  return case_of(random, window, regions, c, o,
                 random.pick({Guide::noise, Guide::noise, Guide::ties, Guide::one, Guide::blocks, Guide::special}));
}

// All extents are larger than 1.
inline DrconvCase usual_case(Random& random) { return case_of(random, WindowCase(), 3, 4, 5, Guide::noise); }

}  // namespace dyndeploy::test

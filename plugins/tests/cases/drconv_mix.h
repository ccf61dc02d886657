// Cases of dynamic region-aware convolution with mixed filters.
#pragma once

#include "cases/drconv.h"
#include "reference/drconv_mix.h"

namespace dyndeploy::test {

struct DrconvMix : Drconv {
  using Reference = DrconvMixReference;
  static constexpr const char* inputs[] = {"X", "share", "banks", "guide", "B"};
  static constexpr auto output = dyndeploy_drconv_output_mix;
};

inline Extents extents_of_mix(const dyndeploy_drconv& a, const WindowCase& window, int64_t C, int64_t O, int64_t bases) {
  const Extents plain = extents_of(a, window, C, O);
  return {plain[0], {window.N, a.regions, bases}, {product({bases, O}), product({C, window.taps()})}, plain[2], plain[3]};
}

inline DrconvCase mix_case_of(Random& random, const WindowCase& window, int64_t regions, int64_t C, int64_t O,
                              int64_t bases, Guide kind) {
  DrconvCase drawn{attributes_of(random, window, regions), {}};
  for (const auto& extents : extents_of_mix(drawn.attributes, window, C, O, bases))
    drawn.inputs.push_back(normal_values(random, extents));
  for (int64_t n = 0; n < window.N; ++n)
    for (int64_t t = 0; t < regions; ++t)
      for (int64_t i = 0; i < window.Ho; ++i)
        for (int64_t j = 0; j < window.Wo; ++j) drawn.inputs[3](n, t, i, j) = some_logit(random, kind, t, i, regions);
  return drawn;
}

inline DrconvCase some_mix_case(Random& random, int64_t budget) {
  const WindowCase window(random);
  int64_t regions = random.pick<int64_t>({1, 2, 3, 8, 8, 8, 32}), c = random.size(600), o = random.size(600);
  int64_t bases = random.pick<int64_t>({1, 2, 3, 5, 8, 8, 20});
  const int64_t K = window.taps(), N = std::max<int64_t>(window.N, 1);
  fit(budget, N * window.pixels() * K, {&c, &o, &bases});
  fit(2 * budget, N * K, {&regions, &c, &o, &bases});
  if (random.chance(0.02)) c = 0;
  if (random.chance(0.02)) o = 0;
  if (random.chance(0.02)) bases = 0;
  return mix_case_of(random, window, regions, c, o, bases,
                     random.pick({Guide::noise, Guide::noise, Guide::ties, Guide::one, Guide::blocks, Guide::special}));
}

// All extents are larger than 1.
inline DrconvCase usual_mix_case(Random& random) { return mix_case_of(random, WindowCase(), 3, 4, 5, 2, Guide::noise); }

// Numbers of X that are none. An infinite one is left out: with filters mixed first it stays infinite, and becomes NaN where
// every bank is multiplied by it.
inline void spoil_with_nan(Random& random, Doubles& values) {
  for (int i = 0; i < 3 && values.count(); ++i) values.flat(random.integer(0, values.count() - 1)) = NAN;
}

}  // namespace dyndeploy::test

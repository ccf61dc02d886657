// Cases of decoupled dynamic filters.
#pragma once

#include "cases/draw.h"
#include "reference/ddf.h"

namespace dyndeploy::test {

struct Ddf {
  using Attributes = dyndeploy_ddf;
  using Reference = DdfReference;
  static constexpr const char* name = "ddf";
  static constexpr const char* inputs[] = {"X", "channel_filter", "spatial_filter", "channel_gain"};
  static constexpr auto output = dyndeploy_ddf_output;

  static std::vector<Number> numbers(Attributes& a) {
    std::vector<Number> all = window_numbers(a);
    all.insert(all.end(), {{"kernel", &a.kernel_shape[0]},
                           {"kernel", &a.kernel_shape[1]},
                           {"heads", &a.heads},
                           {"scale", &a.scale},
                           {"combine", &a.combine},
                           {"filter_norm", &a.filter_norm},
                           {"relu", &a.relu}});
    return all;
  }
  static std::string floats(const Attributes& a) { return "spatial_gain=" + std::to_string(a.spatial_gain); }
};

using DdfCase = Case<dyndeploy_ddf>;

// Filters with a mean far from 0 now and then, and, in a few taps' numbers, constant ones.
inline Doubles some_filters(Random& random, const std::vector<int64_t>& extents) {
  Doubles filters = normal_values(random, extents);
  const double mean = random.chance(0.3) ? 10 * random.normal() : 0;
  const bool constant = random.chance(0.1);
  for (int64_t i = 0; i < filters.count(); ++i) filters.flat(i) = mean + (constant ? 0 : filters.flat(i));
  return filters;
}

inline dyndeploy_ddf attributes_of(Random& random, const WindowCase& window, int64_t heads, int64_t scale) {
  dyndeploy_ddf a{};
  a.size = sizeof a;
  window.write(a);
  std::copy(window.kernel, window.kernel + 2, a.kernel_shape);
  a.heads = heads;
  a.scale = scale;
  a.combine = random.integer(0, 1);
  a.filter_norm = window.taps() > 1 && random.chance(0.6);
  a.spatial_gain = random.pick({1.0f, 0.47140452f, -1.5f});
  a.relu = random.integer(0, 1);
  return a;
}

inline Extents extents_of(const dyndeploy_ddf& a, const WindowCase& window, int64_t C) {
  const int64_t filters = product({a.scale, a.scale, C, window.taps()});
  return {{window.N, C, window.H, window.W},
          {window.N, filters},
          {window.N, product({a.scale, a.scale, a.heads, window.taps()}), window.Ho, window.Wo},
          {filters}};
}

inline DdfCase case_of(Random& random, const WindowCase& window, int64_t heads, int64_t scale, int64_t C) {
  const dyndeploy_ddf a = attributes_of(random, window, heads, scale);
  const Extents extents = extents_of(a, window, C);
  return {a,
          {normal_values(random, extents[0]), some_filters(random, extents[1]), some_filters(random, extents[2]),
           normal_values(random, extents[3])}};
}

inline DdfCase some_case(Random& random, int64_t budget) {
  const WindowCase window(random);
  int64_t scale = random.pick<int64_t>({1, 1, 1, 2, 2, 3}), c = random.size(600);
  int64_t heads = random.chance(0.5) ? 1 : random.pick<int64_t>({2, 3, 4, 7});
  fit(budget, std::max<int64_t>(window.N, 1) * window.pixels() * window.taps(), {&c, &heads, &scale, &scale});
  return case_of(random, window, heads, scale, random.chance(0.02) ? 0 : c * heads);
}

// Filters that FilterNorm makes exactly 0.
inline DdfCase constant_case(Random& random, float constant) {
  DdfCase drawn = case_of(random, WindowCase(), 2, 2, 34);
  drawn.attributes.filter_norm = 1;
  for (const size_t i : {1, 2})
    for (int64_t k = 0; k < drawn.inputs[i].count(); ++k) drawn.inputs[i].flat(k) = constant;
  return drawn;
}
inline constexpr float kConstants[] = {0.0f, 1.0f, -0.1f, 3e5f, 1e-30f};

// All extents are larger than 1.
inline DdfCase usual_case(Random& random) { return case_of(random, WindowCase(), 2, 2, 6); }

}  // namespace dyndeploy::test

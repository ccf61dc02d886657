// Cases of modulated deformable convolution.
#pragma once

#include "cases/draw.h"
#include "reference/dcnv2.h"

namespace dyndeploy::test {

struct Dcnv2 {
  using Attributes = dyndeploy_dcnv2;
  using Reference = Dcnv2Reference;
  static constexpr const char* name = "dcnv2";
  static constexpr const char* inputs[] = {"X", "offset_mask", "W", "B"};
  static constexpr auto output = dyndeploy_dcnv2_output;

  static std::vector<Number> numbers(Attributes& a) {
    std::vector<Number> all = window_numbers(a);
    all.insert(all.end(), {{"group", &a.group}, {"offset_group", &a.offset_group}, {"sigmoid", &a.sigmoid}, {"relu", &a.relu}});
    return all;
  }
  static std::string floats(const Attributes& a) { return "mask_scale=" + std::to_string(a.mask_scale); }
};

using Dcnv2Case = Case<dyndeploy_dcnv2>;

// Where samples fall.
enum class Offsets {
  anywhere,  // N(0, 2 px)
  grid,      // multiples of 1/16 px: exact in every dtype, often at the kinks of the interpolation
  between,   // never at a kink: all four neighbours count
  wild,      // also none, infinite, and far away
  still,     // 0 to 15/16 px: neighbouring pixels have corners in common
};

inline double some_offset(Random& random, Offsets offsets) {
  if (offsets == Offsets::anywhere) return 2 * random.normal();
  if (offsets == Offsets::wild && random.chance(0.2))
    return random.pick<double>({NAN, HUGE_VAL, -HUGE_VAL, 1e30, -1e30, 1e9, -1e9, 3e38, -3e38, 65504.0, 2147483648.0, -2147483649.0});
  if (offsets == Offsets::still) return static_cast<double>(random.integer(0, 15)) / 16;
  if (offsets == Offsets::between) return static_cast<double>(2 * random.integer(-32, 32) + 1) / 16;
  return static_cast<double>(random.integer(-64, 64)) / 16;
}

// What a sigmoid has to bear. Without one the mask is a factor like others.
inline double some_logit(Random& random) {
  return random.chance(0.9) ? 30 * random.normal()
                            : random.pick<double>({HUGE_VAL, -HUGE_VAL, 1e30, -1e30, 88, -88, 87.3, -87.4});
}

inline dyndeploy_dcnv2 attributes_of(Random& random, const WindowCase& window, int64_t group, int64_t offset_group) {
  dyndeploy_dcnv2 a{};
  a.size = sizeof a;
  window.write(a);
  a.group = group;
  a.offset_group = offset_group;
  a.sigmoid = random.integer(0, 1);
  a.mask_scale = random.pick({1.0f, 2.0f, -0.7f});
  a.relu = random.integer(0, 1);
  return a;
}

// c and o: channels and outputs of a group.
inline Extents extents_of(const dyndeploy_dcnv2& a, const WindowCase& window, int64_t c, int64_t o) {
  const int64_t C = product({c, a.group}), O = product({o, a.group});
  return {{window.N, C, window.H, window.W},
          {window.N, product({3, a.offset_group, window.taps()}), window.Ho, window.Wo},
          {O, c, window.kernel[0], window.kernel[1]},
          {O}};
}

inline Dcnv2Case case_of(Random& random, const WindowCase& window, int64_t group, int64_t offset_group, int64_t c,
                         int64_t o, Offsets offsets) {
  Dcnv2Case drawn{attributes_of(random, window, group, offset_group), {}};
  for (const auto& extents : extents_of(drawn.attributes, window, c, o))
    drawn.inputs.push_back(normal_values(random, extents));
  const bool logits = drawn.attributes.sigmoid && offsets == Offsets::wild;
  const int64_t points = offset_group * window.taps();
  for (int64_t n = 0; n < window.N; ++n)
    for (int64_t d = 0; d < 3 * points; ++d)
      for (int64_t i = 0; i < window.Ho; ++i)
        for (int64_t j = 0; j < window.Wo; ++j)
          if (d < 2 * points)
            drawn.inputs[1](n, d, i, j) = some_offset(random, offsets);
          else if (logits)
            drawn.inputs[1](n, d, i, j) = some_logit(random);
  return drawn;
}

inline Dcnv2Case some_case(Random& random, int64_t budget, Offsets offsets) {
  const WindowCase window(random);
  int64_t group = random.pick<int64_t>({1, 1, 1, 2, 3, 5}), c = random.size(600), o = random.size(600);
  fit(budget, std::max<int64_t>(window.N, 1) * window.pixels() * window.taps(), {&c, &o, &group});
  if (random.chance(0.02)) c = 0;
  if (random.chance(0.02)) o = 0, group = 1;
  return case_of(random, window, group, divisor(random, c * group), c, o, offsets);
}

// Pixels of X, or a mask, that are no numbers, all of them sampled with a weight that is not 0.
inline Dcnv2Case special_case(Random& random, int64_t budget) {
  Dcnv2Case drawn = some_case(random, budget, Offsets::between);
  if (random.chance(0.8)) spoil(random, drawn.inputs[0]);
  Doubles& offset_mask = drawn.inputs[1];
  const int64_t channels = offset_mask.extents()[1];
  if (random.chance(0.5) && offset_mask.count())
    offset_mask(0, random.integer(channels * 2 / 3, channels - 1), 0, 0) = NAN;
  return drawn;
}

// All extents are larger than 1.
inline Dcnv2Case usual_case(Random& random) {
  return case_of(random, WindowCase(), 2, 3, 3, 2, Offsets::anywhere);
}

}  // namespace dyndeploy::test

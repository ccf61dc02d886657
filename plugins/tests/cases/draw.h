// Drawing cases: what all operators have in their attributes and inputs.
//
// A case is an attribute struct and the values of the four inputs, in double, not yet stored in any type or layout.
#pragma once

#include "check.h"
#include "reference/real.h"
#include "storage.h"

namespace dyndeploy::test {

// An integer of an attribute struct.
struct Number {
  const char* name;
  int64_t* value;
};

// Attributes and the values of the inputs.
template <class Attributes>
struct Case {
  Attributes attributes;
  std::vector<Doubles> inputs;
};

using Extents = std::vector<std::vector<int64_t>>;

inline Doubles normal_values(Random& random, const std::vector<int64_t>& extents) {
  Doubles values(extents);
  for (int64_t i = 0; i < values.count(); ++i) values.flat(i) = random.normal();
  return values;
}

inline int32_t some_dtype(Random& random) {
  return random.pick({DYNDEPLOY_FLOAT32, DYNDEPLOY_FLOAT32, DYNDEPLOY_FLOAT16, DYNDEPLOY_BFLOAT16});
}

// A few of the values are not a number, or infinite.
inline void spoil(Random& random, Doubles& values) {
  for (int i = 0; i < 3 && values.count(); ++i)
    values.flat(random.integer(0, values.count() - 1)) = random.pick<double>({NAN, HUGE_VAL, -HUGE_VAL});
}

// A divisor of n.
inline int64_t divisor(Random& random, int64_t n) {
  if (n == 0 || random.chance(0.4)) return 1;
  std::vector<int64_t> divisors;
  for (int64_t d = 1; d <= n; ++d)
    if (n % d == 0) divisors.push_back(d);
  return divisors[static_cast<size_t>(random.integer(0, static_cast<int64_t>(divisors.size()) - 1))];
}

// Halves the largest of the sizes until `fixed` times their product is at most `budget`.
inline void fit(int64_t budget, int64_t fixed, std::initializer_list<int64_t*> sizes) {
  for (;;) {
    int64_t product = fixed, *largest = *sizes.begin();
    for (int64_t* size : sizes) {
      product *= *size;
      if (*size > *largest) largest = size;
    }
    if (product <= budget || *largest <= 1) return;
    *largest /= 2;
  }
}

// About a power of two, up to 2^31; mostly small, so that products of several of them are let through, too.
inline int64_t huge_number(Random& random) {
  const int64_t bits = random.integer(0, random.pick<int64_t>({0, 2, 4, 8, 16, 31}));
  return std::max<int64_t>(1, (int64_t{1} << bits) - random.integer(0, 1));
}

// At most INT64_MAX.
inline int64_t product(std::initializer_list<int64_t> factors) {
  int64_t result = 1;
  for (const int64_t factor : factors) result = factor && result > INT64_MAX / factor ? INT64_MAX : result * factor;
  return result;
}

// A window, and a map on which it has a place.
struct WindowCase {
  int64_t N = 2, H = 5, W = 6, Ho = 5, Wo = 7;
  int64_t kernel[2] = {3, 2}, strides[2] = {1, 1}, pads[4] = {1, 1, 1, 1}, dilations[2] = {1, 1};

  WindowCase() = default;
  explicit WindowCase(Random& random) {
    const int64_t most = random.pick<int64_t>({1, 4, 9, 9, 24, 40});
    const bool usual = random.chance(0.3), square = random.chance(0.4);
    const int64_t strip = random.chance(0.1) ? random.integer(0, 1) : -1;  // the axis along which the map is long
    N = random.chance(0.03) ? 0 : random.pick<int64_t>({1, 1, 1, 2, 3});
    int64_t size[2], output[2];
    for (int axis = 0; axis < 2; ++axis) {
      const bool same = axis == 1 && square;
      kernel[axis] = usual ? 3 : same ? kernel[0] : random.pick<int64_t>({1, 1, 2, 3, 3, 4, 5, 7});
      strides[axis] = same ? strides[0] : random.pick<int64_t>({1, 1, 1, 2, 3});
      dilations[axis] = same ? dilations[0] : random.pick<int64_t>({1, 1, 1, 2, 3});
      for (const int side : {axis, axis + 2}) pads[side] = usual ? 1 : random.pick<int64_t>({0, 0, 1, 1, 2, 3});
      size[axis] = random.chance(0.02) ? 0 : random.size(most);
      if (strip >= 0) size[axis] = axis == strip ? random.integer(100, 700) : random.integer(1, 3);
      // Where the window has no place yet, more padding, on a map smaller than the kernel, or a larger map.
      const int64_t lack = dilations[axis] * (kernel[axis] - 1) + 1 - size[axis] - pads[axis] - pads[axis + 2];
      if (lack > 0) (random.chance(0.5) ? pads[axis] : size[axis]) += lack;
      output[axis] = output_size(size[axis], pads[axis], pads[axis + 2], kernel[axis], dilations[axis], strides[axis]);
    }
    H = size[0];
    W = size[1];
    Ho = output[0];
    Wo = output[1];
  }

  // Sizes up to the largest that are let through. Ho and Wo are right, but may be too large for a tensor.
  static WindowCase huge(Random& random) {
    WindowCase window;
    window.N = huge_number(random);
    int64_t size[2], output[2];
    for (int axis = 0; axis < 2; ++axis) {
      size[axis] = huge_number(random);
      window.kernel[axis] = random.chance(0.5) ? 1 : huge_number(random);
      window.strides[axis] = huge_number(random);
      window.dilations[axis] = huge_number(random);
      for (const int side : {axis, axis + 2}) window.pads[side] = random.chance(0.5) ? 0 : huge_number(random);
      const int64_t reach = window.dilations[axis] * (window.kernel[axis] - 1) + 1;
      if (size[axis] + window.pads[axis] + window.pads[axis + 2] < reach) window.pads[axis] = reach;
      output[axis] = output_size(size[axis], window.pads[axis], window.pads[axis + 2], window.kernel[axis],
                                 window.dilations[axis], window.strides[axis]);
    }
    window.H = size[0];
    window.W = size[1];
    window.Ho = output[0];
    window.Wo = output[1];
    return window;
  }

  // Ho and Wo from all the rest.
  void resolve() {
    Ho = output_size(H, pads[0], pads[2], kernel[0], dilations[0], strides[0]);
    Wo = output_size(W, pads[1], pads[3], kernel[1], dilations[1], strides[1]);
  }
  int64_t taps() const { return kernel[0] * kernel[1]; }
  int64_t pixels() const { return Ho * Wo; }

  template <class Attributes>
  void write(Attributes& attributes) const {
    std::copy(strides, strides + 2, attributes.strides);
    std::copy(pads, pads + 4, attributes.pads);
    std::copy(dilations, dilations + 2, attributes.dilations);
  }
};

// The numbers of a window in an attribute struct.
template <class Attributes>
std::vector<Number> window_numbers(Attributes& a) {
  return {{"strides", &a.strides[0]},     {"strides", &a.strides[1]},    {"pads", &a.pads[0]},
          {"pads", &a.pads[1]},           {"pads", &a.pads[2]},          {"pads", &a.pads[3]},
          {"dilations", &a.dilations[0]}, {"dilations", &a.dilations[1]}};
}

}  // namespace dyndeploy::test

// A node of ONNX's own DeformConv: X, W, offset, and B and mask or not, which it may leave out, as it may all
// attributes.
#pragma once

#include "nodes.h"

namespace dyndeploy::test {

// Channels first..last - 1.
inline Doubles some_channels(const Doubles& map, int64_t first, int64_t last) {
  const auto& e = map.extents();
  Doubles part({e[0], last - first, e[2], e[3]});
  for (int64_t n = 0; n < e[0]; ++n)
    for (int64_t c = first; c < last; ++c)
      for (int64_t i = 0; i < e[2]; ++i)
        for (int64_t j = 0; j < e[3]; ++j) part(n, c - first, i, j) = map(n, c, i, j);
  return part;
}

inline Node deform_conv_node(Random& random) {
  const bool defaults = random.chance(0.2);
  WindowCase window(random);
  int64_t group = defaults ? 1 : random.pick<int64_t>({1, 1, 2, 3}), c = some_width(random), o = some_width(random);
  if (defaults) {
    window = WindowCase();
    for (int64_t& pad : window.pads) pad = 0;
    window.resolve();
  }
  fit(20000, std::max<int64_t>(window.N, 1) * window.pixels() * window.taps(), {&c, &o, &group});
  const int64_t offset_group = defaults ? 1 : divisor(random, c * group);
  const Dcnv2Case drawn = case_of(random, window, group, offset_group, c, o, Offsets::grid);
  dyndeploy_dcnv2 a = drawn.attributes;
  a.sigmoid = a.relu = 0;
  a.mask_scale = 1;
  const int64_t points = offset_group * window.taps();
  const int inputs = static_cast<int>(random.integer(3, 5));
  const Doubles &X = drawn.inputs[0], &W = drawn.inputs[2], &B = drawn.inputs[3];
  Node node{"DeformConv", "", "1", {}, {X, W, some_channels(drawn.inputs[1], 0, 2 * points)},
            {true, false, false, false, false}, {}, {}};
  if (inputs > 3) node.inputs.push_back(B);
  if (inputs > 4) node.inputs.push_back(some_channels(drawn.inputs[1], 2 * points, 3 * points));
  if (!defaults) {
    node.fields = window_fields(a);
    node.fields.ints("group", {a.group}).ints("offset_group", {a.offset_group});
    if (random.chance(0.5)) node.fields.ints("kernel_shape", {window.kernel[0], window.kernel[1]});
  }
  const Extents of_dcnv2 = extents_of(a, larger(random, window), c, o);
  std::vector<int64_t> offset = of_dcnv2[1], mask = of_dcnv2[1];
  offset[1] = 2 * points;
  mask[1] = points;
  node.largest = {of_dcnv2[0], of_dcnv2[2], offset, of_dcnv2[3], mask};
  node.largest.resize(static_cast<size_t>(inputs));
  node.reference = [a, points, inputs](const std::vector<Doubles>& values, int32_t dtype) {
    std::vector<int64_t> extents = values[2].extents();
    extents[1] = 3 * points;
    Doubles joined(extents), bias({values[1].extents()[0]});
    for (int64_t n = 0; n < extents[0]; ++n)
      for (int64_t d = 0; d < 3 * points; ++d)
        for (int64_t i = 0; i < extents[2]; ++i)
          for (int64_t j = 0; j < extents[3]; ++j)
            joined(n, d, i, j) = d < 2 * points ? values[2](n, d, i, j)
                                 : inputs > 4   ? values[4](n, d - 2 * points, i, j)
                                                : 1;
    if (inputs > 3) bias = values[3];
    return Dcnv2Reference(a, {values[0], joined, values[1], bias}, rounding_to(dtype)).forward();
  };
  return node;
}

inline Node some_node(Random& random) {
  const char* const version = random.pick({"1", "1-tf32"});
  switch (random.integer(0, 5)) {
    case 0:
      return dcnv2_node(random, version);
    case 1:
      return ddf_node(random);
    case 2:
      return drconv_node(random, version);
    case 3:
      return drconv_mix_node(random, version);
    case 4:
      return dgc_node(random, version);
    default:
      return deform_conv_node(random);
  }
}

}  // namespace dyndeploy::test

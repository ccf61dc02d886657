// Nodes of a network, as TensorRT sees them, with values for their inputs and what comes out.
#pragma once

#include <functional>

#include "cases/dcnv2.h"
#include "fields.h"
#include "reference/ddf.h"
#include "reference/dgc.h"
#include "reference/drconv.h"
#include "reference/drconv_mix.h"

namespace dyndeploy::test {

struct Node {
  const char *op, *domain, *version;
  Fields fields;
  std::vector<Doubles> inputs;
  std::vector<bool> is_map;
  Extents largest;  // of the inputs: what an engine is built for
  // Of values in the type of a call.
  std::function<Reals(const std::vector<Doubles>& values, int32_t dtype)> reference;
};

// What kernels round the factors of products to.
inline Rounding rounding_to(int32_t dtype, bool tf32 = false) {
  if (dtype == DYNDEPLOY_FLOAT32) return tf32 ? Rounding{0x1p-11, 0x1p-126} : Rounding{};
  return {rounding_unit(dtype), smallest(dtype) / 2};
}
inline bool is_tf32(const char* version) { return std::string(version) == "1-tf32"; }

// Channels; often a multiple of 8, as outputs of the half types need to be channels last.
inline int64_t some_width(Random& random) {
  return random.chance(0.5) ? random.pick<int64_t>({8, 16, 32}) : random.size(40);
}

// A window on a map that may be larger.
inline WindowCase larger(Random& random, WindowCase window) {
  for (int64_t* size : {&window.N, &window.H, &window.W}) *size += random.pick<int64_t>({0, 0, 1, 5});
  window.resolve();
  return window;
}

template <class Attributes>
Fields window_fields(const Attributes& a) {
  Fields fields;
  fields.ints("strides", {a.strides[0], a.strides[1]});
  fields.ints("pads", {a.pads[0], a.pads[1], a.pads[2], a.pads[3]});
  fields.ints("dilations", {a.dilations[0], a.dilations[1]});
  return fields;
}

inline Node dcnv2_node(Random& random, const char* version = "1") {
  const WindowCase window(random);
  int64_t group = random.pick<int64_t>({1, 1, 2, 3}), c = some_width(random), o = some_width(random);
  fit(20000, std::max<int64_t>(window.N, 1) * window.pixels() * window.taps(), {&c, &o, &group});
  const Dcnv2Case drawn = case_of(random, window, group, divisor(random, c * group), c, o, Offsets::grid);
  const dyndeploy_dcnv2 a = drawn.attributes;
  Fields fields = window_fields(a);
  fields.ints("group", {a.group}).ints("offset_group", {a.offset_group}).ints("sigmoid", {a.sigmoid});
  fields.real("mask_scale", a.mask_scale).ints("relu", {a.relu});
  const auto reference = [a, tf32 = is_tf32(version)](const std::vector<Doubles>& values, int32_t dtype) {
    const Rounding rounding = rounding_to(dtype, tf32);
    return Dcnv2Reference(a, values, rounding, rounding).forward();
  };
  return {"ModulatedDeformConv2d", "dyndeploy", version, fields, drawn.inputs, {true, true, false, false},
          extents_of(a, larger(random, window), c, o), reference};
}

inline Node ddf_node(Random& random) {
  const WindowCase window(random);
  int64_t scale = random.pick<int64_t>({1, 1, 2, 3}), c = some_width(random), heads = random.pick<int64_t>({1, 1, 2, 3});
  fit(20000, std::max<int64_t>(window.N, 1) * window.pixels() * window.taps(), {&c, &heads, &scale, &scale});
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
  const auto extents = [&](const WindowCase& w) -> Extents {
    const int64_t branches = scale * scale, filters = branches * c * heads * w.taps();
    return {{w.N, c * heads, w.H, w.W}, {w.N, filters}, {w.N, branches * heads * w.taps(), w.Ho, w.Wo}, {filters}};
  };
  std::vector<Doubles> inputs;
  for (const auto& of_input : extents(window)) inputs.push_back(normal_values(random, of_input));
  Fields fields = window_fields(a);
  fields.ints("kernel_shape", {a.kernel_shape[0], a.kernel_shape[1]}).ints("heads", {a.heads}).ints("scale", {a.scale});
  fields.ints("combine", {a.combine}).ints("filter_norm", {a.filter_norm}).real("spatial_gain", a.spatial_gain);
  fields.ints("relu", {a.relu});
  const auto reference = [a](const std::vector<Doubles>& values, int32_t) { return DdfReference(a, values).forward(); };
  return {"DecoupledDynamicFilter", "dyndeploy", "1", fields, inputs, {true, false, true, false},
          extents(larger(random, window)), reference};
}

inline Node drconv_node(Random& random, const char* version = "1") {
  const WindowCase window(random);
  int64_t regions = random.pick<int64_t>({1, 3, 8, 32}), c = some_width(random), o = some_width(random);
  const int64_t N = std::max<int64_t>(window.N, 1);
  fit(20000, N * window.pixels() * window.taps(), {&c, &o});
  fit(40000, N * window.taps(), {&regions, &c, &o});
  dyndeploy_drconv a{};
  a.size = sizeof a;
  window.write(a);
  std::copy(window.kernel, window.kernel + 2, a.kernel_shape);
  a.regions = regions;
  a.relu = random.integer(0, 1);
  const auto extents = [&](const WindowCase& w) -> Extents {
    return {{w.N, c, w.H, w.W}, {w.N, regions * o, c * w.taps()}, {w.N, regions, w.Ho, w.Wo}, {o}};
  };
  std::vector<Doubles> inputs;
  for (const auto& of_input : extents(window)) inputs.push_back(normal_values(random, of_input));
  Fields fields = window_fields(a);
  fields.ints("kernel_shape", {a.kernel_shape[0], a.kernel_shape[1]}).ints("regions", {regions}).ints("relu", {a.relu});
  const auto reference = [a, tf32 = is_tf32(version)](const std::vector<Doubles>& values, int32_t dtype) {
    return DrconvReference(a, values, rounding_to(dtype, tf32)).forward();
  };
  return {"DynamicRegionAwareConv2d", "dyndeploy", version, fields, inputs, {true, false, true, false},
          extents(larger(random, window)), reference};
}

inline Node drconv_mix_node(Random& random, const char* version = "1") {
  const WindowCase window(random);
  int64_t regions = random.pick<int64_t>({1, 3, 8, 32}), bases = random.pick<int64_t>({1, 2, 5, 8});
  int64_t c = some_width(random), o = some_width(random);
  const int64_t N = std::max<int64_t>(window.N, 1);
  fit(10000, N * window.pixels() * window.taps(), {&c, &o, &bases});
  fit(20000, N * window.taps(), {&regions, &c, &o});
  dyndeploy_drconv a{};
  a.size = sizeof a;
  window.write(a);
  std::copy(window.kernel, window.kernel + 2, a.kernel_shape);
  a.regions = regions;
  a.relu = random.integer(0, 1);
  const auto extents = [&](const WindowCase& w) -> Extents {
    return {{w.N, c, w.H, w.W}, {w.N, regions, bases}, {bases * o, c * w.taps()}, {w.N, regions, w.Ho, w.Wo}, {o}};
  };
  std::vector<Doubles> inputs;
  for (const auto& of_input : extents(window)) inputs.push_back(normal_values(random, of_input));
  Fields fields = window_fields(a);
  fields.ints("kernel_shape", {a.kernel_shape[0], a.kernel_shape[1]}).ints("regions", {regions}).ints("relu", {a.relu});
  const auto reference = [a, tf32 = is_tf32(version)](const std::vector<Doubles>& values, int32_t dtype) {
    const Rounding rounding = rounding_to(dtype, tf32);
    return DrconvMixReference(a, values, rounding, rounding).forward();
  };
  return {"MixedRegionAwareConv2d", "dyndeploy", version, fields, inputs, {true, false, false, true, false},
          extents(larger(random, window)), reference};
}

inline Node dgc_node(Random& random, const char* version = "1") {
  const WindowCase window(random);
  int64_t heads = random.pick<int64_t>({1, 2, 4}), c = some_width(random), rows = some_width(random);
  fit(20000, std::max<int64_t>(window.N, 1) * window.pixels() * window.taps(), {&c, &rows, &heads});
  dyndeploy_dgc a{};
  a.size = sizeof a;
  window.write(a);
  a.heads = heads;
  a.inactive = random.pick<int64_t>({-1, 0, random.integer(0, c), c * 3 / 4});
  a.threshold = 0.5f;
  a.shuffle = random.integer(0, 1);
  a.relu = random.integer(0, 1);
  const auto extents = [&](const WindowCase& w) -> Extents {
    return {{w.N, c, w.H, w.W}, {w.N, heads * c}, {heads * rows, c, w.kernel[0], w.kernel[1]}, {heads * rows}};
  };
  std::vector<Doubles> inputs;
  for (const auto& of_input : extents(window)) inputs.push_back(normal_values(random, of_input));
  for (int64_t i = 0; i < inputs[1].count(); ++i) inputs[1].flat(i) = std::max(0.0, inputs[1].flat(i));
  Fields fields = window_fields(a);
  fields.ints("heads", {heads}).ints("inactive", {a.inactive}).real("threshold", a.threshold);
  fields.ints("shuffle", {a.shuffle}).ints("relu", {a.relu});
  const auto reference = [a, tf32 = is_tf32(version)](const std::vector<Doubles>& values, int32_t dtype) {
    const Rounding rounding = rounding_to(dtype, tf32);
    return DgcReference(a, values, rounding, rounding).forward();
  };
  return {"DynamicGroupConv2d", "dyndeploy", version, fields, inputs, {true, false, false, false},
          extents(larger(random, window)), reference};
}

}  // namespace dyndeploy::test

// A call of the C ABI once its attributes and shapes are checked: what kernels work on, on every kind of machine.
#pragma once

#include "common/problem.h"
#include "dcnv2/kernels.h"

namespace dyndeploy::dcnv2 {

// Order of inputs[] and gradients[].
enum { kX, kOffsetMask, kW, kB };

struct Problem {
  Window window;
  int64_t N, C, O;
  int64_t group, offset_group;
  bool sigmoid, relu;
  float mask_scale;
  int32_t dtype;

  MapExtents of_output() const { return {N, O, window.Ho, window.Wo}; }
  int64_t pixels() const { return window.Ho * window.Wo; }
  int64_t group_channels() const { return C / group; }
  int64_t group_outputs() const { return O / group; }
  int64_t offset_channels() const { return C / offset_group; }
  // Of the product of one group: tap-major, then channels.
  int64_t depth() const { return window.taps() * group_channels(); }
};

inline constexpr const char* kOp = "dcnv2";
inline constexpr const char* kInputs[] = {"X", "offset_mask", "W", "B"};
inline constexpr const char* kGradients[] = {"the gradient of X", "the gradient of offset_mask", "the gradient of W",
                                             "the gradient of B"};

// What follows from the attributes and W alone, and is all that packing needs.
dyndeploy_status resolve_weights(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* W, Problem* problem);

dyndeploy_status resolve(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* inputs, Problem* problem);

}  // namespace dyndeploy::dcnv2

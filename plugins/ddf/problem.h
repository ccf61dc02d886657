// A call of the C ABI once its attributes and shapes are checked: what kernels work on, on every kind of machine.
#pragma once

#include "common/problem.h"
#include "ddf/kernels.h"

namespace dyndeploy::ddf {

// Order of inputs[] and gradients[].
enum { kX, kChannelFilter, kSpatialFilter, kChannelGain };

struct Problem {
  Window window;
  int64_t N, C;
  int64_t heads, scale;
  bool add, filter_norm, relu;  // add: the two filters, instead of multiplying them
  float spatial_gain;
  int32_t dtype;

  MapExtents of_output() const { return {N, C, scale * window.Ho, scale * window.Wo}; }
  int64_t branches() const { return scale * scale; }
  int64_t head_channels() const { return C / heads; }
};

inline constexpr const char* kOp = "ddf";
inline constexpr const char* kInputs[] = {"X", "channel_filter", "spatial_filter", "channel_gain"};
inline constexpr const char* kGradients[] = {"the gradient of X", "the gradient of channel_filter",
                                             "the gradient of spatial_filter", "the gradient of channel_gain"};

dyndeploy_status resolve(const dyndeploy_ddf* attributes, const dyndeploy_tensor* inputs, Problem* problem);

}  // namespace dyndeploy::ddf

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

  int64_t branches() const { return scale * scale; }
  int64_t head_channels() const { return C / heads; }
};

inline constexpr const char* kOp = "ddf";
inline constexpr const char* kInputs[] = {"X", "channel_filter", "spatial_filter", "channel_gain"};

dyndeploy_status resolve(const dyndeploy_ddf* attributes, const dyndeploy_tensor* inputs, Problem* problem);

// Y, or the gradient of it.
dyndeploy_status check_output(const char* name, const Problem& problem, const dyndeploy_tensor* output);

// The gradient of Y, and those of the inputs that are wanted: whose data is not NULL.
dyndeploy_status check_gradients(const Problem& problem, const dyndeploy_tensor* gradient, const dyndeploy_tensor* inputs,
                                 const dyndeploy_tensor* gradients);

}  // namespace dyndeploy::ddf

// What the C ABI hands to the kernels once everything is checked, and the kernels of every instruction set.
#pragma once

#include "common/isa.h"
#include "common/problem.h"
#include "common/threads.h"
#include "ddf/kernels.h"

namespace dyndeploy {
namespace ddf {

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

}  // namespace ddf

DYNDEPLOY_DECLARE(uint64_t ddf_forward_workspace(const ddf::Problem& problem, const dyndeploy_tensor* inputs,
                                                 const dyndeploy_tensor& Y, const dyndeploy_resources* resources))
DYNDEPLOY_DECLARE(void ddf_forward(const ddf::Problem& problem, const dyndeploy_tensor* inputs,
                                   const dyndeploy_tensor& Y, const dyndeploy_resources* resources))

DYNDEPLOY_DECLARE(uint64_t ddf_backward_workspace(const ddf::Problem& problem, const dyndeploy_tensor* gradients,
                                                  const dyndeploy_resources* resources))
DYNDEPLOY_DECLARE(void ddf_backward(const ddf::Problem& problem, const dyndeploy_tensor& gradient,
                                    const dyndeploy_tensor* inputs, const dyndeploy_tensor* gradients,
                                    const dyndeploy_resources* resources))

}  // namespace dyndeploy

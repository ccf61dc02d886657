// A call of the C ABI once its attributes and shapes are checked: what kernels work on, on every kind of machine.
#pragma once

#include "common/problem.h"
#include "dgc/kernels.h"

namespace dyndeploy::dgc {

// Order of inputs[].
enum { kX, kSaliency, kW, kB };

struct Problem {
  Window window;
  int64_t N, C, O;
  int64_t heads, inactive;
  float threshold;
  bool shuffle, relu;
  int32_t dtype;

  MapExtents of_output() const { return {N, O, window.Ho, window.Wo}; }
  int64_t head_outputs() const { return O / heads; }
  // Of the product of one head that keeps everything: tap-major, then channels.
  int64_t depth() const { return window.taps() * C; }
};

inline constexpr const char* kOp = "dgc";
inline constexpr const char* kInputs[] = {"X", "saliency", "W", "B"};
inline constexpr const char* kGradients[] = {"the gradient of X", "the gradient of saliency", "the gradient of W",
                                             "the gradient of B"};

// What follows from the attributes and W alone, and is all that packing needs.
dyndeploy_status resolve_weights(const dyndeploy_dgc* attributes, const dyndeploy_tensor* W, Problem* problem);

dyndeploy_status resolve(const dyndeploy_dgc* attributes, const dyndeploy_tensor* inputs, Problem* problem);

}  // namespace dyndeploy::dgc

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

  int64_t head_outputs() const { return O / heads; }
  // Of the product of one head that keeps everything: tap-major, then channels.
  int64_t depth() const { return window.taps() * C; }
};

inline constexpr const char* kOp = "dgc";
inline constexpr const char* kInputs[] = {"X", "saliency", "W", "B"};

// What follows from the attributes and W alone, and is all that packing needs.
dyndeploy_status resolve_weights(const dyndeploy_dgc* attributes, const dyndeploy_tensor* W, Problem* problem);

dyndeploy_status resolve(const dyndeploy_dgc* attributes, const dyndeploy_tensor* inputs, Problem* problem);

// Y, of the right shape.
dyndeploy_status check_output(const Problem& problem, const dyndeploy_tensor* output);

// The gradient of Y, and those of the inputs whose data is there, of the right shapes.
dyndeploy_status check_gradients(const Problem& problem, const dyndeploy_tensor* gradient, const dyndeploy_tensor* inputs,
                                 const dyndeploy_tensor* gradients);

}  // namespace dyndeploy::dgc

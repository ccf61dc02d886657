// A call of the C ABI once its attributes and shapes are checked: what kernels work on, on every kind of machine.
#pragma once

#include "common/problem.h"
#include "drconv/kernels.h"

namespace dyndeploy::drconv {

// Order of inputs[].
enum { kX, kFilters, kGuide, kB };

struct Problem {
  Window window;
  int64_t N, C, O;
  int64_t regions;
  bool relu;
  int32_t dtype;

  MapExtents of_output() const { return {N, O, window.Ho, window.Wo}; }
  int64_t pixels() const { return window.Ho * window.Wo; }
  int64_t depth() const { return C * window.taps(); }
};

inline constexpr const char* kOp = "drconv";
inline constexpr const char* kInputs[] = {"X", "filters", "guide", "B"};
inline constexpr const char* kGradients[] = {"the gradient of X", "the gradient of filters", "the gradient of guide",
                                             "the gradient of B"};

dyndeploy_status resolve(const dyndeploy_drconv* a, const dyndeploy_tensor* inputs, Problem* problem);
// All but the filters.
dyndeploy_status resolve_maps(const dyndeploy_drconv* a, const dyndeploy_tensor& X, const dyndeploy_tensor& guide,
                              const dyndeploy_tensor& B, Problem* problem);

}  // namespace dyndeploy::drconv

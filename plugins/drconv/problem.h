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

  int64_t pixels() const { return window.Ho * window.Wo; }
  int64_t depth() const { return C * window.taps(); }
};

inline constexpr const char* kOp = "drconv";
inline constexpr const char* kInputs[] = {"X", "filters", "guide", "B"};

dyndeploy_status resolve(const dyndeploy_drconv* a, const dyndeploy_tensor* inputs, Problem* problem);

// Y, of the right shape.
dyndeploy_status check_output(const Problem& problem, const dyndeploy_tensor* output);

}  // namespace dyndeploy::drconv

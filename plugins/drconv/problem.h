// What the C ABI hands to the kernels once everything is checked, and the kernels of every instruction set.
#pragma once

#include "common/isa.h"
#include "common/problem.h"
#include "common/threads.h"
#include "drconv/kernels.h"

namespace dyndeploy {
namespace drconv {

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

}  // namespace drconv

DYNDEPLOY_DECLARE(uint64_t drconv_forward_workspace(const drconv::Problem& problem, const dyndeploy_tensor* inputs,
                                                    const dyndeploy_tensor& Y,
                                                    const dyndeploy_resources* resources))
DYNDEPLOY_DECLARE(void drconv_forward(const drconv::Problem& problem, const dyndeploy_tensor* inputs,
                                      const dyndeploy_tensor& Y, const dyndeploy_resources* resources))

}  // namespace dyndeploy

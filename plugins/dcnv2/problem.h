// What the C ABI hands to the kernels once everything is checked, and the kernels of every instruction set.
#pragma once

#include "common/isa.h"
#include "common/problem.h"
#include "common/threads.h"
#include "dcnv2/kernels.h"

namespace dyndeploy {
namespace dcnv2 {

// Order of inputs[] and gradients[].
enum { kX, kOffsetMask, kW, kB };

struct Problem {
  Window window;
  int64_t N, C, O;
  int64_t group, offset_group;
  bool sigmoid, relu;
  float mask_scale;
  int32_t dtype;

  int64_t pixels() const { return window.Ho * window.Wo; }
  int64_t group_channels() const { return C / group; }
  int64_t group_outputs() const { return O / group; }
  int64_t offset_channels() const { return C / offset_group; }
  // Of the product of one group: tap-major, then channels.
  int64_t depth() const { return window.taps() * group_channels(); }
};

}  // namespace dcnv2

// Of a Problem only what follows from W and the attributes is looked at by the first two.
DYNDEPLOY_DECLARE(uint64_t dcnv2_packed_bytes(const dcnv2::Problem& problem))
DYNDEPLOY_DECLARE(void dcnv2_pack(const dcnv2::Problem& problem, const dyndeploy_tensor& W, void* packed))
DYNDEPLOY_DECLARE(bool dcnv2_is_packed(const dcnv2::Problem& problem, const void* packed, uint64_t bytes))

DYNDEPLOY_DECLARE(uint64_t dcnv2_forward_workspace(const dcnv2::Problem& problem, const dyndeploy_tensor* inputs,
                                                   const dyndeploy_resources* resources))
DYNDEPLOY_DECLARE(void dcnv2_forward(const dcnv2::Problem& problem, const dyndeploy_tensor* inputs,
                                     const dyndeploy_tensor& Y, const dyndeploy_resources* resources))

DYNDEPLOY_DECLARE(uint64_t dcnv2_backward_workspace(const dcnv2::Problem& problem, const dyndeploy_tensor* gradients,
                                                    const dyndeploy_resources* resources))
DYNDEPLOY_DECLARE(void dcnv2_backward(const dcnv2::Problem& problem, const dyndeploy_tensor& gradient,
                                      const dyndeploy_tensor* inputs, const dyndeploy_tensor* gradients,
                                      const dyndeploy_resources* resources))

}  // namespace dyndeploy

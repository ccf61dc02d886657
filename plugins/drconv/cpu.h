// The CPU kernels, one set for every instruction set.
#pragma once

#include "common/cpu/isa.h"
#include "common/cpu/threads.h"
#include "drconv/problem_mix.h"

namespace dyndeploy {

DYNDEPLOY_DECLARE(uint64_t drconv_forward_workspace(const drconv::Problem& problem, const dyndeploy_tensor* inputs,
                                                    const dyndeploy_tensor& Y,
                                                    const dyndeploy_resources* resources))
// The filters may be float32 beside maps of another type: those that drconv_forward_mix makes.
DYNDEPLOY_DECLARE(void drconv_forward(const drconv::Problem& problem, const dyndeploy_tensor* inputs,
                                      const dyndeploy_tensor& Y, const dyndeploy_resources* resources))

DYNDEPLOY_DECLARE(uint64_t drconv_backward_workspace(const drconv::Problem& problem, const dyndeploy_tensor* gradients,
                                                     const dyndeploy_resources* resources))
DYNDEPLOY_DECLARE(void drconv_backward(const drconv::Problem& problem, const dyndeploy_tensor& gradient,
                                       const dyndeploy_tensor* inputs, const dyndeploy_tensor* gradients,
                                       const dyndeploy_resources* resources))

DYNDEPLOY_DECLARE(uint64_t drconv_forward_mix_workspace(const drconv::mix::Problem& problem,
                                                        const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                                                        const dyndeploy_resources* resources))
DYNDEPLOY_DECLARE(void drconv_forward_mix(const drconv::mix::Problem& problem, const dyndeploy_tensor* inputs,
                                          const dyndeploy_tensor& Y, const dyndeploy_resources* resources))

}  // namespace dyndeploy

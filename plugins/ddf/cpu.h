// The CPU kernels, one set for every instruction set.
#pragma once

#include "common/cpu/isa.h"
#include "common/cpu/threads.h"
#include "ddf/problem.h"

namespace dyndeploy {

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

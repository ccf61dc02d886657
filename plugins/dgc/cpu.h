// The CPU kernels, one set for every instruction set.
#pragma once

#include "common/cpu/isa.h"
#include "common/cpu/threads.h"
#include "dgc/problem.h"

namespace dyndeploy {

// Of a Problem only what follows from W and the attributes is looked at by the first three.
DYNDEPLOY_DECLARE(uint64_t dgc_packed_bytes(const dgc::Problem& problem))
DYNDEPLOY_DECLARE(void dgc_pack(const dgc::Problem& problem, const dyndeploy_tensor& W, void* packed))
DYNDEPLOY_DECLARE(bool dgc_is_packed(const dgc::Problem& problem, const void* packed, uint64_t bytes))

DYNDEPLOY_DECLARE(uint64_t dgc_forward_workspace(const dgc::Problem& problem, const dyndeploy_resources* resources))
DYNDEPLOY_DECLARE(void dgc_forward(const dgc::Problem& problem, const dyndeploy_tensor* inputs,
                                   const dyndeploy_tensor& Y, const dyndeploy_resources* resources))

DYNDEPLOY_DECLARE(uint64_t dgc_backward_workspace(const dgc::Problem& problem, const dyndeploy_tensor* gradients,
                                                  const dyndeploy_resources* resources))
DYNDEPLOY_DECLARE(void dgc_backward(const dgc::Problem& problem, const dyndeploy_tensor& gradient,
                                    const dyndeploy_tensor* inputs, const dyndeploy_tensor* gradients,
                                    const dyndeploy_resources* resources))

}  // namespace dyndeploy

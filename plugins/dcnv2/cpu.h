// The CPU kernels, one set for every instruction set.
#pragma once

#include "common/cpu/isa.h"
#include "common/cpu/threads.h"
#include "dcnv2/problem.h"

namespace dyndeploy {

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

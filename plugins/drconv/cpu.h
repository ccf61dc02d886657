// The CPU kernels, one set for every instruction set.
#pragma once

#include "common/cpu/isa.h"
#include "common/cpu/threads.h"
#include "drconv/problem.h"

namespace dyndeploy {

DYNDEPLOY_DECLARE(uint64_t drconv_forward_workspace(const drconv::Problem& problem, const dyndeploy_tensor* inputs,
                                                    const dyndeploy_tensor& Y,
                                                    const dyndeploy_resources* resources))
DYNDEPLOY_DECLARE(void drconv_forward(const drconv::Problem& problem, const dyndeploy_tensor* inputs,
                                      const dyndeploy_tensor& Y, const dyndeploy_resources* resources))

}  // namespace dyndeploy

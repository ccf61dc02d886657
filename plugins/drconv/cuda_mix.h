// What cuda_mix.cu has to tell cuda.cu.
#pragma once

#include <vector>

#include "drconv/kernels.h"

namespace dyndeploy::drconv::mix {

void add_kernels(std::vector<dyndeploy_cuda_kernel>& all);

}  // namespace dyndeploy::drconv::mix

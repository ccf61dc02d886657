// What cuda_backward.cu has to tell cuda.cu.
#pragma once

#include <vector>

#include "drconv/kernels.h"

namespace dyndeploy::drconv::backward {

void add_kernels(std::vector<dyndeploy_cuda_kernel>& all);

}  // namespace dyndeploy::drconv::backward

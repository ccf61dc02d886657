// What libdyndeploy_cuda says of itself.
#include "common/api.h"

const char* dyndeploy_cuda_architectures(void) { return DYNDEPLOY_CUDA_ARCHITECTURES; }

// What the forward and the gradients on GPUs begin with: W packed, the kept channels, the heads' copies of X. In cuda.cu.
#pragma once

#include <vector>

#include "common/cuda/call.h"
#include "dgc/keep.cuh"
#include "dgc/problem.h"

namespace dyndeploy::dgc {

// Of a head's outputs, in vectors of sixteen bytes.
int64_t weight_vectors(const Problem& problem);
// Of all of W: [head][C][tap][weight_vectors].
int64_t packed_vectors(const Problem& problem);
// Channels that a head can keep, and as many as its copy of X has room for.
int64_t room(const Problem& problem);
int64_t most_kept(const Problem& problem);

// What the kernels count of a forward fits 32 bits.
dyndeploy_status check_sizes(const Problem& problem);

// Of all samples of the problem.
dyndeploy_status launch_pack(const Problem& problem, const dyndeploy_tensor& W, void* packed, cudaStream_t stream);
dyndeploy_status launch_keep(const Problem& problem, const dyndeploy_tensor& saliency, const Kept& kept,
                             cudaStream_t stream);
dyndeploy_status launch_compress(const Problem& problem, const dyndeploy_tensor& X, const Kept& kept, cuda::Sixteen* rows,
                                 cudaStream_t stream);

// The lines of the gradients' kernels, in cuda_backward.cu.
std::vector<dyndeploy_cuda_kernel> backward_kernels();

}  // namespace dyndeploy::dgc

// The convolution on GPUs, once pixels are sorted and X and filters are ready: what filters of all kinds end in.
#pragma once

#include "drconv/convolve.cuh"
#include "drconv/problem.h"

namespace dyndeploy::drconv {

// Of tiles.
enum class Choice { small, wide, large };
Choice choose(const Problem& problem);
inline int rows_of(Choice choice) { return choice == Choice::large ? 128 : 64; }

// Of problem.N samples from the first one of `convolution` on. The pixels are sorted for tiles of rows_of(choice).
dyndeploy_status launch_convolve(const Problem& problem, Choice choice, bool tf32, Convolution& convolution,
                                 cudaStream_t stream);

}  // namespace dyndeploy::drconv

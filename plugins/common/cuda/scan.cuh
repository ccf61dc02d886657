// Running sums over the threads of a block.
#pragma once

#include "common/cuda/cuda.cuh"

namespace dyndeploy::cuda {

template <int Threads>
struct ScanShared {
  int warps[Threads / kWarp];
};

// The sum of `value` over this thread and those before it; `all` is that over all threads. Every thread of the block calls it.
template <int Threads>
__device__ __forceinline__ int sum_up_to(ScanShared<Threads>& shared, int value, int& all) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int before = __shfl_up_sync(~0u, value, step);
    if (lane >= step) value += before;
  }
  if (lane == kWarp - 1) shared.warps[warp] = value;
  __syncthreads();
  all = 0;
#pragma unroll
  for (int w = 0; w < Threads / kWarp; ++w) {
    if (w == warp) value += all;
    all += shared.warps[w];
  }
  __syncthreads();
  return value;
}

}  // namespace dyndeploy::cuda

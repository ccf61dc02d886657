// The host side that forward and backward on GPUs share.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "common/cuda/call.h"
#include "ddf/filters.cuh"
#include "ddf/problem.h"

namespace dyndeploy::ddf {

// Of a grid along y and z.
inline constexpr int64_t kMostAlong = 65535;

inline dim3 grid(int64_t x, int64_t y, int64_t z) {
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
}

// Sample n and those behind it.
template <class T, class Stride = int64_t>
cuda::ddf::Map<T, Stride> map_of(const dyndeploy_tensor& t, int64_t n) {
  const auto stride = [&](int axis) { return static_cast<Stride>(cuda::stride_of(t, axis)); };
  // Without data there is nothing to point into.
  T* data = static_cast<T*>(t.data);
  return {data ? data + n * cuda::stride_of(t, 0) : data, cuda::stride_of(t, 0), stride(1), stride(2), stride(3)};
}

// Channel filters, as the kernel wants them.
struct Layout {
  int64_t n, branch, channel, tap;  // strides
  int64_t padded_channels, padded_taps;
};

inline Layout by_taps(const Problem& problem) {
  const int64_t pitch = cuda::round_up(problem.C, 8), branch = problem.window.taps() * pitch;
  return {problem.branches() * branch, branch, 1, pitch, pitch, problem.window.taps()};
}

// Extents in 32 bits, or a refusal.
dyndeploy_status check_sizes(const Problem& problem);

// FN(channel_filter) * channel_gain in float, to `to`.
dyndeploy_status launch_channel_filters(const Problem& problem, const dyndeploy_tensor* inputs, const Layout& layout,
                                        float* to, cudaStream_t stream);

// Floats of channel filters of a sample: enough for either layout, so that a query does not depend on which kernel will be
// chosen.
int64_t channel_floats(const Problem& problem);

// Whether the gradient of X may be what the forward's fast kernels make of the gradient of Y, with filters turned round.
inline bool is_turnable(const Problem& problem) {
  const Window& w = problem.window;
  return problem.scale == 1 && w.kh == 3 && w.kw == 3 && w.stride_h == 1 && w.stride_w == 1 && w.dilation_h == 1 &&
         w.dilation_w == 1 && w.H > 0 && w.W > 0;
}

// Computes the gradient of X so, unless the kernels cannot do it: then `done` is false. `spatial`: the spatial filters after
// FilterNorm and gain, [N][head][tap][pixel]; `channel`: memory for N times channel_floats.
dyndeploy_status filter_turned(const Problem& problem, const dyndeploy_tensor& gradient, const dyndeploy_tensor* inputs,
                               const dyndeploy_tensor& to, const float* spatial, float* channel, cudaStream_t stream,
                               bool* done);

// What dyndeploy_ddf_cuda_use asked for; 0: nothing.
inline std::atomic<int32_t> used_blocks{0}, used_samples{0};

// Those of cuda_backward.cu.
std::vector<dyndeploy_cuda_kernel> backward_kernels();

}  // namespace dyndeploy::ddf

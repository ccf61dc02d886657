// A forward on GPUs: what it has to work on, whichever kernel it is given to.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "ddf/cuda.h"
#include "ddf/kernel_list.cuh"

namespace dyndeploy::ddf {

using namespace cuda::ddf;

// Tiles are made smaller until there are this many blocks, or nothing is left to divide: two per multiprocessor, so
// that one loads while the other computes.
inline constexpr int64_t kEnoughBlocks = 2 * cuda::kMultiprocessors;

// Strides of a map within a sample fit 32 bits, and so does one along a row times a few.
inline bool has_small_strides(const dyndeploy_tensor& t, int64_t times) {
  for (const int axis : {1, 2, 3})
    if (std::abs(cuda::stride_of(t, axis)) > cuda::kMostCount / times) return false;
  return true;
}

struct Call {
  const Problem& problem;
  const dyndeploy_tensor* inputs;
  const dyndeploy_tensor& Y;
  float* channel;  // workspace
  cudaStream_t stream;
  TurnedFilters turned{};  // for a gradient of X

  int64_t pixels() const { return problem.window.Ho * problem.window.Wo; }
  int64_t enough_blocks() const { return used_blocks > 0 ? used_blocks.load() : kEnoughBlocks; }
};

// Those of sample n and behind it.
inline TurnedFilters turned_from(const Call& call, int64_t n) {
  const TurnedFilters& all = call.turned;
  return {all.taps ? all.taps + n * all.n : nullptr, all.n};
}

inline bool has_small_strides(const Call& call) {
  return has_small_strides(call.inputs[kX], 32) && has_small_strides(call.inputs[kSpatialFilter], kNine) &&
         has_small_strides(call.Y, 16 * call.problem.scale);
}

// Of X and Y, and of the margin in front of X.
struct Extents {
  int H, W, Ho, Wo, top, left;
};

inline Extents extents_of(const Window& window) {
  return {.H = static_cast<int>(window.H),
          .W = static_cast<int>(window.W),
          .Ho = static_cast<int>(window.Ho),
          .Wo = static_cast<int>(window.Wo),
          .top = static_cast<int>(window.top),
          .left = static_cast<int>(window.left)};
}

inline Layout by_channels(const Problem& problem) {
  return {problem.branches() * problem.C * kNinePitch, problem.C * kNinePitch, kNinePitch, 1, problem.C, kNinePitch};
}

// launch(first sample, samples) for all samples, as many at a time as a grid has room for.
template <class Launch>
dyndeploy_status for_samples(const Problem& problem, Launch launch) {
  for (int64_t n = 0; n < problem.N; n += kMostAlong) DYNDEPLOY_TRY(launch(n, std::min(kMostAlong, problem.N - n)));
  return DYNDEPLOY_OK;
}

template <class T>
dyndeploy_status launch_channel_filters_of(const Problem& problem, const dyndeploy_tensor* inputs, const Layout& layout,
                                           bool turned, float* to, cudaStream_t stream) {
  const dyndeploy_tensor &filters = inputs[kChannelFilter], &gains = inputs[kChannelGain];
  return for_samples(problem, [&](int64_t n, int64_t samples) {
    const ChannelFilters parameters{.filters = static_cast<const T*>(filters.data) + n * cuda::stride_of(filters, 0),
                                    .gains = gains.data,
                                    .filter_n = cuda::stride_of(filters, 0),
                                    .filter_step = cuda::stride_of(filters, 1),
                                    .gain_step = cuda::stride_of(gains, 0),
                                    .to = to + n * layout.n,
                                    .to_n = layout.n,
                                    .to_branch = layout.branch,
                                    .to_channel = layout.channel,
                                    .to_tap = layout.tap,
                                    .branches = static_cast<int>(problem.branches()),
                                    .channels = static_cast<int>(problem.C),
                                    .padded = static_cast<int>(layout.padded_channels),
                                    .taps = static_cast<int>(problem.window.taps()),
                                    .padded_taps = static_cast<int>(layout.padded_taps),
                                    .filter_norm = problem.filter_norm,
                                    .turned = turned};
    const cuda::Launch how{.name = kName<"make_channel_filters", T>.data(),
                           .blocks = grid(cuda::divide_up(layout.padded_channels, kChannelFilterThreads),
                                          std::min(problem.branches(), kMostAlong), samples),
                           .threads = kChannelFilterThreads,
                           .shared_bytes = 0,
                           .stream = stream};
    return cuda::launch(how, make_channel_filters<T>, parameters);
  });
}

template <class T>
dyndeploy_status launch_channel_filters_of(const Call& call, const Layout& layout) {
  const bool turned = call.turned.taps != nullptr;
  return launch_channel_filters_of<T>(call.problem, call.inputs, layout, turned, call.channel, call.stream);
}

inline bool has_vectors(const Call& call) {
  const Problem& problem = call.problem;
  return cuda::has_vectors(call.inputs[kX]) && cuda::has_vectors(call.Y) &&
         (problem.heads == 1 || problem.head_channels() % cuda::wide(problem.dtype) == 0);
}

}  // namespace dyndeploy::ddf

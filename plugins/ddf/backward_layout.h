// What the gradients on GPUs count and keep: pieces of the workspace, samples at a time, limits of 32 bits.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "ddf/cuda.h"
#include "ddf/gradient.cuh"

namespace dyndeploy::ddf {

// Pixels of a part whose sums are stored: at least, which the workspace has room for, and at most.
inline constexpr int64_t kLeastPart = 256, kMostPart = 2048;
// Floats of a piece of the workspace that holds as many samples at a time as fit, but one always.
inline constexpr int64_t kMostFloats = int64_t{16} << 20;

struct Wanted {
  bool x, channel_filter, spatial_filter, channel_gain;

  explicit Wanted(const dyndeploy_tensor* gradients)
      : x(gradients[kX].data),
        channel_filter(gradients[kChannelFilter].data),
        spatial_filter(gradients[kSpatialFilter].data),
        channel_gain(gradients[kChannelGain].data) {}
  bool channels() const { return channel_filter || channel_gain; }
};

// Floats of the pieces of the workspace, for a sample; 0: not needed.
struct Sizes {
  // Of all samples: the channel filters, twice; what their gradients are to the gains.
  int64_t channel, turned, products;
  // Of those at a time: the spatial filters, their gradients, those of the channels'.
  int64_t spatial, of_spatial, parts;

  Sizes(const Problem& problem, const Wanted& wanted) {
    const Window& window = problem.window;
    const int64_t of_channels = by_taps(problem).n, pixels = window.Ho * window.Wo;
    const int64_t of_pixels = problem.branches() * problem.heads * window.taps() * pixels;
    channel = wanted.x || (wanted.spatial_filter && !problem.add) ? of_channels : 0;
    turned = wanted.x && is_turnable(problem) ? channel_floats(problem) : 0;
    products = wanted.channels() ? of_channels : 0;
    spatial = wanted.x || (wanted.channels() && !problem.add) ? of_pixels : 0;
    of_spatial = wanted.spatial_filter ? of_pixels : 0;
    parts = wanted.channels() ? cuda::divide_up(pixels, kLeastPart) * of_channels : 0;
  }

  // At a time. Nothing but time depends on it.
  int64_t samples(const Problem& problem) const {
    int64_t most = std::min(problem.N, used_samples > 0 ? used_samples.load() : kMostAlong);
    for (const int64_t piece : {spatial, of_spatial, parts})
      if (piece) most = std::min(most, std::max<int64_t>(1, kMostFloats / piece));
    return most;
  }
};

struct Memory {
  float *channel, *turned, *products, *spatial, *of_spatial, *parts;

  Memory(const Problem& problem, const Sizes& sizes, Workspace& workspace) {
    // Who asks with larger extents gets no less, though fewer samples fit at a time.
    const auto some = [&](int64_t piece) {
      return problem.N == 0 ? 0 : std::max(piece, std::min(problem.N * piece, kMostFloats));
    };
    channel = workspace.take<float>(problem.N * sizes.channel);
    turned = workspace.take<float>(problem.N * sizes.turned);
    products = workspace.take<float>(problem.N * sizes.products);
    spatial = workspace.take<float>(some(sizes.spatial));
    of_spatial = workspace.take<float>(some(sizes.of_spatial));
    parts = workspace.take<float>(some(sizes.parts));
  }
};

// --- limits

// Distances in elements of a map's dims, but the batch's.
inline dyndeploy_status check_strides(const dyndeploy_tensor& map) {
  for (const int axis : {1, 2, 3})
    if (std::abs(cuda::stride_of(map, axis)) > cuda::kMostCount) return cuda::too_large(kOp, "strides");
  return DYNDEPLOY_OK;
}

inline dyndeploy_status check_blocks(const Problem& problem) {
  using cuda::divide_up;
  const Window& window = problem.window;
  const int64_t pixels = window.Ho * window.Wo, of_x = window.H * window.W, most = cuda::kMostCount;
  if (pixels > most / 2) return cuda::too_large(kOp, "pixels of Y");
  if (of_x > most / 2) return cuda::too_large(kOp, "pixels of X");
  // Of the smallest tiles.
  const int64_t branches = problem.branches();
  const int64_t units = divide_up(problem.C, cuda::ddf::kUnit<float, false>) + problem.heads;
  if (divide_up(of_x, 16) > most / units || branches * divide_up(pixels, 16) > most / std::max(units, problem.heads))
    return cuda::too_large(kOp, "blocks");
  // Quotients of coordinates of X.
  const bool down = window.Ho > 1 && window.H + window.top >= (int64_t{1} << 32) / window.stride_h;
  const bool right = window.Wo > 1 && window.W + window.left >= (int64_t{1} << 32) / window.stride_w;
  return down || right ? cuda::too_large(kOp, "coordinates times strides") : DYNDEPLOY_OK;
}

}  // namespace dyndeploy::ddf

// How a backward on CPUs divides its work, and the memory of its steps.
#pragma once

#include <algorithm>

#include "ddf/cpu.h"
#include "ddf/planes.h"

namespace dyndeploy::DYNDEPLOY_ISA {
namespace {

using ddf::kChannelFilter;
using ddf::kChannelGain;
using ddf::kSpatialFilter;
using ddf::kX;
using ddf::Problem;

// Tiles that a batch has at least, if it has so many rows: work for as many lanes.
constexpr int64_t kLeastTiles = 8;
constexpr int64_t kTasksPerLane = 4;
// Channels of a task that ends their gradients.
constexpr int64_t kChannels = 64;
// Channels copied to planes at a time, at most: a cache line of channels last. Of NCHW a group is enough.
constexpr int64_t kMostCopied = 16;

struct Plan {
  bool of_x, of_filters;
  int64_t ld, pixel_ld;  // channels, pixels, padded
  Tiles tiles;           // of outputs
  Planes planes;         // of X
  Window reverse;        // from X to the outputs
  Tiles x_tiles;
  Planes x_planes;  // of g
  int64_t channels, chunks;
};

// What X sees of the outputs, with the pixels of g a stride apart and zeros between them.
inline Window reversed(const Window& window) {
  return {.kh = window.kh,
          .kw = window.kw,
          .stride_h = 1,
          .stride_w = 1,
          .top = window.dilation_h * (window.kh - 1) - window.top,
          .left = window.dilation_w * (window.kw - 1) - window.left,
          .dilation_h = window.dilation_h,
          .dilation_w = window.dilation_w,
          .H = (window.Ho - 1) * window.stride_h + 1,
          .W = (window.Wo - 1) * window.stride_w + 1,
          .Ho = window.H,
          .Wo = window.W};
}

inline Plan plan_of(const Problem& problem, const dyndeploy_tensor* gradients, const dyndeploy_resources* resources) {
  const Window& window = problem.window;
  const int64_t filters = problem.branches() * window.taps();
  Plan plan{};
  plan.of_x = gradients[kX].data && problem.N * problem.C * window.H * window.W > 0;
  plan.of_filters = gradients[kChannelFilter].data || gradients[kSpatialFilter].data || gradients[kChannelGain].data;
  plan.ld = round_up(problem.C, kWidth);
  plan.pixel_ld = round_up(window.Ho * window.Wo, kWidth);

  plan.tiles = tiles_of(window, 2 * filters);
  const int64_t most_rows = window.Ho * problem.N * problem.heads / kLeastTiles;
  plan.tiles = tiles_of(window, std::clamp<int64_t>(most_rows, 1, plan.tiles.rows), plan.tiles.columns);
  plan.planes = planes_of(window, plan.tiles, false);
  if (plan.of_x) {
    plan.reverse = reversed(window);
    plan.x_tiles = tiles_of(plan.reverse, filters);
    plan.x_planes = planes_of(plan.reverse, plan.x_tiles, gradients[kX].strides[3] == 1);
    const int64_t lanes = resources->threads ? resources->threads->lanes : 1;
    const int64_t shares = divide_up(kTasksPerLane * lanes, problem.N * plan.x_tiles.count());
    plan.channels = std::min(problem.C, round_up(divide_up(problem.C, shares), 16));
    plan.chunks = divide_up(problem.C, plan.channels);
  }
  return plan;
}

// Memory of a call: filters without their gains, [N][branches][taps][ld] and [N][branches * heads][taps][pixel_ld].
struct Filters {
  float *channel, *channel_std;  // std: without [taps]
  float* gained;                 // channel * gain
  float *spatial, *spatial_std;
  float* sums;  // da of every tile, [N][tiles][branches][taps][ld]
};

// Memory of one lane, of the three steps that need some.
struct FilterScratch {
  float* planes;                   // [kMostCopied][size]
  float* gradient;                 // [branches][kMostCopied][flat]
  float *spatial, *of_spatial;     // [branches][taps][flat]
  float *spatial_std, *of_channel;  // [branches][flat]; [taps][kGroup][kWidth]
  int32_t* inside;                 // [flat] -1 where there is an output, else 0
  int64_t* offsets;
};
struct XScratch {
  int64_t* key;     // which spatial filters are there: (n * tiles + tile) * heads + head, or -1
  float* planes;    // [branches][kMostCopied][size]
  float* spatial;   // [branches][taps][flat]
  float* sums;      // [kMostCopied][flat]
  int64_t* offsets;  // [branches][taps]
};
struct ChannelScratch {
  float *gradient, *of_gain, *gain;  // [taps][kChannels]
};

inline Filters take_filters(const Problem& problem, const Plan& plan, Workspace& workspace) {
  const int64_t taps = problem.window.taps(), channel = problem.N * problem.branches() * plan.ld;
  const int64_t spatial = problem.N * problem.branches() * problem.heads * plan.pixel_ld;
  Filters filters{};
  filters.channel = workspace.take<float>(channel * taps);
  filters.channel_std = workspace.take<float>(channel);
  filters.gained = workspace.take<float>(channel * taps);
  filters.spatial = workspace.take<float>(spatial * taps);
  filters.spatial_std = workspace.take<float>(spatial);
  if (plan.of_filters) filters.sums = workspace.take<float>(plan.tiles.count() * channel * taps);
  return filters;
}

inline FilterScratch take_filter_scratch(const Problem& problem, const Plan& plan, Workspace& workspace) {
  const int64_t taps = problem.window.taps(), branches = problem.branches(), flat = plan.planes.flat;
  FilterScratch scratch{};
  scratch.planes = workspace.take<float>(kMostCopied * plan.planes.size);
  scratch.gradient = workspace.take<float>(branches * kMostCopied * flat);
  scratch.spatial = workspace.take<float>(branches * taps * flat);
  scratch.of_spatial = workspace.take<float>(branches * taps * flat);
  scratch.spatial_std = workspace.take<float>(branches * flat);
  scratch.of_channel = workspace.take<float>(taps * kGroup * kWidth);
  scratch.inside = workspace.take<int32_t>(flat);
  scratch.offsets = workspace.take<int64_t>(taps);
  return scratch;
}

inline XScratch take_x_scratch(const Problem& problem, const Plan& plan, Workspace& workspace) {
  const int64_t filters = problem.branches() * problem.window.taps();
  XScratch scratch{};
  scratch.key = workspace.take<int64_t>(1);
  scratch.planes = workspace.take<float>(problem.branches() * kMostCopied * plan.x_planes.size);
  scratch.spatial = workspace.take<float>(filters * plan.x_planes.flat);
  scratch.sums = workspace.take<float>(kMostCopied * plan.x_planes.flat);
  scratch.offsets = workspace.take<int64_t>(filters);
  return scratch;
}

inline ChannelScratch take_channel_scratch(const Problem& problem, Workspace& workspace) {
  const int64_t count = problem.window.taps() * kChannels;
  ChannelScratch scratch{};
  scratch.gradient = workspace.take<float>(count);
  scratch.of_gain = workspace.take<float>(count);
  scratch.gain = workspace.take<float>(count);
  return scratch;
}

inline int64_t lane_bytes(const Problem& problem, const Plan& plan) {
  Workspace of_filters, of_x, of_channels;
  if (plan.of_filters) take_filter_scratch(problem, plan, of_filters);
  if (plan.of_x) take_x_scratch(problem, plan, of_x);
  take_channel_scratch(problem, of_channels);
  return round_up(static_cast<int64_t>(std::max({of_filters.bytes(), of_x.bytes(), of_channels.bytes()})), 64);
}

}  // namespace
}  // namespace dyndeploy::DYNDEPLOY_ISA

// 3 x 3 filters on channels-last maps: tiles and launches of channels_last.cuh.
#pragma once

#include "ddf/forward.h"

namespace dyndeploy::ddf {

// Tiles of the kernel for channels last.
struct ChannelsLastCut {
  int64_t rows, strips, vectors;  // of a tile
  int64_t across, down, chunks;   // tiles; chunks: of the channels of all heads

  int64_t blocks(const Problem& problem) const { return problem.N * across * down * chunks; }
};

// As large as they can be where the map is; then rows, strips and vectors are given up, in this order, for more blocks.
inline ChannelsLastCut channels_last_cut(const Call& call) {
  using cuda::divide_up;
  using Tile = ChannelsLastTile;
  const Problem& problem = call.problem;
  const Window& window = problem.window;
  const int64_t vectors = problem.head_channels() / cuda::wide(problem.dtype);
  const auto cut = [&](int64_t most_rows, int64_t strips, int64_t most_vectors) {
    const int64_t down = divide_up(window.Ho, most_rows), chunks = divide_up(vectors, most_vectors);
    return ChannelsLastCut{.rows = divide_up(window.Ho, down),
                           .strips = strips,
                           .vectors = divide_up(vectors, chunks),
                           .across = divide_up(window.Wo, strips * Tile::kStrip),
                           .down = down,
                           .chunks = chunks * problem.heads};
  };
  const int64_t chunk = divide_up(vectors, divide_up(vectors, Tile::kMostSlots));
  const int64_t strips = chunk <= Tile::kMostSlots / 2 && window.Wo > Tile::kStrip ? 2 : 1;
  ChannelsLastCut chosen = cut(Tile::kMostRows, strips, chunk);
  while (chosen.blocks(problem) < call.enough_blocks()) {
    const auto& [rows, now_strips, now_vectors, across, down, chunks] = chosen;
    if (rows > 2)
      chosen = cut(divide_up(rows, 2), now_strips, now_vectors);
    else if (now_strips > 1)
      chosen = cut(rows, 1, now_vectors);
    else if (rows > 1)
      chosen = cut(1, 1, now_vectors);
    else if (now_vectors > 2)
      chosen = cut(1, 1, divide_up(now_vectors, 2));
    else
      break;
  }
  return chosen;
}

inline bool takes_channels_last(const Call& call, const ChannelsLastCut& cut) {
  return cut.down <= kMostAlong && cut.across * cut.chunks < (int64_t{1} << 32) / cut.chunks && has_small_strides(call);
}

template <class T, bool Add, int Group>
dyndeploy_status launch_channels_last(const Call& call, const ChannelsLast<T>& parameters, dim3 blocks) {
  const ChannelsLastTile& tile = parameters.tile;
  const int threads = tile.rows * tile.slots.divisor;
  const cuda::Launch how{.name = kName<"filter_channels_last", T>.data(),
                         .blocks = blocks,
                         .threads = static_cast<int>(cuda::round_up(threads, cuda::kWarp)),
                         .shared_bytes = sizeof(ChannelsLastShared<Group>),
                         .stream = call.stream};
  return cuda::launch(how, filter_channels_last<T, Add, Group>, parameters);
}

template <class T>
dyndeploy_status run_channels_last(const Call& call, const ChannelsLastCut& cut) {
  const Problem& problem = call.problem;
  const Extents e = extents_of(problem.window);
  const Layout layout = by_taps(problem);
  DYNDEPLOY_TRY(launch_channel_filters_of<T>(call, layout));
  return for_samples(problem, [&](int64_t n, int64_t samples) {
    const ChannelsLast<T> parameters{.x = map_of<const T, int>(call.inputs[kX], n),
                               .filters = map_of<const T, int>(call.inputs[kSpatialFilter], n),
                               .y = map_of<T, int>(call.Y, n),
                               .channel = call.channel + n * layout.n,
                               .channel_n = layout.n,
                               .channel_branch = layout.branch,
                               .channel_pitch = static_cast<int>(layout.tap),
                               .H = e.H, .W = e.W, .Ho = e.Ho, .Wo = e.Wo, .top = e.top, .left = e.left,
                               .heads = static_cast<int>(problem.heads),
                               .head_channels = static_cast<int>(problem.head_channels()),
                               .scale = static_cast<int>(problem.scale),
                               .tile = {.rows = static_cast<int>(cut.rows),
                                        .strips = Divisor::of(cut.strips),
                                        .vectors = Divisor::of(cut.vectors),
                                        .slots = Divisor::of(cut.strips * cut.vectors)},
                               .chunks = Divisor::of(cut.chunks / problem.heads),
                               .all_chunks = Divisor::of(cut.chunks),
                               .turned = turned_from(call, n),
                               .spatial_gain = problem.spatial_gain,
                               .filter_norm = problem.filter_norm,
                               .relu = problem.relu};
    const dim3 blocks = grid(cut.across * cut.chunks, cut.down, samples);
    if (problem.scale == 1)
      return problem.add ? launch_channels_last<T, true, 1>(call, parameters, blocks)
                         : launch_channels_last<T, false, 1>(call, parameters, blocks);
    return problem.add ? launch_channels_last<T, true, 2>(call, parameters, blocks)
                       : launch_channels_last<T, false, 2>(call, parameters, blocks);
  });
}

}  // namespace dyndeploy::ddf

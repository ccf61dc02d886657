// 3 x 3 filters on maps of dense rows: tiles and launches of planar.cuh.
#pragma once

#include "ddf/forward.h"

namespace dyndeploy::ddf {

// Whether there is a tile: some are too small for the threads' shares.
inline bool planar_tile(const Call& call, PlanarTile* tile) {
  using cuda::divide_up;
  using cuda::round_up;
  using Tile = PlanarTile;
  const Problem& problem = call.problem;
  const Window& window = problem.window;
  const int64_t pixels = Tile::kOutputs / problem.scale;
  const int64_t columns = divide_up(window.Wo, divide_up(window.Wo, 32)), groups = divide_up(columns, pixels);
  const int64_t most_rows = std::min(window.Ho, Tile::kThreads / groups);
  const int64_t rows = divide_up(window.Ho, divide_up(window.Ho, most_rows));
  const int64_t pitch = round_up(groups * pixels + 2, 4), plane = (rows + 2) * pitch;
  int64_t lanes = std::min(Tile::kThreads / (rows * groups), Tile::kMostX / plane);
  lanes = std::min(lanes, divide_up(problem.head_channels(), Tile::kBatch));
  const int64_t loads = divide_up((rows + 2) * (groups * pixels + 2), rows * groups);
  *tile = {.rows = static_cast<int>(rows),
           .groups = static_cast<int>(groups),
           .lanes = static_cast<int>(lanes),
           .pitch = static_cast<int>(pitch),
           .loads = static_cast<int>(loads)};
  return lanes > 0 && has_small_strides(call) && loads <= Tile::most_loads(static_cast<int>(problem.scale));
}

// Dense rows, and offsets in bytes within a plane that fit 32 bits.
inline bool is_planar(const dyndeploy_tensor& map) {
  const int64_t row = cuda::stride_of(map, 2), plane = cuda::stride_of(map, 1);
  return (map.strides[3] == 1 || map.extents[3] <= 1) && row >= 0 && plane >= 0 &&
         row <= cuda::kMostCoordinate / 4 / std::max<int64_t>(map.extents[2], 1);
}

// Whether four outputs of a row begin at a multiple of their size.
inline bool stores_whole(const dyndeploy_tensor& Y, int64_t size) {
  if (reinterpret_cast<uintptr_t>(Y.data) % static_cast<uintptr_t>(4 * size)) return false;
  for (const int axis : {0, 1, 2})
    if (cuda::stride_of(Y, axis) % 4) return false;
  return true;
}

// How run_planar shares channels and pixels among blocks.
struct PlanarCut {
  int64_t across, down, chunk, chunks;
};

inline PlanarCut planar_cut(const Call& call, const PlanarTile& tile) {
  using Tile = PlanarTile;
  const Problem& problem = call.problem;
  const int64_t across = cuda::divide_up(problem.window.Wo, tile.groups * Tile::kOutputs / problem.scale);
  const int64_t down = cuda::divide_up(problem.window.Ho, tile.rows), step = tile.lanes * Tile::kBatch;
  // As many chunks of channels as make enough blocks, of whole steps.
  const int64_t steps = cuda::divide_up(problem.head_channels(), step);
  const int64_t wanted = cuda::divide_up(call.enough_blocks(), across * down * problem.N * problem.heads);
  const int64_t chunk = cuda::divide_up(steps, std::min(steps, wanted)) * step;
  return {across, down, chunk, cuda::divide_up(problem.head_channels(), chunk)};
}

inline bool takes_planar(const Problem& problem, const PlanarCut& cut) {
  return cut.chunks * problem.heads <= cuda::kMostCount / cut.across / cut.across && cut.down <= kMostAlong;
}

template <class T>
dyndeploy_status run_planar(const Call& call, const PlanarTile& tile, const PlanarCut& cut) {
  const Problem& problem = call.problem;
  const Extents e = extents_of(problem.window);
  const Layout layout = by_channels(problem);
  const int64_t across = cut.across, chunk = cut.chunk, chunks = cut.chunks;
  DYNDEPLOY_TRY(launch_channel_filters_of<T>(call, layout));
  return for_samples(problem, [&](int64_t n, int64_t samples) {
    const Planar<T> parameters{.x = map_of<const T, int>(call.inputs[kX], n),
                         .filters = map_of<const T, int>(call.inputs[kSpatialFilter], n),
                         .y = map_of<T, int>(call.Y, n),
                         .channel = call.channel + n * layout.n,
                         .channel_n = layout.n,
                         .channel_branch = layout.branch,
                         .H = e.H, .W = e.W, .Ho = e.Ho, .Wo = e.Wo, .top = e.top, .left = e.left,
                         .heads = static_cast<int>(problem.heads),
                         .head_channels = static_cast<int>(problem.head_channels()),
                         .tile = tile,
                         .across = Divisor::of(across),
                         .chunk = static_cast<int>(chunk),
                         .chunks = static_cast<int>(chunks),
                         .spatial_gain = problem.spatial_gain,
                         .filter_norm = problem.filter_norm,
                         .relu = problem.relu,
                         .whole = stores_whole(call.Y, sizeof(T)),
                         .turned = turned_from(call, n)};
    const int threads = tile.rows * tile.groups * tile.lanes;
    const cuda::Launch how{.name = kName<"filter_planar", T>.data(),
                           .blocks = grid(across * chunks * problem.heads, cut.down, samples),
                           .threads = static_cast<int>(cuda::round_up(threads, cuda::kWarp)),
                           .shared_bytes = sizeof(PlanarShared),
                           .stream = call.stream};
    if (problem.scale == 1)
      return problem.add ? cuda::launch(how, filter_planar<T, true, 1>, parameters)
                         : cuda::launch(how, filter_planar<T, false, 1>, parameters);
    return problem.add ? cuda::launch(how, filter_planar<T, true, 2>, parameters)
                       : cuda::launch(how, filter_planar<T, false, 2>, parameters);
  });
}

}  // namespace dyndeploy::ddf

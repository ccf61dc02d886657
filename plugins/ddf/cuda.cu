// The C ABI on GPUs: checks, memory, the choice of kernel and tiles, launches. The kernels are in the .cuh files.
#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "ddf/cuda.h"
#include "ddf/kernel_list.cuh"

namespace dyndeploy::ddf {
namespace {

using namespace cuda::ddf;
using cuda::divide_up;
using cuda::round_up;
using cuda::stride_of;

// Tiles are made smaller until there are this many blocks, or nothing is left to divide: two per multiprocessor, so
// that one loads while the other computes.
constexpr int64_t kEnoughBlocks = 2 * cuda::kMultiprocessors;

enum Kernel { kRule, kChannelsLast, kPlanar, kGeneral };

// What dyndeploy_ddf_cuda_use asked for.
std::atomic<int32_t> used_kernel{kRule};

// --- what a call has to work on

// Strides of a map within a sample fit 32 bits, and so does one along a row times a few.
bool has_small_strides(const dyndeploy_tensor& t, int64_t times) {
  for (const int axis : {1, 2, 3})
    if (std::abs(stride_of(t, axis)) > cuda::kMostCount / times) return false;
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
TurnedFilters turned_from(const Call& call, int64_t n) {
  const TurnedFilters& all = call.turned;
  return {all.taps ? all.taps + n * all.n : nullptr, all.n};
}

bool has_small_strides(const Call& call) {
  return has_small_strides(call.inputs[kX], 32) && has_small_strides(call.inputs[kSpatialFilter], kNine) &&
         has_small_strides(call.Y, 16 * call.problem.scale);
}

Layout by_channels(const Problem& problem) {
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
    const ChannelFilters parameters{.filters = static_cast<const T*>(filters.data) + n * stride_of(filters, 0),
                                    .gains = gains.data,
                                    .filter_n = stride_of(filters, 0),
                                    .filter_step = stride_of(filters, 1),
                                    .gain_step = stride_of(gains, 0),
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
                           .blocks = grid(divide_up(layout.padded_channels, kChannelFilterThreads),
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

// --- 3 x 3 filters on channels-last maps

bool is_simple(const Window& window) {
  return window.kh == 3 && window.kw == 3 && window.stride_h == 1 && window.stride_w == 1 && window.dilation_h == 1 &&
         window.dilation_w == 1 && window.H > 0 && window.W > 0;
}

bool has_vectors(const Call& call) {
  const Problem& problem = call.problem;
  return cuda::has_vectors(call.inputs[kX]) && cuda::has_vectors(call.Y) &&
         (problem.heads == 1 || problem.head_channels() % cuda::wide(problem.dtype) == 0);
}

// Tiles of the kernel for channels last.
struct ChannelsLastCut {
  int64_t rows, strips, vectors;  // of a tile
  int64_t across, down, chunks;   // tiles; chunks: of the channels of all heads

  int64_t blocks(const Problem& problem) const { return problem.N * across * down * chunks; }
};

// As large as they can be where the map is; then rows, strips and vectors are given up, in this order, for more blocks.
ChannelsLastCut channels_last_cut(const Call& call) {
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

bool takes_channels_last(const Call& call, const ChannelsLastCut& cut) {
  return cut.down <= kMostAlong && cut.across * cut.chunks < (int64_t{1} << 32) / cut.chunks && has_small_strides(call);
}

template <class T, bool Add, int Group>
dyndeploy_status launch_channels_last(const Call& call, const ChannelsLast<T>& parameters, dim3 blocks) {
  const ChannelsLastTile& tile = parameters.tile;
  const int threads = tile.rows * tile.slots.divisor;
  const cuda::Launch how{.name = kName<"filter_channels_last", T>.data(),
                         .blocks = blocks,
                         .threads = static_cast<int>(round_up(threads, cuda::kWarp)),
                         .shared_bytes = sizeof(ChannelsLastShared<Group>),
                         .stream = call.stream};
  return cuda::launch(how, filter_channels_last<T, Add, Group>, parameters);
}

template <class T>
dyndeploy_status run_channels_last(const Call& call, const ChannelsLastCut& cut) {
  const Problem& problem = call.problem;
  const Window& window = problem.window;
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
                               .H = static_cast<int>(window.H),
                               .W = static_cast<int>(window.W),
                               .Ho = static_cast<int>(window.Ho),
                               .Wo = static_cast<int>(window.Wo),
                               .top = static_cast<int>(window.top),
                               .left = static_cast<int>(window.left),
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

// --- 3 x 3 filters on maps of dense rows

// Whether there is a tile: some are too small for the threads' shares.
bool planar_tile(const Call& call, PlanarTile* tile) {
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
bool is_planar(const dyndeploy_tensor& map) {
  const int64_t row = stride_of(map, 2), plane = stride_of(map, 1);
  return (map.strides[3] == 1 || map.extents[3] <= 1) && row >= 0 && plane >= 0 &&
         row <= cuda::kMostCoordinate / 4 / std::max<int64_t>(map.extents[2], 1);
}

// Whether four outputs of a row begin at a multiple of their size.
bool stores_whole(const dyndeploy_tensor& Y, int64_t size) {
  if (reinterpret_cast<uintptr_t>(Y.data) % static_cast<uintptr_t>(4 * size)) return false;
  for (const int axis : {0, 1, 2})
    if (stride_of(Y, axis) % 4) return false;
  return true;
}

// How run_planar shares channels and pixels among blocks.
struct PlanarCut {
  int64_t across, down, chunk, chunks;
};

PlanarCut planar_cut(const Call& call, const PlanarTile& tile) {
  using Tile = PlanarTile;
  const Problem& problem = call.problem;
  const int64_t across = divide_up(problem.window.Wo, tile.groups * Tile::kOutputs / problem.scale);
  const int64_t down = divide_up(problem.window.Ho, tile.rows), step = tile.lanes * Tile::kBatch;
  // As many chunks of channels as make enough blocks, of whole steps.
  const int64_t steps = divide_up(problem.head_channels(), step);
  const int64_t wanted = divide_up(call.enough_blocks(), across * down * problem.N * problem.heads);
  const int64_t chunk = divide_up(steps, std::min(steps, wanted)) * step;
  return {across, down, chunk, divide_up(problem.head_channels(), chunk)};
}

bool takes_planar(const Problem& problem, const PlanarCut& cut) {
  return cut.chunks * problem.heads <= cuda::kMostCount / cut.across / cut.across && cut.down <= kMostAlong;
}

template <class T>
dyndeploy_status run_planar(const Call& call, const PlanarTile& tile, const PlanarCut& cut) {
  const Problem& problem = call.problem;
  const Window& window = problem.window;
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
                         .H = static_cast<int>(window.H),
                         .W = static_cast<int>(window.W),
                         .Ho = static_cast<int>(window.Ho),
                         .Wo = static_cast<int>(window.Wo),
                         .top = static_cast<int>(window.top),
                         .left = static_cast<int>(window.left),
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
    const cuda::Launch how{.name = kName<"filter_planar", T>.data(),
                           .blocks = grid(across * chunks * problem.heads, cut.down, samples),
                           .threads = static_cast<int>(round_up(tile.rows * tile.groups * tile.lanes, cuda::kWarp)),
                           .shared_bytes = sizeof(PlanarShared),
                           .stream = call.stream};
    if (problem.scale == 1)
      return problem.add ? cuda::launch(how, filter_planar<T, true, 1>, parameters)
                         : cuda::launch(how, filter_planar<T, false, 1>, parameters);
    return problem.add ? cuda::launch(how, filter_planar<T, true, 2>, parameters)
                       : cuda::launch(how, filter_planar<T, false, 2>, parameters);
  });
}

// --- all else

template <class T>
dyndeploy_status run_general(const Call& call) {
  using Tile = GeneralTile;
  const Problem& problem = call.problem;
  const Window& window = problem.window;
  const Layout layout = by_taps(problem);
  const bool vectors = has_vectors(call), dense_rows = call.inputs[kX].strides[3] == 1 && window.W > 1;
  const int64_t units = divide_up(problem.head_channels(), vectors ? cuda::kPerSixteen<T> : 1);
  // Lanes along what is dense.
  const int64_t most_units = vectors ? 8 : dense_rows ? 2 : 32;
  const int64_t unit_lanes = std::min(units, most_units);
  const int64_t most_pixels = std::min<int64_t>(Tile::kThreads / unit_lanes, Tile::kMostPixels / Tile::kPixels);
  const int64_t pixel_lanes = std::min(divide_up(call.pixels(), Tile::kPixels), most_pixels);
  const int64_t in_tile = pixel_lanes * Tile::kPixels, tiles = divide_up(call.pixels(), in_tile);
  const int64_t taps = std::min<int64_t>(window.taps(), Tile::kMostFilters / in_tile);
  const int64_t steps = divide_up(units, unit_lanes);
  const int64_t wanted = divide_up(call.enough_blocks(), tiles * problem.N * problem.heads);
  const int64_t chunk = divide_up(steps, std::min(steps, wanted)) * unit_lanes;
  const int64_t chunks = divide_up(units, chunk);
  if (call.pixels() > cuda::kMostCount) return cuda::too_large(kOp, "pixels");
  if (chunks * problem.heads > kMostAlong) return cuda::too_large(kOp, "blocks of channels");
  DYNDEPLOY_TRY(launch_channel_filters_of<T>(call, layout));
  return for_samples(problem, [&](int64_t n, int64_t samples) {
    const General<T> parameters{.x = map_of<const T>(call.inputs[kX], n),
                          .filters = map_of<const T>(call.inputs[kSpatialFilter], n),
                          .y = map_of<T>(call.Y, n),
                          .channel = call.channel + n * layout.n,
                          .channel_n = layout.n,
                          .channel_branch = layout.branch,
                          .channel_pitch = static_cast<int>(layout.tap),
                          .H = static_cast<int>(window.H),
                          .W = static_cast<int>(window.W),
                          .Wo = static_cast<int>(window.Wo),
                          .pixels = static_cast<int>(call.pixels()),
                          .taps = static_cast<int>(window.taps()),
                          .kw = static_cast<int>(window.kw),
                          // Where there is one output, or one tap, a step may be larger than 32 bits hold.
                          .stride_h = window.Ho > 1 ? static_cast<int>(window.stride_h) : 0,
                          .stride_w = window.Wo > 1 ? static_cast<int>(window.stride_w) : 0,
                          .top = static_cast<int>(window.top),
                          .left = static_cast<int>(window.left),
                          .dilation_h = window.kh > 1 ? static_cast<int>(window.dilation_h) : 0,
                          .dilation_w = window.kw > 1 ? static_cast<int>(window.dilation_w) : 0,
                          .heads = static_cast<int>(problem.heads),
                          .head_channels = static_cast<int>(problem.head_channels()),
                          .scale = static_cast<int>(problem.scale),
                          .tile = {.unit_lanes = static_cast<int>(unit_lanes),
                                   .pixel_lanes = static_cast<int>(pixel_lanes),
                                   .units_first = vectors || !dense_rows,
                                   .taps = static_cast<int>(taps)},
                          .chunk = static_cast<int>(chunk),
                          .chunks = static_cast<int>(chunks),
                          .spatial_gain = problem.spatial_gain,
                          .add = problem.add,
                          .filter_norm = problem.filter_norm,
                          .relu = problem.relu};
    const cuda::Launch how{.name = kName<"filter_general", T>.data(),
                           .blocks = grid(tiles, chunks * problem.heads, samples),
                           .threads = static_cast<int>(round_up(unit_lanes * pixel_lanes, cuda::kWarp)),
                           .shared_bytes = sizeof(GeneralShared),
                           .stream = call.stream};
    return vectors ? cuda::launch(how, filter_general<T, cuda::kPerSixteen<T>>, parameters)
                   : cuda::launch(how, filter_general<T, 1>, parameters);
  });
}

// The kernels for 3 x 3 windows, unless they cannot do it: then `done` is false.
template <class T>
dyndeploy_status run_simple(const Call& call, bool* done) {
  const Problem& problem = call.problem;
  const int32_t used = used_kernel;
  *done = true;
  if (is_simple(problem.window) && used != kGeneral) {
    if (used != kPlanar && has_vectors(call) && problem.head_channels() % cuda::kPerSixteen<T> == 0) {
      const ChannelsLastCut cut = channels_last_cut(call);
      if (takes_channels_last(call, cut)) return run_channels_last<T>(call, cut);
    }
    PlanarTile tile;
    if (used != kChannelsLast && problem.scale <= 2 && is_planar(call.inputs[kX]) && is_planar(call.Y) &&
        planar_tile(call, &tile)) {
      const PlanarCut cut = planar_cut(call, tile);
      if (takes_planar(problem, cut)) return run_planar<T>(call, tile, cut);
    }
  }
  *done = false;
  return DYNDEPLOY_OK;
}

template <class T>
dyndeploy_status run(const Call& call) {
  bool done = false;
  DYNDEPLOY_TRY(run_simple<T>(call, &done));
  return done ? DYNDEPLOY_OK : run_general<T>(call);
}

// --- checks

dyndeploy_status resolve_forward(const dyndeploy_ddf* attributes, const dyndeploy_tensor* inputs,
                                 const dyndeploy_tensor* output, const dyndeploy_cuda_resources* resources,
                                 Problem* problem) {
  DYNDEPLOY_TRY(cuda::check_resources(kOp, resources));
  DYNDEPLOY_TRY(resolve(attributes, inputs, problem));
  DYNDEPLOY_TRY(check_output("Y", *problem, output));
  return check_sizes(*problem);
}

uint64_t workspace_of(const Problem& problem) {
  Workspace workspace;
  workspace.take<float>(problem.N * channel_floats(problem));
  return workspace.bytes();
}

}  // namespace

dyndeploy_status check_sizes(const Problem& problem) {
  DYNDEPLOY_TRY(cuda::check_window(kOp, problem.window));
  if (problem.C > cuda::kMostCoordinate) return cuda::too_large(kOp, "channels");
  const int64_t filters = std::max<int64_t>(problem.heads, round_up(problem.C, 8) * kNinePitch);
  if (problem.branches() * problem.window.taps() > cuda::kMostCount / std::max<int64_t>(filters, 1))
    return cuda::too_large(kOp, "filters");
  if (problem.scale * std::max(problem.window.Ho, problem.window.Wo) > cuda::kMostCount)
    return cuda::too_large(kOp, "coordinates of Y");
  return DYNDEPLOY_OK;
}

int64_t channel_floats(const Problem& problem) {
  const int64_t taps = by_taps(problem).n;
  return problem.window.taps() == kNine ? std::max(taps, by_channels(problem).n) : taps;
}

dyndeploy_status filter_turned(const Problem& problem, const dyndeploy_tensor& gradient, const dyndeploy_tensor* inputs,
                               const dyndeploy_tensor& to, const float* spatial, float* channel, cudaStream_t stream,
                               bool* done) {
  const Window& window = problem.window;
  Problem turned = problem;
  turned.relu = false;
  turned.window.top = 2 - window.top;
  turned.window.left = 2 - window.left;
  std::swap(turned.window.H, turned.window.Ho);
  std::swap(turned.window.W, turned.window.Wo);
  const dyndeploy_tensor of_turned[] = {gradient, inputs[kChannelFilter], inputs[kSpatialFilter], inputs[kChannelGain]};
  const Call call{.problem = turned,
                  .inputs = of_turned,
                  .Y = to,
                  .channel = channel,
                  .stream = stream,
                  .turned = {spatial, problem.heads * kNine * window.Ho * window.Wo}};
  return cuda::with_type(problem.dtype, [&](auto type) { return run_simple<decltype(type)>(call, done); });
}

dyndeploy_status launch_channel_filters(const Problem& problem, const dyndeploy_tensor* inputs, const Layout& layout,
                                        float* to, cudaStream_t stream) {
  return cuda::with_type(problem.dtype, [&](auto type) {
    return launch_channel_filters_of<decltype(type)>(problem, inputs, layout, false, to, stream);
  });
}

}  // namespace dyndeploy::ddf

using namespace dyndeploy;
using namespace dyndeploy::ddf;

dyndeploy_status dyndeploy_ddf_cuda_forward_workspace(const dyndeploy_ddf* attributes, const dyndeploy_tensor inputs[4],
                                                      const dyndeploy_tensor* output,
                                                      const dyndeploy_cuda_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = workspace_of(problem);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_ddf_cuda_forward(const dyndeploy_ddf* attributes, const dyndeploy_tensor inputs[4],
                                            const dyndeploy_tensor* output, const dyndeploy_cuda_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "Y", *output));
  DYNDEPLOY_TRY(cuda::check_workspace(kOp, *resources, workspace_of(problem)));
  if (elements(*output) == 0) return DYNDEPLOY_OK;
  const Call call{.problem = problem,
                  .inputs = inputs,
                  .Y = *output,
                  .channel = Workspace(resources->workspace).take<float>(problem.N * channel_floats(problem)),
                  .stream = static_cast<cudaStream_t>(resources->stream)};
  return cuda::with_type(problem.dtype, [&](auto type) { return run<decltype(type)>(call); });
}

dyndeploy_status dyndeploy_ddf_cuda_use(int32_t kernel, int32_t blocks, int32_t samples) {
  DYNDEPLOY_TRY(check_range(kOp, "kernel", kernel, kRule, kGeneral));
  DYNDEPLOY_TRY(check_range(kOp, "blocks", blocks, 0, cuda::kMostCount));
  DYNDEPLOY_TRY(check_range(kOp, "samples", samples, 0, kMostAlong));
  used_kernel = kernel;
  used_blocks = blocks;
  used_samples = samples;
  return DYNDEPLOY_OK;
}

int32_t dyndeploy_ddf_cuda_kernels(const dyndeploy_cuda_kernel** kernels) {
  static const std::vector<dyndeploy_cuda_kernel> list = [] {
    std::vector<dyndeploy_cuda_kernel> all = backward_kernels();
    for (const auto& of_type : {kernels_of<float>(), kernels_of<cuda::float16>(), kernels_of<cuda::bfloat16>()})
      all.insert(all.end(), of_type.begin(), of_type.end());
    return all;
  }();
  *kernels = list.data();
  return static_cast<int32_t>(list.size());
}

// The C ABI on GPUs: checks, memory, the choice of kernel. Tiles and launches of the fast ones are in launch_*.h, the
// kernels in the .cuh files.
#include <algorithm>
#include <atomic>

#include "common/entry.h"
#include "ddf/launch_channels_last.h"
#include "ddf/launch_planar.h"

namespace dyndeploy::ddf {
namespace {

using namespace cuda::ddf;
using cuda::divide_up;
using cuda::round_up;
using cuda::stride_of;

enum Kernel { kRule, kChannelsLast, kPlanar, kGeneral };

// What dyndeploy_ddf_cuda_use asked for.
std::atomic<int32_t> used_kernel{kRule};

// --- a kernel for all: general.cuh

template <class T>
dyndeploy_status run_general(const Call& call) {
  using Tile = GeneralTile;
  const Problem& problem = call.problem;
  const Window& window = problem.window;
  const Extents e = extents_of(window);
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
                          .H = e.H, .W = e.W, .Wo = e.Wo,
                          .pixels = static_cast<int>(call.pixels()),
                          .taps = static_cast<int>(window.taps()),
                          .kw = static_cast<int>(window.kw),
                          // Where there is one output, or one tap, a step may be larger than 32 bits hold.
                          .stride_h = window.Ho > 1 ? static_cast<int>(window.stride_h) : 0,
                          .stride_w = window.Wo > 1 ? static_cast<int>(window.stride_w) : 0,
                          .top = e.top, .left = e.left,
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

// --- the choice among them

bool is_simple(const Window& window) {
  return window.kh == 3 && window.kw == 3 && window.stride_h == 1 && window.stride_w == 1 && window.dilation_h == 1 &&
         window.dilation_w == 1 && window.H > 0 && window.W > 0;
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

namespace {

struct ForwardCall : ForwardArguments<dyndeploy_ddf, dyndeploy_cuda_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(cuda::check_resources(kOp, resources));
    return ddf::resolve(attributes, inputs, &problem);
  }
  dyndeploy_status prepare() const { return check_sizes(problem); }
  uint64_t workspace() const {
    Workspace workspace;
    workspace.take<float>(problem.N * channel_floats(problem));
    return workspace.bytes();
  }
  dyndeploy_status run() const {
    if (elements(*output) == 0) return DYNDEPLOY_OK;
    const Call call{.problem = problem,
                    .inputs = inputs,
                    .Y = *output,
                    .channel = Workspace(resources->workspace).take<float>(problem.N * channel_floats(problem)),
                    .stream = static_cast<cudaStream_t>(resources->stream)};
    return cuda::with_type(problem.dtype, [&](auto type) { return ddf::run<decltype(type)>(call); });
  }
};

}  // namespace
}  // namespace dyndeploy::ddf

using namespace dyndeploy;
using namespace dyndeploy::ddf;

dyndeploy_status dyndeploy_ddf_cuda_forward_workspace(const dyndeploy_ddf* attributes, const dyndeploy_tensor inputs[4],
                                                      const dyndeploy_tensor* output,
                                                      const dyndeploy_cuda_resources* resources, uint64_t* bytes) {
  return query_forward(kOp, ForwardCall{{attributes, inputs, output, resources}}, bytes);
}

dyndeploy_status dyndeploy_ddf_cuda_forward(const dyndeploy_ddf* attributes, const dyndeploy_tensor inputs[4],
                                            const dyndeploy_tensor* output, const dyndeploy_cuda_resources* resources) {
  return run_forward(kOp, kInputs, ForwardCall{{attributes, inputs, output, resources}});
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

// The C ABI of the gradients on GPUs: checks, memory, launches. The kernels are in gather_x.cuh, reduce_*.cuh and
// norm_gradients.cuh.
#include <bit>
#include <cstdlib>

#include "ddf/cuda.h"
#include "ddf/gather_x.cuh"
#include "ddf/names.cuh"
#include "ddf/norm_gradients.cuh"
#include "ddf/reduce_3x3.cuh"

namespace dyndeploy::ddf {
namespace {

using namespace cuda::ddf;
using cuda::divide_up;
using cuda::stride_of;

// Blocks that keep all multiprocessors busy.
int64_t enough_blocks() { return used_blocks > 0 ? used_blocks.load() : 4 * cuda::kMultiprocessors; }
// Pixels of a part whose sums are stored: at least, which the workspace has room for, and at most.
constexpr int64_t kLeastPart = 256, kMostPart = 2048;
// Floats of a piece of the workspace that holds as many samples at a time as fit, but one always.
constexpr int64_t kMostFloats = int64_t{16} << 20;
// Neighbouring units of a warp's lanes, where a unit is a vector.
constexpr int64_t kMostUnits = 8;

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
  int64_t channel, turned, products;  // of all samples: the channel filters, twice; what their gradients are to the gains
  int64_t spatial, of_spatial, parts;  // of those at a time: the spatial filters, their gradients, those of the channels'

  Sizes(const Problem& problem, const Wanted& wanted) {
    const Window& window = problem.window;
    const int64_t of_channels = by_taps(problem).n, pixels = window.Ho * window.Wo;
    const int64_t of_pixels = problem.branches() * problem.heads * window.taps() * pixels;
    channel = wanted.x || (wanted.spatial_filter && !problem.add) ? of_channels : 0;
    turned = wanted.x && is_turnable(problem) ? channel_floats(problem) : 0;
    products = wanted.channels() ? of_channels : 0;
    spatial = wanted.x || (wanted.channels() && !problem.add) ? of_pixels : 0;
    of_spatial = wanted.spatial_filter ? of_pixels : 0;
    parts = wanted.channels() ? divide_up(pixels, kLeastPart) * of_channels : 0;
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

struct Backward {
  const Problem& problem;
  const dyndeploy_tensor& gradient;
  const dyndeploy_tensor* inputs;
  const dyndeploy_tensor* gradients;
  Wanted wanted;
  Sizes sizes;
  Memory memory;
  Layout layout;
  cudaStream_t stream;

  int64_t pixels() const { return problem.window.Ho * problem.window.Wo; }
};

// --- what a call has to work on

Windows windows_of(const Window& window) {
  return {.H = static_cast<int>(window.H),
          .W = static_cast<int>(window.W),
          .Ho = static_cast<int>(window.Ho),
          .Wo = static_cast<int>(window.Wo),
          .pixels = static_cast<int>(window.Ho * window.Wo),
          .taps = static_cast<int>(window.taps()),
          .kh = static_cast<int>(window.kh),
          .kw = static_cast<int>(window.kw),
          .top = static_cast<int>(window.top),
          .left = static_cast<int>(window.left),
          .dilation_h = window.kh > 1 ? static_cast<int>(window.dilation_h) : 0,
          .dilation_w = window.kw > 1 ? static_cast<int>(window.dilation_w) : 0,
          .stride_h = Divisor::of(window.Ho > 1 ? window.stride_h : 1),
          .stride_w = Divisor::of(window.Wo > 1 ? window.stride_w : 1)};
}

int64_t element_bytes(int32_t dtype) { return static_cast<int64_t>(sizeof(cuda::Sixteen)) / cuda::wide(dtype); }

// Whether channels of both maps are read, or written, sixteen bytes at a time.
bool has_vectors(const Problem& problem, const dyndeploy_tensor& one, const dyndeploy_tensor& other) {
  return problem.head_channels() % cuda::wide(problem.dtype) == 0 && cuda::has_vectors(one) && cuda::has_vectors(other);
}

// Whether elements of a row lie side by side.
bool has_dense_rows(const dyndeploy_tensor& map) { return stride_of(map, 3) == 1 || map.extents[3] <= 1; }

// Whether the kernels for 3 x 3 windows can do it.
bool takes_strips(const Problem& problem, bool vectors, const dyndeploy_tensor& X, const dyndeploy_tensor& gradient) {
  const Window& window = problem.window;
  return window.kh == 3 && window.kw == 3 && window.stride_h == 1 && window.stride_w == 1 && window.dilation_h == 1 &&
         window.dilation_w == 1 && (vectors || (has_dense_rows(X) && has_dense_rows(gradient)));
}

Strips strips_of(const Window& window, int64_t pixels) {
  const int64_t in_row = divide_up(window.Wo, pixels);
  return {.in_row = static_cast<int>(in_row), .count = static_cast<int>(in_row * window.Ho)};
}

// Lanes, and with them units of a block and chunks of a head's.
struct Cut {
  Lanes lanes;
  int64_t chunks;
};

// So many units of a head, of which `unit_warps` warps of a block are to take some.
Cut cut_of(int64_t units, bool vectors, int unit_warps) {
  const auto rounded = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(units, 1))));
  const int64_t side_by_side = vectors ? std::min(rounded, kMostUnits) : 1;
  while (unit_warps > 1 && unit_warps * side_by_side > rounded) unit_warps /= 2;
  const Lanes lanes{.unit_shift = std::countr_zero(static_cast<uint64_t>(side_by_side)), .unit_warps = unit_warps};
  return {lanes, divide_up(units, lanes.units())};
}

template <class T>
int64_t units_of(const Problem& problem, bool vectors) {
  return divide_up(problem.head_channels(), vectors ? kUnit<T, true> : kUnit<T, false>);
}

// launch(with_vectors) with true or false as a constant.
template <class Launch>
dyndeploy_status with_vectors(bool vectors, Launch launch) {
  return vectors ? launch(std::true_type{}) : launch(std::false_type{});
}

cuda::Launch launch_of(const char* name, int64_t blocks, int64_t samples, int shared_bytes, cudaStream_t stream) {
  return {.name = name,
          .blocks = grid(blocks, 1, samples),
          .threads = Lanes::kThreads,
          .shared_bytes = shared_bytes,
          .stream = stream};
}

// --- launches, of `samples` samples from n on

// `samples` samples of a tensor, from n on.
dyndeploy_tensor some_of(dyndeploy_tensor tensor, int64_t n, int64_t samples) {
  if (tensor.data) tensor.data = static_cast<char*>(tensor.data) + n * stride_of(tensor, 0) * element_bytes(tensor.dtype);
  tensor.extents[0] = samples;
  return tensor;
}

dyndeploy_status launch_turned(const Backward& call, int64_t n, int64_t samples, bool* done) {
  if (!call.sizes.turned || call.problem.C == 0) return DYNDEPLOY_OK;
  Problem problem = call.problem;
  problem.N = samples;
  const dyndeploy_tensor inputs[] = {{}, some_of(call.inputs[kChannelFilter], n, samples),
                                     some_of(call.inputs[kSpatialFilter], n, samples), call.inputs[kChannelGain]};
  return filter_turned(problem, some_of(call.gradient, n, samples), inputs, some_of(call.gradients[kX], n, samples),
                       call.memory.spatial, call.memory.turned, call.stream, done);
}

template <class T>
dyndeploy_status launch_gather_x(const Backward& call, int64_t n, int64_t samples) {
  const Problem& problem = call.problem;
  const dyndeploy_tensor& to = call.gradients[kX];
  const bool vectors = has_vectors(problem, call.gradient, to);
  const int64_t pixels = problem.window.H * problem.window.W;
  if (pixels * problem.C == 0) return DYNDEPLOY_OK;
  // Small tiles of pixels where rows are dense: neighbouring rows share what they read.
  const Cut cut = cut_of(units_of<T>(problem, vectors), vectors, vectors ? 1 : Lanes::kWarps);
  const int64_t tiles = divide_up(pixels, cut.lanes.pixels() * GatherX<T>::kPixels);
  const GatherX<T> parameters{.gradient = map_of<const T, int>(call.gradient, n),
                              .to = map_of<T, int>(to, n),
                              .channel = call.memory.channel + n * call.layout.n,
                              .spatial = call.memory.spatial,
                              .channel_n = call.layout.n,
                              .spatial_n = call.sizes.spatial,
                              .pitch = static_cast<int>(call.layout.tap),
                              .windows = windows_of(problem.window),
                              .heads = static_cast<int>(problem.heads),
                              .head_channels = static_cast<int>(problem.head_channels()),
                              .scale = static_cast<int>(problem.scale),
                              .lanes = cut.lanes,
                              .tiles = static_cast<int>(tiles),
                              .chunks = static_cast<int>(cut.chunks),
                              .add = problem.add};
  const cuda::Launch how =
      launch_of(kName<"gather_x", T>.data(), tiles * cut.chunks * problem.heads, samples, 0, call.stream);
  return with_vectors(vectors, [&](auto constant) { return cuda::launch(how, gather_x<T, constant>, parameters); });
}

// How pixels are shared among blocks and threads for the sums over them.
template <class T>
Cut pixel_cut(const Problem& problem, bool vectors, int64_t samples, int64_t* part) {
  const int64_t units = units_of<T>(problem, vectors), pixels = problem.window.Ho * problem.window.Wo;
  int unit_warps = Lanes::kWarps;
  *part = kMostPart;
  for (;;) {
    const Cut cut = cut_of(units, vectors, unit_warps);
    const int64_t blocks = samples * divide_up(pixels, *part) * problem.branches() * problem.heads * cut.chunks;
    if (blocks >= enough_blocks()) return cut;
    if (*part > kLeastPart)
      *part /= 2;
    else if (unit_warps > 1)
      unit_warps /= 2;
    else
      return cut;
  }
}

template <class T>
dyndeploy_status launch_reduce_pixels(const Backward& call, int64_t n, int64_t samples, int64_t* parts) {
  const Problem& problem = call.problem;
  const dyndeploy_tensor& X = call.inputs[kX];
  const bool vectors = has_vectors(problem, call.gradient, X);
  int64_t part = 0;
  const Cut cut = pixel_cut<T>(problem, vectors, samples, &part);
  *parts = divide_up(call.pixels(), part);
  const bool in_strips = takes_strips(problem, vectors, X, call.gradient);
  const Strips strips = strips_of(problem.window, vectors ? PixelStrip<T, true>::kPixels : PixelStrip<T, false>::kPixels);
  if (in_strips) {
    part = divide_up(strips.count, *parts);
    *parts = divide_up(strips.count, part);
  }
  const ReducePixels<T> parameters{.gradient = map_of<const T, int>(call.gradient, n),
                                   .x = map_of<const T, int>(X, n),
                                   .spatial = call.memory.spatial,
                                   .sums = call.memory.parts,
                                   .spatial_n = call.sizes.spatial,
                                   .sums_n = *parts * call.layout.n,
                                   .pitch = static_cast<int>(call.layout.tap),
                                   .windows = windows_of(problem.window),
                                   .heads = static_cast<int>(problem.heads),
                                   .head_channels = static_cast<int>(problem.head_channels()),
                                   .scale = static_cast<int>(problem.scale),
                                   .lanes = cut.lanes,
                                   .part = static_cast<int>(part),
                                   .parts = static_cast<int>(*parts),
                                   .chunks = static_cast<int>(cut.chunks),
                                   .add = problem.add};
  const int64_t blocks = *parts * problem.branches() * problem.heads * cut.chunks;
  return with_vectors(vectors, [&](auto constant) {
    const auto how = [&](const char* name) {
      return launch_of(name, blocks, samples, sizeof(ReducePixelsShared<T, constant>), call.stream);
    };
    if (!in_strips) return cuda::launch(how(kName<"reduce_pixels", T>.data()), reduce_pixels<T, constant>, parameters);
    return cuda::launch(how(kName<"reduce_pixels_3x3", T>.data()), reduce_pixels_3x3<T, constant>, parameters, strips);
  });
}

template <class T>
dyndeploy_status launch_reduce_channels(const Backward& call, int64_t n, int64_t samples) {
  const Problem& problem = call.problem;
  const dyndeploy_tensor& X = call.inputs[kX];
  const bool vectors = has_vectors(problem, call.gradient, X);
  const bool in_strips = takes_strips(problem, vectors, X, call.gradient);
  const Strips strips = strips_of(problem.window, ChannelStrip<T, true>::kPixels);
  const int64_t units = in_strips && !vectors ? problem.head_channels() : units_of<T>(problem, vectors);
  int64_t tiles = 0;
  Cut cut{};
  // More warps along channels, which then have to be added up, until there are enough blocks.
  for (int unit_warps = 1; unit_warps <= Lanes::kWarps; unit_warps *= 2) {
    cut = cut_of(units, vectors, unit_warps);
    tiles = in_strips ? divide_up(strips.count, cut.lanes.pixels())
                      : divide_up(call.pixels(), cut.lanes.pixels() * ReduceChannels<T>::kPixels);
    if (samples * tiles * problem.branches() * problem.heads >= enough_blocks()) break;
  }
  const ReduceChannels<T> parameters{.gradient = map_of<const T, int>(call.gradient, n),
                                     .x = map_of<const T, int>(X, n),
                                     .channel = problem.add ? nullptr : call.memory.channel + n * call.layout.n,
                                     .sums = call.memory.of_spatial,
                                     .channel_n = call.layout.n,
                                     .sums_n = call.sizes.of_spatial,
                                     .pitch = static_cast<int>(call.layout.tap),
                                     .windows = windows_of(problem.window),
                                     .heads = static_cast<int>(problem.heads),
                                     .head_channels = static_cast<int>(problem.head_channels()),
                                     .scale = static_cast<int>(problem.scale),
                                     .lanes = cut.lanes,
                                     .tiles = static_cast<int>(tiles),
                                     .add = problem.add};
  const auto how = [&](const char* name) {
    return launch_of(name, tiles * problem.branches() * problem.heads, samples, sizeof(ReduceChannelsShared), call.stream);
  };
  return with_vectors(vectors, [&](auto constant) {
    if (!in_strips)
      return cuda::launch(how(kName<"reduce_channels", T>.data()), reduce_channels<T, constant>, parameters);
    return cuda::launch(how(kName<"reduce_channels_3x3", T>.data()), reduce_channels_3x3<T, constant>, parameters,
                        strips);
  });
}

SpatialFilters spatial_filters(const Backward& call, int64_t n, float* floats, int64_t floats_n) {
  const Problem& problem = call.problem;
  const dyndeploy_tensor &filters = call.inputs[kSpatialFilter], &to = call.gradients[kSpatialFilter];
  const auto sample = [&](const dyndeploy_tensor& t) -> void* {
    return t.data ? static_cast<char*>(t.data) + n * stride_of(t, 0) * element_bytes(problem.dtype) : nullptr;
  };
  return {.filters = sample(filters),
          .gradients = sample(to),
          .n = stride_of(filters, 0),
          .c = stride_of(filters, 1),
          .h = stride_of(filters, 2),
          .w = stride_of(filters, 3),
          .to_n = to.data ? stride_of(to, 0) : 0,
          .to_c = to.data ? stride_of(to, 1) : 0,
          .to_h = to.data ? stride_of(to, 2) : 0,
          .to_w = to.data ? stride_of(to, 3) : 0,
          .floats = floats,
          .floats_n = floats_n,
          .maps = static_cast<int>(problem.branches() * problem.heads),
          .taps = static_cast<int>(problem.window.taps()),
          .width = static_cast<int>(problem.window.Wo),
          .pixels = static_cast<int>(call.pixels()),
          .gain = problem.spatial_gain,
          .filter_norm = problem.filter_norm};
}

// A kernel with a thread for each of `count`, a row of blocks for each of `rows`, and samples behind each other.
template <class Parameters>
dyndeploy_status launch_rows(const char* name, void (*kernel)(Parameters), const Parameters& parameters, int64_t count,
                             int64_t rows, int64_t samples, cudaStream_t stream) {
  const cuda::Launch how{.name = name,
                         .blocks = grid(divide_up(count, kNormThreads), std::min(rows, kMostAlong), samples),
                         .threads = kNormThreads,
                         .shared_bytes = 0,
                         .stream = stream};
  return cuda::launch(how, kernel, parameters);
}

ChannelGradients channel_gradients(const Backward& call, int64_t n, int64_t parts) {
  const Problem& problem = call.problem;
  const dyndeploy_tensor &filters = call.inputs[kChannelFilter], &gains = call.inputs[kChannelGain];
  const dyndeploy_tensor &to = call.gradients[kChannelFilter], &to_gains = call.gradients[kChannelGain];
  const int64_t bytes = element_bytes(problem.dtype);
  return {.filters = filters.data ? static_cast<const char*>(filters.data) + n * stride_of(filters, 0) * bytes : nullptr,
          .gains = gains.data,
          .to = to.data ? static_cast<char*>(to.data) + n * stride_of(to, 0) * bytes : nullptr,
          .to_gains = to_gains.data,
          .filter_n = stride_of(filters, 0),
          .filter_step = stride_of(filters, 1),
          .gain_step = stride_of(gains, 0),
          .to_n = to.data ? stride_of(to, 0) : 0,
          .to_step = to.data ? stride_of(to, 1) : 0,
          .to_gain_step = to_gains.data ? stride_of(to_gains, 0) : 0,
          .parts = call.memory.parts,
          .sums = call.memory.products + n * call.layout.n,
          .parts_n = parts * call.layout.n,
          .sums_n = call.layout.n,
          .part = call.layout.n,
          .samples = static_cast<int>(problem.N),
          .part_count = static_cast<int>(parts),
          .branches = static_cast<int>(problem.branches()),
          .channels = static_cast<int>(problem.C),
          .pitch = static_cast<int>(call.layout.tap),
          .taps = static_cast<int>(problem.window.taps()),
          .filter_norm = problem.filter_norm};
}

template <class T>
dyndeploy_status run_samples(const Backward& call, int64_t n, int64_t samples) {
  const Problem& problem = call.problem;
  const int64_t maps = problem.branches() * problem.heads;
  if (call.sizes.spatial)
    DYNDEPLOY_TRY(launch_rows(kName<"make_spatial_filters", T>.data(), make_spatial_filters<T>,
                              spatial_filters(call, n, call.memory.spatial, call.sizes.spatial), call.pixels(), maps,
                              samples, call.stream));
  if (call.wanted.x) {
    bool done = false;
    DYNDEPLOY_TRY(launch_turned(call, n, samples, &done));
    if (!done) DYNDEPLOY_TRY(launch_gather_x<T>(call, n, samples));
  }
  if (call.wanted.channels() && problem.C > 0) {
    int64_t parts = 0;
    DYNDEPLOY_TRY(launch_reduce_pixels<T>(call, n, samples, &parts));
    DYNDEPLOY_TRY(launch_rows(kName<"finish_channel_filters", T>.data(), finish_channel_filters<T>,
                              channel_gradients(call, n, parts), problem.C, problem.branches(), samples, call.stream));
  }
  if (call.wanted.spatial_filter) {
    DYNDEPLOY_TRY(launch_reduce_channels<T>(call, n, samples));
    DYNDEPLOY_TRY(launch_rows(kName<"finish_spatial_filters", T>.data(), finish_spatial_filters<T>,
                              spatial_filters(call, n, call.memory.of_spatial, call.sizes.of_spatial), call.pixels(),
                              maps, samples, call.stream));
  }
  return DYNDEPLOY_OK;
}

template <class T>
dyndeploy_status run(const Backward& call) {
  const Problem& problem = call.problem;
  if (call.sizes.channel && problem.C > 0 && problem.N > 0)
    DYNDEPLOY_TRY(launch_channel_filters(problem, call.inputs, call.layout, call.memory.channel, call.stream));
  const int64_t at_a_time = call.sizes.samples(problem);
  for (int64_t n = 0; n < problem.N; n += at_a_time)
    DYNDEPLOY_TRY(run_samples<T>(call, n, std::min(at_a_time, problem.N - n)));
  if (!call.wanted.channel_gain) return DYNDEPLOY_OK;
  return launch_rows(kName<"add_gain_gradients", T>.data(), add_gain_gradients<T>, channel_gradients(call, 0, 0),
                     problem.C, problem.branches() * problem.window.taps(), 1, call.stream);
}

template <class T>
void add_kernels(std::vector<dyndeploy_cuda_kernel>& all) {
  const auto add = [&]<Text Kernel>(auto kernel, int threads, size_t shared_bytes, int blocks) {
    all.push_back(known<Kernel, T>(reinterpret_cast<const void*>(kernel), threads, shared_bytes, blocks));
  };
  constexpr int kThreads = Lanes::kThreads;
  add.template operator()<"gather_x">(gather_x<T, true>, kThreads, 0, GatherX<T>::kBlocks);
  add.template operator()<"gather_x">(gather_x<T, false>, kThreads, 0, GatherX<T>::kBlocks);
  add.template operator()<"reduce_pixels">(reduce_pixels<T, true>, kThreads, sizeof(ReducePixelsShared<T, true>),
                                           ReducePixels<T>::kBlocks);
  add.template operator()<"reduce_pixels">(reduce_pixels<T, false>, kThreads, sizeof(ReducePixelsShared<T, false>),
                                           ReducePixels<T>::kBlocks);
  add.template operator()<"reduce_channels">(reduce_channels<T, true>, kThreads, sizeof(ReduceChannelsShared),
                                             ReduceChannels<T>::kBlocks);
  add.template operator()<"reduce_channels">(reduce_channels<T, false>, kThreads, sizeof(ReduceChannelsShared),
                                             ReduceChannels<T>::kBlocks);
  add.template operator()<"reduce_pixels_3x3">(reduce_pixels_3x3<T, true>, kThreads, sizeof(ReducePixelsShared<T, true>),
                                               PixelStrip<T, true>::kBlocks);
  add.template operator()<"reduce_pixels_3x3">(reduce_pixels_3x3<T, false>, kThreads,
                                               sizeof(ReducePixelsShared<T, false>), PixelStrip<T, false>::kBlocks);
  add.template operator()<"reduce_channels_3x3">(reduce_channels_3x3<T, true>, kThreads, sizeof(ReduceChannelsShared),
                                                 ChannelStrip<T, true>::kBlocks);
  add.template operator()<"reduce_channels_3x3">(reduce_channels_3x3<T, false>, kThreads, sizeof(ReduceChannelsShared),
                                                 ChannelStrip<T, false>::kBlocks);
  add.template operator()<"make_spatial_filters">(make_spatial_filters<T>, kNormThreads, 0, kNormBlocks);
  add.template operator()<"finish_spatial_filters">(finish_spatial_filters<T>, kNormThreads, 0, kNormBlocks);
  add.template operator()<"finish_channel_filters">(finish_channel_filters<T>, kNormThreads, 0, kNormBlocks);
  add.template operator()<"add_gain_gradients">(add_gain_gradients<T>, kNormThreads, 0, kNormBlocks);
}

// --- checks

// Distances in elements of a map's dims, but the batch's.
dyndeploy_status check_strides(const dyndeploy_tensor& map) {
  for (const int axis : {1, 2, 3})
    if (std::abs(stride_of(map, axis)) > cuda::kMostCount) return cuda::too_large(kOp, "strides");
  return DYNDEPLOY_OK;
}

dyndeploy_status check_blocks(const Problem& problem) {
  const Window& window = problem.window;
  const int64_t pixels = window.Ho * window.Wo, of_x = window.H * window.W, most = cuda::kMostCount;
  if (pixels > most / 2) return cuda::too_large(kOp, "pixels of Y");
  if (of_x > most / 2) return cuda::too_large(kOp, "pixels of X");
  // Of the smallest tiles.
  const int64_t units = divide_up(problem.C, kUnit<float, false>) + problem.heads, branches = problem.branches();
  if (divide_up(of_x, 16) > most / units || branches * divide_up(pixels, 16) > most / std::max(units, problem.heads))
    return cuda::too_large(kOp, "blocks");
  // Quotients of coordinates of X.
  const bool down = window.Ho > 1 && window.H + window.top >= (int64_t{1} << 32) / window.stride_h;
  const bool right = window.Wo > 1 && window.W + window.left >= (int64_t{1} << 32) / window.stride_w;
  return down || right ? cuda::too_large(kOp, "coordinates times strides") : DYNDEPLOY_OK;
}

dyndeploy_status resolve_backward(const dyndeploy_ddf* attributes, const dyndeploy_tensor* gradient,
                                  const dyndeploy_tensor* inputs, const dyndeploy_tensor* gradients,
                                  const dyndeploy_cuda_resources* resources, Problem* problem) {
  DYNDEPLOY_TRY(cuda::check_resources(kOp, resources));
  DYNDEPLOY_TRY(resolve(attributes, inputs, problem));
  DYNDEPLOY_TRY(check_gradients(*problem, gradient, inputs, gradients));
  DYNDEPLOY_TRY(check_sizes(*problem));
  DYNDEPLOY_TRY(check_blocks(*problem));
  DYNDEPLOY_TRY(check_strides(*gradient));
  DYNDEPLOY_TRY(check_strides(inputs[kX]));
  return gradients[kX].data ? check_strides(gradients[kX]) : DYNDEPLOY_OK;
}

uint64_t workspace_of(const Problem& problem, const dyndeploy_tensor* gradients) {
  Workspace workspace;
  Memory(problem, Sizes(problem, Wanted(gradients)), workspace);
  return workspace.bytes();
}

}  // namespace

std::vector<dyndeploy_cuda_kernel> backward_kernels() {
  std::vector<dyndeploy_cuda_kernel> all;
  add_kernels<float>(all);
  add_kernels<cuda::float16>(all);
  add_kernels<cuda::bfloat16>(all);
  return all;
}

}  // namespace dyndeploy::ddf

using namespace dyndeploy;
using namespace dyndeploy::ddf;

dyndeploy_status dyndeploy_ddf_cuda_backward_workspace(const dyndeploy_ddf* attributes, const dyndeploy_tensor* gradient,
                                                       const dyndeploy_tensor inputs[4],
                                                       const dyndeploy_tensor gradients[4],
                                                       const dyndeploy_cuda_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_backward(attributes, gradient, inputs, gradients, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = workspace_of(problem, gradients);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_ddf_cuda_backward(const dyndeploy_ddf* attributes, const dyndeploy_tensor* gradient,
                                             const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                             const dyndeploy_cuda_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_backward(attributes, gradient, inputs, gradients, resources, &problem));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "the gradient of Y", *gradient));
  DYNDEPLOY_TRY(cuda::check_workspace(kOp, *resources, workspace_of(problem, gradients)));
  const Wanted wanted(gradients);
  const Sizes sizes(problem, wanted);
  Workspace workspace(resources->workspace);
  const Backward call{.problem = problem,
                      .gradient = *gradient,
                      .inputs = inputs,
                      .gradients = gradients,
                      .wanted = wanted,
                      .sizes = sizes,
                      .memory = Memory(problem, sizes, workspace),
                      .layout = by_taps(problem),
                      .stream = static_cast<cudaStream_t>(resources->stream)};
  return cuda::with_type(problem.dtype, [&](auto type) { return run<decltype(type)>(call); });
}

// The C ABI of the gradients on GPUs: which thread does what, launches. The kernels are in gather_x.cuh, reduce_*.cuh
// and norm_gradients.cuh; sizes and memory in backward_layout.h.
#include <bit>

#include "common/entry.h"
#include "ddf/backward_kernel_list.cuh"
#include "ddf/backward_layout.h"

namespace dyndeploy::ddf {
namespace {

using namespace cuda::ddf;
using cuda::divide_up;
using cuda::stride_of;

// Blocks that keep all multiprocessors busy.
int64_t enough_blocks() { return used_blocks > 0 ? used_blocks.load() : 4 * cuda::kMultiprocessors; }
// Neighbouring units of a warp's lanes, where a unit is a vector.
constexpr int64_t kMostUnits = 8;

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

struct BackwardCall : BackwardArguments<dyndeploy_ddf, dyndeploy_cuda_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(cuda::check_resources(kOp, resources));
    return ddf::resolve(attributes, inputs, &problem);
  }
  dyndeploy_status prepare() const {
    DYNDEPLOY_TRY(check_sizes(problem));
    DYNDEPLOY_TRY(check_blocks(problem));
    DYNDEPLOY_TRY(check_strides(*gradient));
    DYNDEPLOY_TRY(check_strides(inputs[kX]));
    return gradients[kX].data ? check_strides(gradients[kX]) : DYNDEPLOY_OK;
  }
  uint64_t workspace() const {
    Workspace workspace;
    Memory(problem, Sizes(problem, Wanted(gradients)), workspace);
    return workspace.bytes();
  }
  dyndeploy_status run() const {
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
    return cuda::with_type(problem.dtype, [&](auto type) { return ddf::run<decltype(type)>(call); });
  }
};

}  // namespace

std::vector<dyndeploy_cuda_kernel> backward_kernels() {
  std::vector<dyndeploy_cuda_kernel> all;
  add_backward_kernels<float>(all);
  add_backward_kernels<cuda::float16>(all);
  add_backward_kernels<cuda::bfloat16>(all);
  return all;
}

}  // namespace dyndeploy::ddf

using namespace dyndeploy;
using namespace dyndeploy::ddf;

dyndeploy_status dyndeploy_ddf_cuda_backward_workspace(const dyndeploy_ddf* attributes, const dyndeploy_tensor* gradient,
                                                       const dyndeploy_tensor inputs[4],
                                                       const dyndeploy_tensor gradients[4],
                                                       const dyndeploy_cuda_resources* resources, uint64_t* bytes) {
  return query_backward(kOp, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}}, bytes);
}

dyndeploy_status dyndeploy_ddf_cuda_backward(const dyndeploy_ddf* attributes, const dyndeploy_tensor* gradient,
                                             const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                             const dyndeploy_cuda_resources* resources) {
  return run_backward(kOp, kInputs, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}});
}

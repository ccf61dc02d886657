// The C ABI on GPUs with filters that are mixed of banks: checks, how it is done, launches.
//
//   scaled   convolve_scaled.cuh: no filters are made; for every pixel `bases` times the multiply-adds
//   stored   mix_filters.cuh makes the filters of as many samples as fit kMixedBytes, convolve.cuh multiplies with them
//            while they are in the second cache; then the next samples
//
// Mixing on the chip while a tile is multiplied would be a third way, but reads `bases` numbers of banks from the second
// cache for every number of a filter, and for every tile again: more than to write and read a filter, since a tile has the
// pixels of one region only.
#include <atomic>

#include "common/entry.h"
#include "drconv/convolve_scaled.cuh"
#include "drconv/cuda_mix.h"
#include "drconv/launch.h"
#include "drconv/mix_filters.cuh"
#include "drconv/prepare.cuh"
#include "drconv/problem_mix.h"

namespace dyndeploy::drconv::mix {
namespace {

using cuda::divide_up;
using cuda::kMostCount;
using cuda::Sixteen;

// Of filters at a time, where one sample does not need more: a third of the second cache of an H200.
constexpr int64_t kMixedBytes = int64_t{16} << 20;
// Of the depth: parts, bytes of all their sums, and multiprocessors' worth of blocks that they are to make.
constexpr int64_t kMostParts = 16, kMostPartBytes = int64_t{16} << 20;

using SmallShape = cuda::Tile<64, 64, 2, 2, 3>;
using LargeShape = cuda::Tile<128, 128, 2, 4, 1>;
using ExactLargeShape = cuda::Tile<128, 128, 4, 2, 1>;

// What dyndeploy_drconv_cuda_use_mix asked for.
std::atomic<int> used_scaled{-1}, used_samples{0};

int64_t pixels_of_all(const Problem& problem) { return problem.convolution.N * problem.convolution.pixels(); }
// Of depth, of every base.
int64_t steps_of(const Problem& problem) {
  return problem.convolution.window.taps() * stages_of_tap(problem.convolution);
}

// The banks as filters of one sample with `bases` regions.
drconv::Problem banks_problem(const Problem& problem) {
  drconv::Problem banks = problem.convolution;
  banks.N = 1;
  banks.regions = problem.bases;
  return banks;
}

// Vectors of a filter bank, as prepare_filters arranges it.
int64_t filter_vectors(const Problem& problem) {
  return steps_of(problem) * columns(problem.convolution) * cuda::kStageVectors;
}

// Samples whose filters are made at a time. What is reserved for them does not fall when an extent grows.
int64_t mixed_vectors(const Problem& problem) {
  const int64_t of_sample = problem.convolution.regions * filter_vectors(problem);
  return std::max(of_sample, std::min(problem.convolution.N * of_sample, kMixedBytes / static_cast<int64_t>(sizeof(Sixteen))));
}
int64_t samples_at_once(const Problem& problem) {
  const int64_t of_sample = problem.convolution.regions * filter_vectors(problem), all = problem.convolution.N;
  const int64_t fit = of_sample ? std::clamp<int64_t>(mixed_vectors(problem) / of_sample, 1, all) : all;
  const int64_t used = used_samples;
  return used ? std::min(used, fit) : fit;
}

dyndeploy_status check_sizes(const Problem& problem) {
  const drconv::Problem& convolution = problem.convolution;
  DYNDEPLOY_TRY(drconv::check_sizes(convolution));
  const int64_t steps = std::max<int64_t>(steps_of(problem), 1), bases = std::max<int64_t>(problem.bases, 1);
  if (bases > kMostCount / steps) return cuda::too_large(kOp, "bases");
  const int64_t blocks = columns(convolution) / kArrangeColumns * std::max<int64_t>(stages_of_tap(convolution), 1);
  if (blocks > kMostCount / bases) return cuda::too_large(kOp, "blocks of banks");
  const int64_t of_step = std::max<int64_t>(columns(convolution) * cuda::kStageVectors, 1);
  if (of_step > kMostCount / steps || filter_vectors(problem) > kMostCount / convolution.regions)
    return cuda::too_large(kOp, "filters");
  const int64_t tiles = std::max<int64_t>(divide_up(pixels_of_all(problem), 32) * divide_up(convolution.O, 64), 1);
  return tiles > kMostCount / kMostParts ? cuda::too_large(kOp, "tiles") : DYNDEPLOY_OK;
}

// --- memory: room for both ways

struct Scaled {
  Sixteen *x, *banks;
  float* sums;
};
Scaled lay_out_scaled(const Problem& problem, Workspace& workspace) {
  Scaled buffers;
  buffers.x = take_x(problem.convolution, workspace);
  buffers.banks = take_filters(banks_problem(problem), workspace);
  const int64_t of_part = pixels_of_all(problem) * columns(problem.convolution) * static_cast<int64_t>(sizeof(float));
  buffers.sums = workspace.take<float>(std::min(kMostParts * of_part, kMostPartBytes) / static_cast<int64_t>(sizeof(float)));
  return buffers;
}

struct Stored {
  Sixteen *x, *banks, *mixed;
  Sorting sorting;
};
Stored lay_out_stored(const Problem& problem, Workspace& workspace) {
  Stored buffers;
  buffers.x = take_x(problem.convolution, workspace);
  buffers.banks = take_filters(banks_problem(problem), workspace);
  buffers.mixed = workspace.take<Sixteen>(mixed_vectors(problem));
  buffers.sorting = take_sorting(problem.convolution, workspace);
  return buffers;
}

uint64_t workspace_of(const Problem& problem) {
  Workspace scaled, stored;
  lay_out_scaled(problem, scaled);
  lay_out_stored(problem, stored);
  return std::max(scaled.bytes(), stored.bytes());
}

// --- the choice

// By clocks of a multiprocessor of an H200 for one number of a bank and one sample: data sheets and counting, not measured.
bool scales(const Problem& problem, bool tf32) {
  if (steps_of(problem) == 0 || problem.bases == 0) return true;
  if (used_scaled >= 0) return used_scaled == 1;
  const bool halves = problem.convolution.dtype != DYNDEPLOY_FLOAT32;
  const double multiply_adds = halves ? 1228 : tf32 ? 614 : 128;  // of a product, a clock; mma.sync gets 0.6 of the peak
  const double moved = (halves ? 2.0 : 4.0) / 24;                 // to write or read a filter's number, second cache
  const double pixels = static_cast<double>(problem.convolution.pixels());
  const double bases = static_cast<double>(problem.bases), regions = static_cast<double>(problem.convolution.regions);
  const double scaled = pixels * bases / multiply_adds;
  const double stored = regions * (std::max(bases / 128, moved) + moved) + pixels / multiply_adds;
  return scaled <= stored;
}

// --- launches

template <class T, class Shape, class Product>
dyndeploy_status launch_shape(ScaledConvolution& p, cudaStream_t stream) {
  p.row_tiles = static_cast<int>(divide_up(p.output.rows, Shape::kRows));
  p.column_tiles = static_cast<int>(divide_up(p.outputs, Shape::kColumns));
  const int64_t tiles = static_cast<int64_t>(p.row_tiles) * p.column_tiles;
  const int64_t of_part = static_cast<int64_t>(p.output.rows) * p.columns * static_cast<int64_t>(sizeof(float));
  const int64_t most = std::clamp<int64_t>(std::min<int64_t>(kMostPartBytes / of_part, p.steps), 1, kMostParts);
  const int64_t wanted = std::clamp<int64_t>(cuda::kMultiprocessors * Shape::kBlocks / tiles, 1, most);
  p.part_steps = static_cast<int>(std::max<int64_t>(divide_up(p.steps, wanted), 1));
  p.parts = static_cast<int>(std::max<int64_t>(divide_up(p.steps, p.part_steps), 1));
  const cuda::Launch how{.name = "drconv convolve_scaled",
                         .blocks = dim3(static_cast<unsigned>(tiles * p.parts)),
                         .threads = Shape::kThreads,
                         .shared_bytes = sizeof(cuda::GemmShared<Shape>),
                         .stream = stream};
  DYNDEPLOY_TRY(cuda::launch(how, convolve_scaled<T, Shape, Product>, p));
  if (p.parts == 1) return DYNDEPLOY_OK;
  const int64_t slabs = divide_up(p.output.rows, kAddRows) * divide_up(p.outputs, cuda::kSlabColumns);
  const cuda::Launch adding{.name = "drconv add_parts",
                            .blocks = dim3(static_cast<unsigned>(slabs)),
                            .threads = kAddThreads,
                            .shared_bytes = sizeof(AddShared),
                            .stream = stream};
  return cuda::launch(adding, add_parts<T>, p);
}

// The larger tile reads banks half as often, where there are pixels and outputs to fill it.
template <class T>
dyndeploy_status launch_scaled(bool tf32, ScaledConvolution& p, cudaStream_t stream) {
  using cuda::FloatProduct;
  using cuda::TensorCoreProduct;
  const bool large = p.output.rows > 64 && p.outputs > 64;
  if constexpr (sizeof(T) == 4) {
    if (tf32)
      return large ? launch_shape<T, LargeShape, TensorCoreProduct<LargeShape, cuda::tf32>>(p, stream)
                   : launch_shape<T, SmallShape, TensorCoreProduct<SmallShape, cuda::tf32>>(p, stream);
    return large ? launch_shape<T, ExactLargeShape, FloatProduct<ExactLargeShape>>(p, stream)
                 : launch_shape<T, SmallShape, FloatProduct<SmallShape>>(p, stream);
  } else {
    return large ? launch_shape<T, LargeShape, TensorCoreProduct<LargeShape, T>>(p, stream)
                 : launch_shape<T, SmallShape, TensorCoreProduct<SmallShape, T>>(p, stream);
  }
}

// As prepare_filters takes them.
dyndeploy_tensor banks_tensor(const dyndeploy_tensor& banks) {
  dyndeploy_tensor tensor = banks;
  tensor.rank = 3;
  tensor.extents[0] = 1;
  for (int axis = 0; axis < 2; ++axis) {
    tensor.extents[axis + 1] = banks.extents[axis];
    tensor.strides[axis + 1] = banks.strides[axis];
  }
  return tensor;
}

dyndeploy_status run_scaled(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                            bool tf32, const Scaled& buffers, cudaStream_t stream) {
  const drconv::Problem& convolution = problem.convolution;
  const dyndeploy_tensor &share = inputs[kShare], &guide = inputs[kGuide];
  ScaledConvolution p{};
  p.vectors = static_cast<int>(channel_vectors(convolution));
  p.bases = static_cast<int>(problem.bases);
  p.steps = problem.bases ? static_cast<int>(steps_of(problem)) : 0;
  p.share = share.data;
  p.n = cuda::stride_of(share, 0);
  p.t = cuda::stride_of(share, 1);
  p.j = cuda::stride_of(share, 2);
  p.guide.guide = guide.data;
  p.guide.n = cuda::stride_of(guide, 0);
  p.guide.c = cuda::stride_of(guide, 1);
  p.guide.h = cuda::stride_of(guide, 2);
  p.guide.w = cuda::stride_of(guide, 3);
  p.guide.regions = static_cast<int>(convolution.regions);
  p.guide.width = static_cast<int>(convolution.window.Wo);
  p.outputs = static_cast<int>(convolution.O);
  p.columns = static_cast<int>(columns(convolution));
  p.sums = buffers.sums;
  p.output = cuda::output_of(Y, inputs[kB], convolution.relu);
  DYNDEPLOY_TRY(prepare_map(inputs[kX], convolution.window, buffers.x, p.map, p.x, stream));
  DYNDEPLOY_TRY(prepare_filters(banks_problem(problem), banks_tensor(inputs[kBanks]), buffers.banks, p.banks, stream));
  return cuda::with_type(convolution.dtype, [&](auto type) { return launch_scaled<decltype(type)>(tf32, p, stream); });
}

// Filters of `samples` samples, from those on that `share` begins with.
dyndeploy_status launch_mix(const Problem& problem, const dyndeploy_tensor& share, int64_t samples, const Filters& banks,
                            Filters& filters, Sixteen* mixed, cudaStream_t stream) {
  const drconv::Problem& convolution = problem.convolution;
  // Where they lie in rows of channels, and otherwise arranged without a gap.
  const bool in_place = banks.stage == cuda::kStageVectors;
  const int64_t of_column = channel_vectors(convolution);
  const int64_t vectors = in_place ? convolution.O * of_column : filter_vectors(problem);
  const int64_t pairs = samples * convolution.regions;
  filters = banks;
  filters.data = mixed;
  filters.region = vectors;
  if (in_place) filters.column = static_cast<int>(of_column);
  const int64_t vector_tiles = divide_up(vectors, kMixThreads), pair_tiles = divide_up(pairs, kMixPairs);
  const Mixing mixing{.banks = banks,
                      .column_vectors = static_cast<int>(in_place ? of_column : vectors),
                      .vectors = static_cast<int>(vectors),
                      .vector_tiles = static_cast<int>(vector_tiles),
                      .pair_tiles = static_cast<int>(pair_tiles),
                      .bases = static_cast<int>(problem.bases),
                      .regions = static_cast<int>(convolution.regions),
                      .pairs = static_cast<int>(pairs),
                      .share = share.data,
                      .n = cuda::stride_of(share, 0),
                      .t = cuda::stride_of(share, 1),
                      .j = cuda::stride_of(share, 2),
                      .mixed = mixed};
  const cuda::Launch how{.name = "drconv mix_filters",
                         .blocks = dim3(static_cast<unsigned>(vector_tiles * pair_tiles)),
                         .threads = kMixThreads,
                         .shared_bytes = sizeof(MixShared),
                         .stream = stream};
  return cuda::with_type(convolution.dtype, [&](auto type) { return cuda::launch(how, mix_filters<decltype(type)>, mixing); });
}

dyndeploy_status run_stored(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y, bool tf32,
                            Stored& buffers, cudaStream_t stream) {
  const drconv::Problem& convolution = problem.convolution;
  const int64_t at_once = samples_at_once(problem), element = convolution.dtype == DYNDEPLOY_FLOAT32 ? 4 : 2;
  drconv::Problem some = convolution;
  some.N = at_once;
  const Choice choice = choose(some);
  DYNDEPLOY_TRY(launch_sort(convolution, inputs[kGuide], rows_of(choice), buffers.sorting, stream));
  Filters banks{};
  DYNDEPLOY_TRY(prepare_filters(banks_problem(problem), banks_tensor(inputs[kBanks]), buffers.banks, banks, stream));
  cuda::WindowMap map{};
  const Sixteen* x = nullptr;
  DYNDEPLOY_TRY(prepare_map(inputs[kX], convolution.window, buffers.x, map, x, stream));
  for (int64_t n = 0; n < convolution.N; n += at_once) {
    some.N = std::min(at_once, convolution.N - n);
    Convolution p{.map = map,
                  .x = x + n * map.n,
                  .vectors = static_cast<int>(channel_vectors(convolution)),
                  .taps = static_cast<int>(convolution.window.taps()),
                  .filters = {},
                  .sorted = buffers.sorting.sorted + n * convolution.pixels(),
                  .tiles = buffers.sorting.tiles + n * buffers.sorting.most_tiles,
                  .most_tiles = buffers.sorting.most_tiles,
                  .regions = static_cast<int>(convolution.regions),
                  .outputs = static_cast<int>(convolution.O),
                  .column_tiles = 0,
                  .output = cuda::output_of(Y, inputs[kB], convolution.relu)};
    p.output.data = static_cast<char*>(p.output.data) + n * p.output.n * element;
    DYNDEPLOY_TRY(launch_mix(problem, samples_of(inputs[kShare], n, some.N), some.N, banks, p.filters, buffers.mixed, stream));
    DYNDEPLOY_TRY(launch_convolve(some, choice, tf32, p, stream));
  }
  return DYNDEPLOY_OK;
}

dyndeploy_status run(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                     const dyndeploy_cuda_resources& resources) {
  if (elements(Y) == 0) return DYNDEPLOY_OK;
  const auto stream = static_cast<cudaStream_t>(resources.stream);
  const bool tf32 = resources.tf32 == 1;
  Workspace workspace(resources.workspace);
  if (scales(problem, tf32)) return run_scaled(problem, inputs, Y, tf32, lay_out_scaled(problem, workspace), stream);
  Stored buffers = lay_out_stored(problem, workspace);
  return run_stored(problem, inputs, Y, tf32, buffers, stream);
}

template <class T, class Shape, class Product>
dyndeploy_cuda_kernel scaled_entry(const char* name) {
  return cuda::kernel_entry(name, convolve_scaled<T, Shape, Product>, Shape::kThreads, sizeof(cuda::GemmShared<Shape>),
                            Shape::kBlocks);
}

struct ForwardCall : ForwardArguments<dyndeploy_drconv, dyndeploy_cuda_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(cuda::check_resources(kOp, resources));
    DYNDEPLOY_TRY(check_unpacked(kOp, resources->packed));
    return mix::resolve(attributes, inputs, &problem);
  }
  dyndeploy_status prepare() const { return check_sizes(problem); }
  uint64_t workspace() const { return workspace_of(problem); }
  dyndeploy_status run() const { return mix::run(problem, inputs, *output, *resources); }
};

}  // namespace

void add_kernels(std::vector<dyndeploy_cuda_kernel>& all) {
  using cuda::bfloat16;
  using cuda::float16;
  using cuda::FloatProduct;
  using cuda::kernel_entry;
  using cuda::TensorCoreProduct;
  all.insert(
      all.end(),
      {kernel_entry("mix_filters, float32", mix_filters<float>, kMixThreads, sizeof(MixShared)),
       kernel_entry("mix_filters, float16", mix_filters<float16>, kMixThreads, sizeof(MixShared)),
       kernel_entry("mix_filters, bfloat16", mix_filters<bfloat16>, kMixThreads, sizeof(MixShared)),
       kernel_entry("add_parts, float32", add_parts<float>, kAddThreads, sizeof(AddShared)),
       kernel_entry("add_parts, float16", add_parts<float16>, kAddThreads, sizeof(AddShared)),
       kernel_entry("add_parts, bfloat16", add_parts<bfloat16>, kAddThreads, sizeof(AddShared)),
       scaled_entry<float, SmallShape, FloatProduct<SmallShape>>("convolve_scaled, float32, 64 x 64"),
       scaled_entry<float, ExactLargeShape, FloatProduct<ExactLargeShape>>("convolve_scaled, float32, 128 x 128"),
       scaled_entry<float, SmallShape, TensorCoreProduct<SmallShape, cuda::tf32>>("convolve_scaled, TF32, 64 x 64"),
       scaled_entry<float, LargeShape, TensorCoreProduct<LargeShape, cuda::tf32>>("convolve_scaled, TF32, 128 x 128"),
       scaled_entry<float16, SmallShape, TensorCoreProduct<SmallShape, float16>>("convolve_scaled, float16, 64 x 64"),
       scaled_entry<float16, LargeShape, TensorCoreProduct<LargeShape, float16>>("convolve_scaled, float16, 128 x 128"),
       scaled_entry<bfloat16, SmallShape, TensorCoreProduct<SmallShape, bfloat16>>("convolve_scaled, bfloat16, 64 x 64"),
       scaled_entry<bfloat16, LargeShape, TensorCoreProduct<LargeShape, bfloat16>>("convolve_scaled, bfloat16, 128 x 128")});
}

}  // namespace dyndeploy::drconv::mix

using namespace dyndeploy;
using namespace dyndeploy::drconv;

dyndeploy_status dyndeploy_drconv_cuda_use_mix(int32_t scaled, int32_t samples) {
  DYNDEPLOY_TRY(check_range(kOp, "scaled", scaled, -1, 1));
  DYNDEPLOY_TRY(check_range(kOp, "samples", samples, 0, INT32_MAX));
  mix::used_scaled = scaled;
  mix::used_samples = samples;
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_drconv_cuda_forward_mix_workspace(const dyndeploy_drconv* attributes,
                                                             const dyndeploy_tensor inputs[5],
                                                             const dyndeploy_tensor* output,
                                                             const dyndeploy_cuda_resources* resources, uint64_t* bytes) {
  return query_forward(kOp, mix::ForwardCall{{attributes, inputs, output, resources}}, bytes);
}

dyndeploy_status dyndeploy_drconv_cuda_forward_mix(const dyndeploy_drconv* attributes, const dyndeploy_tensor inputs[5],
                                                   const dyndeploy_tensor* output,
                                                   const dyndeploy_cuda_resources* resources) {
  return run_forward(kOp, mix::kInputs, mix::ForwardCall{{attributes, inputs, output, resources}});
}

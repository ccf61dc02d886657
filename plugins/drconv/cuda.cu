// The C ABI on GPUs: checks, memory, the choice of tiles, launches. The kernels are in regions.cuh and convolve.cuh.
#include <algorithm>

#include "common/cuda/channels_last.cuh"
#include "common/cuda/call.h"
#include "drconv/convolve.cuh"
#include "drconv/problem.h"

namespace dyndeploy::drconv {
namespace {

using cuda::divide_up;
using cuda::kMostCount;
using cuda::Sixteen;
using cuda::stride_of;
using cuda::wide;

int64_t channel_vectors(const Problem& problem) { return divide_up(problem.C, wide(problem.dtype)); }
int64_t stages_of_tap(const Problem& problem) { return divide_up(channel_vectors(problem), cuda::kStageVectors); }
int64_t columns(const Problem& problem) { return cuda::round_up(problem.O, kArrangeColumns); }
int64_t pieces(const Problem& problem) { return divide_up(problem.pixels(), kPiece); }
// The tile with the fewest rows needs the longest table.
constexpr int kFewestRows = 64;
int64_t most_tiles(const Problem& problem, int64_t rows) {
  return problem.pixels() / rows + std::min(problem.regions, problem.pixels());
}
int64_t arrange_blocks(const Problem& problem) {
  return problem.N * problem.regions * (columns(problem) / kArrangeColumns) * stages_of_tap(problem);
}

dyndeploy_status check_sizes(const Problem& problem) {
  const Window& window = problem.window;
  DYNDEPLOY_TRY(cuda::check_window(kOp, window));
  if (problem.regions > kMostRegions)
    return unsupported("%s: regions = %lld; the CUDA kernels have %d at most", kOp,
                       static_cast<long long>(problem.regions), kMostRegions);
  if (problem.O > kMostCount || window.taps() * stages_of_tap(problem) > kMostCount / cuda::kStageVectors ||
      problem.C > kMostCount)
    return cuda::too_large(kOp, "outputs, channels and taps");
  const int64_t samples = std::max<int64_t>(problem.N, 1), of_x = window.H * window.W;
  if (problem.pixels() > kMostCount / samples || of_x > kMostCount / std::max<int64_t>(channel_vectors(problem), 1))
    return cuda::too_large(kOp, "pixels");
  const int64_t column_tiles = std::max<int64_t>(divide_up(problem.O, 64), 1);
  const int64_t vector_tiles = divide_up(channel_vectors(problem), cuda::kCopyVectors);
  if (most_tiles(problem, kFewestRows) > kMostCount / samples / column_tiles ||
      divide_up(of_x, cuda::kCopyPixels) > kMostCount / samples / std::max<int64_t>(vector_tiles, 1) ||
      pieces(problem) * problem.regions > kMostCount)
    return cuda::too_large(kOp, "tiles");
  const int64_t of_region = columns(problem) / kArrangeColumns * std::max<int64_t>(stages_of_tap(problem), 1);
  if (of_region > kMostCount / samples / problem.regions) return cuda::too_large(kOp, "blocks of filters");
  return DYNDEPLOY_OK;
}

// The workspace depends on no address and no stride: it has room for what a call with other strides would need, and so
// never shrinks when an extent grows.
struct Buffers {
  Sixteen* x;
  Sixteen* filters;
  int* chosen;
  int* starts;
  int* sorted;
  Tile* tiles;
};

Buffers lay_out(const Problem& problem, Workspace& workspace) {
  const Window& window = problem.window;
  Buffers buffers;
  buffers.x = workspace.take<Sixteen>(problem.N * window.H * window.W * channel_vectors(problem));
  buffers.filters = workspace.take<Sixteen>(problem.N * problem.regions * window.taps() * stages_of_tap(problem) *
                                            columns(problem) * cuda::kStageVectors);
  buffers.chosen = workspace.take<int>(problem.N * problem.pixels());
  buffers.starts = workspace.take<int>(problem.N * problem.regions * pieces(problem));
  buffers.sorted = workspace.take<int>(problem.N * problem.pixels());
  buffers.tiles = workspace.take<Tile>(problem.N * most_tiles(problem, kFewestRows));
  return buffers;
}

uint64_t workspace_of(const Problem& problem) {
  Workspace workspace;
  lay_out(problem, workspace);
  return workspace.bytes();
}

dyndeploy_status launch_sort(const Problem& problem, const dyndeploy_tensor& guide, const Buffers& buffers, int rows,
                             cudaStream_t stream) {
  const Sorting sorting{.guide = guide.data,
                        .n = stride_of(guide, 0),
                        .c = stride_of(guide, 1),
                        .h = stride_of(guide, 2),
                        .w = stride_of(guide, 3),
                        .regions = static_cast<int>(problem.regions),
                        .pixels = static_cast<int>(problem.pixels()),
                        .width = static_cast<int>(problem.window.Wo),
                        .pieces = static_cast<int>(pieces(problem)),
                        .chosen = buffers.chosen,
                        .starts = buffers.starts,
                        .sorted = buffers.sorted,
                        .tiles = buffers.tiles,
                        .most_tiles = static_cast<int>(most_tiles(problem, rows)),
                        .tile_rows = rows};
  const auto how = [&](const char* name, int64_t blocks) {
    return cuda::Launch{.name = name,
                        .blocks = dim3(static_cast<unsigned>(blocks)),
                        .threads = kSortThreads,
                        .shared_bytes = sizeof(SortShared),
                        .stream = stream};
  };
  return cuda::with_type(problem.dtype, [&](auto type) -> dyndeploy_status {
    using T = decltype(type);
    if (sorting.pieces == 1) return cuda::launch(how("drconv sort_small", problem.N), sort_small<T>, sorting);
    const int64_t blocks = problem.N * sorting.pieces;
    DYNDEPLOY_TRY(cuda::launch(how("drconv find_regions", blocks), find_regions<T>, sorting));
    DYNDEPLOY_TRY(cuda::launch(how("drconv place_regions", problem.N), place_regions, sorting));
    return cuda::launch(how("drconv sort_pixels", blocks), sort_pixels, sorting);
  });
}

// X as the product reads it: in place, or copied.
dyndeploy_status prepare_x(const Problem& problem, const dyndeploy_tensor& X, Sixteen* copy, Convolution& convolution,
                           cudaStream_t stream) {
  const Window& window = problem.window;
  const int64_t vectors = channel_vectors(problem), size = wide(problem.dtype);
  convolution.map = cuda::window_map(window, vectors);
  if (cuda::has_vectors(X) && problem.C % size == 0 &&
      window.H * std::abs(stride_of(X, 2)) + window.W * std::abs(stride_of(X, 3)) < kMostCount) {
    convolution.x = static_cast<const Sixteen*>(X.data);
    convolution.map.n = stride_of(X, 0) / size;
    convolution.map.row_h = static_cast<int>(stride_of(X, 2) / size);
    convolution.map.row_w = static_cast<int>(stride_of(X, 3) / size);
    return DYNDEPLOY_OK;
  }
  convolution.x = copy;
  return cuda::launch_channels_last("drconv copy_channels_last", X, problem.C, vectors, vectors, copy, stream);
}

// The filters as the product reads them: in place, or arranged.
dyndeploy_status prepare_filters(const Problem& problem, const dyndeploy_tensor& filters, Sixteen* arranged,
                                 Filters& result, cudaStream_t stream) {
  const int64_t size = wide(problem.dtype), stages = stages_of_tap(problem), taps = problem.window.taps();
  const int64_t n = stride_of(filters, 0), o = stride_of(filters, 1), d = stride_of(filters, 2);
  const bool one_run = problem.N == 1 || n == problem.regions * problem.O * o;
  if (taps == 1 && (d == 1 || problem.C == 1) && problem.C % size == 0 && o % size == 0 && o >= 0 && o < kMostCount && one_run &&
      reinterpret_cast<uintptr_t>(filters.data) % sizeof(Sixteen) == 0) {
    result = {.data = static_cast<const Sixteen*>(filters.data),
              .region = problem.O * o / size,
              .stage = cuda::kStageVectors,
              .column = static_cast<int>(o / size),
              .last_vectors = static_cast<int>(channel_vectors(problem) - (stages - 1) * cuda::kStageVectors)};
    return DYNDEPLOY_OK;
  }
  result = {.data = arranged,
            .region = taps * stages * columns(problem) * cuda::kStageVectors,
            .stage = columns(problem) * cuda::kStageVectors,
            .column = cuda::kStageVectors,
            .last_vectors = cuda::kStageVectors};
  const Arranging arranging{.filters = filters.data,
                            .n = n,
                            .o = o,
                            .d = d,
                            .regions = static_cast<int>(problem.regions),
                            .outputs = static_cast<int>(problem.O),
                            .columns = static_cast<int>(columns(problem)),
                            .channels = static_cast<int>(problem.C),
                            .taps = static_cast<int>(taps),
                            .stages_of_tap = static_cast<int>(stages),
                            .column_tiles = static_cast<int>(columns(problem) / kArrangeColumns),
                            .arranged = arranged};
  return cuda::with_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const cuda::Launch how{.name = "drconv arrange_filters",
                           .blocks = dim3(static_cast<unsigned>(arrange_blocks(problem))),
                           .threads = kArrangeThreads,
                           .shared_bytes = sizeof(ArrangeShared<T>),
                           .stream = stream};
    return cuda::launch(how, arrange_filters<T>, arranging);
  });
}

using SmallShape = cuda::Tile<64, 64, 2, 2, 4>;
using WideShape = cuda::Tile<64, 128, 2, 2, 3>;
using LargeShape = cuda::Tile<128, 128, 2, 4, 1>;
using ExactLargeShape = cuda::Tile<128, 128, 4, 2, 1>;

enum class Choice { small, wide, large };

// Rows of a tile: many, where a region has pixels to fill them on the average. Columns: many, where tiles are many, since the
// windows are gathered again for every tile of columns.
Choice choose(const Problem& problem) {
  const auto blocks = [&](int64_t rows, int64_t of_columns) {
    return problem.N * most_tiles(problem, rows) * divide_up(problem.O, of_columns);
  };
  if (problem.O <= 64) return Choice::small;
  if (problem.pixels() / problem.regions >= 256 && blocks(128, 128) >= cuda::kMultiprocessors) return Choice::large;
  return problem.dtype != DYNDEPLOY_FLOAT32 && blocks(64, 128) >= 3 * cuda::kMultiprocessors ? Choice::wide
                                                                                             : Choice::small;
}
int rows_of(Choice choice) { return choice == Choice::large ? 128 : 64; }

template <class T, class Shape, class Product>
dyndeploy_status launch_shape(const Problem& problem, Convolution& convolution, cudaStream_t stream) {
  convolution.column_tiles = static_cast<int>(divide_up(problem.O, Shape::kColumns));
  const int64_t blocks = problem.N * convolution.most_tiles * convolution.column_tiles;
  const cuda::Launch how{.name = "drconv convolve",
                         .blocks = dim3(static_cast<unsigned>(blocks)),
                         .threads = Shape::kThreads,
                         .shared_bytes = sizeof(cuda::GemmShared<Shape>),
                         .stream = stream};
  return cuda::launch(how, convolve<T, Shape, Product>, convolution);
}

template <class T>
dyndeploy_status launch_convolve(const Problem& problem, Choice choice, bool tf32, Convolution& convolution,
                                 cudaStream_t stream) {
  using cuda::FloatProduct;
  using cuda::TensorCoreProduct;
  if constexpr (sizeof(T) == 4) {
    const bool large = choice == Choice::large;
    if (tf32)
      return large ? launch_shape<T, LargeShape, TensorCoreProduct<LargeShape, cuda::tf32>>(problem, convolution, stream)
                   : launch_shape<T, SmallShape, TensorCoreProduct<SmallShape, cuda::tf32>>(problem, convolution, stream);
    return large ? launch_shape<T, ExactLargeShape, FloatProduct<ExactLargeShape>>(problem, convolution, stream)
                 : launch_shape<T, SmallShape, FloatProduct<SmallShape>>(problem, convolution, stream);
  } else {
    if (choice == Choice::large)
      return launch_shape<T, LargeShape, TensorCoreProduct<LargeShape, T>>(problem, convolution, stream);
    if (choice == Choice::wide)
      return launch_shape<T, WideShape, TensorCoreProduct<WideShape, T>>(problem, convolution, stream);
    return launch_shape<T, SmallShape, TensorCoreProduct<SmallShape, T>>(problem, convolution, stream);
  }
}

dyndeploy_status run(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                     const dyndeploy_cuda_resources& resources) {
  if (elements(Y) == 0) return DYNDEPLOY_OK;
  const auto stream = static_cast<cudaStream_t>(resources.stream);
  Workspace workspace(resources.workspace);
  const Buffers buffers = lay_out(problem, workspace);
  const Choice choice = choose(problem);
  Convolution convolution{.map = {},
                          .x = nullptr,
                          .vectors = static_cast<int>(channel_vectors(problem)),
                          .taps = static_cast<int>(problem.window.taps()),
                          .filters = {},
                          .sorted = buffers.sorted,
                          .tiles = buffers.tiles,
                          .most_tiles = static_cast<int>(most_tiles(problem, rows_of(choice))),
                          .regions = static_cast<int>(problem.regions),
                          .outputs = static_cast<int>(problem.O),
                          .column_tiles = 0,
                          .output = cuda::output_of(Y, inputs[kB], problem.relu)};
  DYNDEPLOY_TRY(launch_sort(problem, inputs[kGuide], buffers, rows_of(choice), stream));
  DYNDEPLOY_TRY(prepare_x(problem, inputs[kX], buffers.x, convolution, stream));
  DYNDEPLOY_TRY(prepare_filters(problem, inputs[kFilters], buffers.filters, convolution.filters, stream));
  return cuda::with_type(problem.dtype, [&](auto type) {
    return launch_convolve<decltype(type)>(problem, choice, resources.tf32 == 1, convolution, stream);
  });
}

dyndeploy_status resolve_forward(const dyndeploy_drconv* attributes, const dyndeploy_tensor* inputs,
                                 const dyndeploy_tensor* output, const dyndeploy_cuda_resources* resources,
                                 Problem* problem) {
  DYNDEPLOY_TRY(cuda::check_resources(kOp, resources));
  if (resources->packed) return bad_argument("%s: nothing of it can be packed, but packed is not NULL", kOp);
  DYNDEPLOY_TRY(resolve(attributes, inputs, problem));
  DYNDEPLOY_TRY(check_output(*problem, output));
  return check_sizes(*problem);
}

template <class T, class Shape, class Product>
dyndeploy_cuda_kernel convolve_entry(const char* name) {
  return cuda::kernel_entry(name, convolve<T, Shape, Product>, Shape::kThreads, sizeof(cuda::GemmShared<Shape>),
                            Shape::kBlocks);
}

}  // namespace
}  // namespace dyndeploy::drconv

using namespace dyndeploy;
using namespace dyndeploy::drconv;

dyndeploy_status dyndeploy_drconv_cuda_forward_workspace(const dyndeploy_drconv* attributes,
                                                         const dyndeploy_tensor inputs[4], const dyndeploy_tensor* output,
                                                         const dyndeploy_cuda_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = workspace_of(problem);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_drconv_cuda_forward(const dyndeploy_drconv* attributes, const dyndeploy_tensor inputs[4],
                                               const dyndeploy_tensor* output,
                                               const dyndeploy_cuda_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "Y", *output));
  DYNDEPLOY_TRY(cuda::check_workspace(kOp, *resources, workspace_of(problem)));
  return run(problem, inputs, *output, *resources);
}

int32_t dyndeploy_drconv_cuda_kernels(const dyndeploy_cuda_kernel** kernels) {
  using cuda::bfloat16;
  using cuda::copy_channels_last;
  using cuda::float16;
  using cuda::FloatProduct;
  using cuda::kernel_entry;
  using cuda::TensorCoreProduct;
  constexpr size_t kSort = sizeof(SortShared);
  static const dyndeploy_cuda_kernel all[] = {
      kernel_entry("sort_small, float32", sort_small<float>, kSortThreads, kSort),
      kernel_entry("sort_small, float16", sort_small<float16>, kSortThreads, kSort),
      kernel_entry("sort_small, bfloat16", sort_small<bfloat16>, kSortThreads, kSort),
      kernel_entry("find_regions, float32", find_regions<float>, kSortThreads, kSort),
      kernel_entry("find_regions, float16", find_regions<float16>, kSortThreads, kSort),
      kernel_entry("find_regions, bfloat16", find_regions<bfloat16>, kSortThreads, kSort),
      kernel_entry("place_regions", place_regions, kSortThreads, kSort),
      kernel_entry("sort_pixels", sort_pixels, kSortThreads, kSort),
      kernel_entry("copy_channels_last, float32", copy_channels_last<float>, cuda::kCopyThreads,
                   sizeof(cuda::CopyShared<float>)),
      kernel_entry("copy_channels_last, float16", copy_channels_last<float16>, cuda::kCopyThreads,
                   sizeof(cuda::CopyShared<float16>)),
      kernel_entry("copy_channels_last, bfloat16", copy_channels_last<bfloat16>, cuda::kCopyThreads,
                   sizeof(cuda::CopyShared<bfloat16>)),
      kernel_entry("arrange_filters, float32", arrange_filters<float>, kArrangeThreads, sizeof(ArrangeShared<float>)),
      kernel_entry("arrange_filters, float16", arrange_filters<float16>, kArrangeThreads, sizeof(ArrangeShared<float16>)),
      kernel_entry("arrange_filters, bfloat16", arrange_filters<bfloat16>, kArrangeThreads,
                   sizeof(ArrangeShared<bfloat16>)),
      convolve_entry<float, SmallShape, FloatProduct<SmallShape>>("convolve, float32, 64 x 64"),
      convolve_entry<float, ExactLargeShape, FloatProduct<ExactLargeShape>>("convolve, float32, 128 x 128"),
      convolve_entry<float, SmallShape, TensorCoreProduct<SmallShape, cuda::tf32>>("convolve, TF32, 64 x 64"),
      convolve_entry<float, LargeShape, TensorCoreProduct<LargeShape, cuda::tf32>>("convolve, TF32, 128 x 128"),
      convolve_entry<float16, SmallShape, TensorCoreProduct<SmallShape, float16>>("convolve, float16, 64 x 64"),
      convolve_entry<float16, WideShape, TensorCoreProduct<WideShape, float16>>("convolve, float16, 64 x 128"),
      convolve_entry<float16, LargeShape, TensorCoreProduct<LargeShape, float16>>("convolve, float16, 128 x 128"),
      convolve_entry<bfloat16, SmallShape, TensorCoreProduct<SmallShape, bfloat16>>("convolve, bfloat16, 64 x 64"),
      convolve_entry<bfloat16, WideShape, TensorCoreProduct<WideShape, bfloat16>>("convolve, bfloat16, 64 x 128"),
      convolve_entry<bfloat16, LargeShape, TensorCoreProduct<LargeShape, bfloat16>>("convolve, bfloat16, 128 x 128"),
  };
  *kernels = all;
  return sizeof(all) / sizeof(all[0]);
}

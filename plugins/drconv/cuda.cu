// The C ABI of the forward on GPUs: checks, the choice of tiles, launches. The kernels are in regions.cuh and convolve.cuh.
#include "common/entry.h"
#include "drconv/cuda_backward.h"
#include "drconv/cuda_mix.h"
#include "drconv/launch.h"
#include "drconv/prepare.cuh"

namespace dyndeploy::drconv {
namespace {

using cuda::divide_up;

uint64_t workspace_of(const Problem& problem) {
  Workspace workspace;
  take_x(problem, workspace);
  take_filters(problem, workspace);
  take_sorting(problem, workspace);
  return workspace.bytes();
}

using SmallShape = cuda::Tile<64, 64, 2, 2, 4>;
using WideShape = cuda::Tile<64, 128, 2, 2, 3>;
using LargeShape = cuda::Tile<128, 128, 2, 4, 1>;
using ExactLargeShape = cuda::Tile<128, 128, 4, 2, 1>;

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
dyndeploy_status launch_typed(const Problem& problem, Choice choice, bool tf32, Convolution& convolution,
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
  cuda::Sixteen* x = take_x(problem, workspace);
  cuda::Sixteen* filters = take_filters(problem, workspace);
  Sorting sorting = take_sorting(problem, workspace);
  const Choice choice = choose(problem);
  DYNDEPLOY_TRY(launch_sort(problem, inputs[kGuide], rows_of(choice), sorting, stream));
  Convolution convolution{.map = {},
                          .x = nullptr,
                          .vectors = static_cast<int>(channel_vectors(problem)),
                          .taps = static_cast<int>(problem.window.taps()),
                          .filters = {},
                          .sorted = sorting.sorted,
                          .tiles = sorting.tiles,
                          .most_tiles = sorting.most_tiles,
                          .regions = static_cast<int>(problem.regions),
                          .outputs = static_cast<int>(problem.O),
                          .column_tiles = 0,
                          .output = cuda::output_of(Y, inputs[kB], problem.relu)};
  DYNDEPLOY_TRY(prepare_map(inputs[kX], problem.window, x, convolution.map, convolution.x, stream));
  DYNDEPLOY_TRY(prepare_filters(problem, inputs[kFilters], filters, convolution.filters, stream));
  return launch_convolve(problem, choice, resources.tf32 == 1, convolution, stream);
}

template <class T, class Shape, class Product>
dyndeploy_cuda_kernel convolve_entry(const char* name) {
  return cuda::kernel_entry(name, convolve<T, Shape, Product>, Shape::kThreads, sizeof(cuda::GemmShared<Shape>),
                            Shape::kBlocks);
}

struct ForwardCall : ForwardArguments<dyndeploy_drconv, dyndeploy_cuda_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(cuda::check_resources(kOp, resources));
    DYNDEPLOY_TRY(check_unpacked(kOp, resources->packed));
    return drconv::resolve(attributes, inputs, &problem);
  }
  dyndeploy_status prepare() const { return check_sizes(problem); }
  uint64_t workspace() const { return workspace_of(problem); }
  dyndeploy_status run() const { return drconv::run(problem, inputs, *output, *resources); }
};

}  // namespace

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

dyndeploy_status launch_convolve(const Problem& problem, Choice choice, bool tf32, Convolution& convolution,
                                 cudaStream_t stream) {
  return cuda::with_type(problem.dtype, [&](auto type) {
    return launch_typed<decltype(type)>(problem, choice, tf32, convolution, stream);
  });
}

}  // namespace dyndeploy::drconv

using namespace dyndeploy;
using namespace dyndeploy::drconv;

dyndeploy_status dyndeploy_drconv_cuda_forward_workspace(const dyndeploy_drconv* attributes,
                                                         const dyndeploy_tensor inputs[4], const dyndeploy_tensor* output,
                                                         const dyndeploy_cuda_resources* resources, uint64_t* bytes) {
  return query_forward(kOp, ForwardCall{{attributes, inputs, output, resources}}, bytes);
}

dyndeploy_status dyndeploy_drconv_cuda_forward(const dyndeploy_drconv* attributes, const dyndeploy_tensor inputs[4],
                                               const dyndeploy_tensor* output,
                                               const dyndeploy_cuda_resources* resources) {
  return run_forward(kOp, kInputs, ForwardCall{{attributes, inputs, output, resources}});
}

int32_t dyndeploy_drconv_cuda_kernels(const dyndeploy_cuda_kernel** kernels) {
  using cuda::bfloat16;
  using cuda::copy_channels_last;
  using cuda::float16;
  using cuda::FloatProduct;
  using cuda::kernel_entry;
  using cuda::TensorCoreProduct;
  constexpr size_t kSort = sizeof(SortShared);
  static const std::vector<dyndeploy_cuda_kernel> all = [] {
    std::vector<dyndeploy_cuda_kernel> kernels{
        kernel_entry("sort_small, float32", sort_small<float>, kSortThreads, kSort),
        kernel_entry("sort_small, float16", sort_small<float16>, kSortThreads, kSort),
        kernel_entry("sort_small, bfloat16", sort_small<bfloat16>, kSortThreads, kSort),
        kernel_entry("find_regions, float32", find_regions<float>, kSortThreads, kSort),
        kernel_entry("find_regions, float16", find_regions<float16>, kSortThreads, kSort),
        kernel_entry("find_regions, bfloat16", find_regions<bfloat16>, kSortThreads, kSort),
        kernel_entry("place_regions", place_regions<>, kSortThreads, kSort),
        kernel_entry("sort_pixels", sort_pixels<>, kSortThreads, kSort),
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
    mix::add_kernels(kernels);
    backward::add_kernels(kernels);
    return kernels;
  }();
  *kernels = all.data();
  return static_cast<int32_t>(all.size());
}

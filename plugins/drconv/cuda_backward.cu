// The C ABI of the backward on GPUs: the choice of tiles, launches. The kernels are in backward_x.cuh,
// backward_filters.cuh and backward_guide.cuh; sizes and memory in backward_layout.h.
#include "common/entry.h"
#include "drconv/backward_layout.h"
#include "drconv/cuda_backward.h"

namespace dyndeploy::drconv {
namespace {

using cuda::divide_up;
using cuda::Sixteen;
using cuda::stride_of;
using cuda::wide;

// --- products

using SmallShape = cuda::Tile<64, 64, 2, 2, 4>;
using LargeShape = cuda::Tile<128, 128, 2, 4, 1>;

template <class Shape, class Type, class Columns = cuda::DepthInColumns, class Rows = cuda::DepthInside>
struct ProductOf {
  using Result = cuda::TensorCoreProduct<Shape, Type, Columns, Rows>;
};
template <class Shape, class Columns, class Rows>
struct ProductOf<Shape, float, Columns, Rows> {
  using Result = cuda::FloatProduct<Shape, Columns, Rows>;
};

// A kernel of each product, for storage T and factors Type.
template <class T, class Type, class Shape>
struct Kernels {
  static constexpr auto spread =
      drconv::spread<T, Shape, typename ProductOf<Shape, Type, cuda::DepthInRows<T, Shape>>::Result>;
  static constexpr auto respond = drconv::respond<T, Shape, typename ProductOf<Shape, Type>::Result>;
  static constexpr auto weigh =
      drconv::weigh<T, Shape,
                    typename ProductOf<Shape, Type, cuda::DepthInRows<T, Shape>, cuda::DepthOutside<T, Shape>>::Result>;
};

template <class T>
struct Tag {
  using Type = T;
};

// call(kernels, Tag<Shape>{}). Exact products have one shape.
template <class Call>
dyndeploy_status with_kernels(int32_t dtype, bool tf32, bool large, Call call) {
  return cuda::with_type(dtype, [&](auto type) -> dyndeploy_status {
    using T = decltype(type);
    if constexpr (sizeof(T) == 4) {
      if (!tf32) return call(Kernels<T, float, SmallShape>{}, Tag<SmallShape>{});
      return large ? call(Kernels<T, cuda::tf32, LargeShape>{}, Tag<LargeShape>{})
                   : call(Kernels<T, cuda::tf32, SmallShape>{}, Tag<SmallShape>{});
    } else {
      return large ? call(Kernels<T, T, LargeShape>{}, Tag<LargeShape>{})
                   : call(Kernels<T, T, SmallShape>{}, Tag<SmallShape>{});
    }
  });
}

template <class Shape>
cuda::Launch how_of(const char* name, int64_t blocks, cudaStream_t stream) {
  return {.name = name,
          .blocks = dim3(static_cast<unsigned>(blocks)),
          .threads = Shape::kThreads,
          .shared_bytes = sizeof(cuda::GemmShared<Shape>),
          .stream = stream};
}

Target target_of(const dyndeploy_tensor& map) {
  return {.data = map.data,
          .n = stride_of(map, 0),
          .c = map.extents[1] > 1 ? stride_of(map, 1) : 1,
          .h = stride_of(map, 2),
          .w = stride_of(map, 3),
          .vectors = cuda::has_vectors(map)};
}

class Backward {
 public:
  Backward(const Problem& problem, const dyndeploy_tensor& gradient, const dyndeploy_tensor* inputs,
           const dyndeploy_tensor* gradients, const dyndeploy_cuda_resources& resources)
      : problem_(problem),
        gradient_(gradient),
        inputs_(inputs),
        gradients_(gradients),
        wanted_(gradients),
        tf32_(resources.tf32 == 1),
        exact_(problem.dtype == DYNDEPLOY_FLOAT32 && !tf32_),
        stream_(static_cast<cudaStream_t>(resources.stream)) {
    Workspace workspace(resources.workspace);
    b_ = lay_out(problem, wanted_, workspace);
  }

  dyndeploy_status run() {
    // Of nothing: no samples, or no channels, or no outputs.
    const bool x = wanted_.x && elements(gradients_[kX]) > 0, guide = wanted_.guide && elements(gradients_[kGuide]) > 0;
    const bool filters = wanted_.filters && elements(gradients_[kFilters]) > 0;
    if (x || filters || guide) {
      const Window& w = problem_.window;
      const Window itself{.kh = 1, .kw = 1, .stride_h = 1, .stride_w = 1, .top = 0, .left = 0, .dilation_h = 1,
                          .dilation_w = 1, .H = w.Ho, .W = w.Wo, .Ho = w.Ho, .Wo = w.Wo};
      of_y_.vectors = static_cast<int>(output_vectors(problem_));
      DYNDEPLOY_TRY(prepare_map(gradient_, itself, b_.y, of_y_.map, of_y_.data, stream_));
    }
    if (filters || guide) DYNDEPLOY_TRY(prepare_map(inputs_[kX], problem_.window, b_.x, map_, x_, stream_));
    if (x || guide)
      DYNDEPLOY_TRY(prepare_filters(problem_, inputs_[kFilters], b_.filters, filters_, stream_));
    if (x || filters) {
      b_.sorting.most_parts = static_cast<int>(most_parts(problem_));
      b_.sorting.part_rows = static_cast<int>(part_pixels());
      DYNDEPLOY_TRY(launch_sort(problem_, inputs_[kGuide], spreads_large() ? LargeShape::kRows : SmallShape::kRows,
                                b_.sorting, stream_));
    }
    if (x) DYNDEPLOY_TRY(of_x());
    if (filters) DYNDEPLOY_TRY(of_filters());
    if (guide) DYNDEPLOY_TRY(of_guide());
    if (!wanted_.b) return DYNDEPLOY_OK;
    return cuda::launch_bias_gradient({"drconv sum_pixels", "drconv add_pixel_sums"}, gradient_, gradients_[kB],
                                      b_.bias_sums, stream_);
  }

 private:
  bool large(bool rule) const { return !exact_ && (used_tile ? used_tile == LargeShape::kRows : rule); }

  bool spreads_large() const {
    return large(problem_.pixels() / problem_.regions >= 256 && spread_columns(problem_) > 64 &&
           problem_.N * most_tiles(problem_, LargeShape::kRows) *
                   divide_up(spread_columns(problem_), LargeShape::kColumns) >=
               cuda::kMultiprocessors);
  }

  dyndeploy_status of_x() const {
    const Window& window = problem_.window;
    const bool pointwise = is_pointwise(problem_);
    Spreading p{.of_y = of_y_,
                .filters = filters_,
                .stages = static_cast<int>(stages(problem_)),
                .sorted = b_.sorting.sorted,
                .tiles = b_.sorting.tiles,
                .most_tiles = b_.sorting.most_tiles,
                .regions = static_cast<int>(problem_.regions),
                .outputs = static_cast<int>(problem_.O),
                .column_tiles = 0,
                .pixels = static_cast<int>(problem_.pixels()),
                .width = static_cast<int>(window.Wo),
                .first = 0,
                .columns = pointwise ? nullptr : b_.columns,
                .x = target_of(gradients_[kX]),
                .channels = static_cast<int>(problem_.C)};
    const Pass pass(problem_, spread_floats(problem_));
    for (int64_t first = 0; first < problem_.N; first += pass.samples) {
      const int64_t count = std::min(pass.samples, problem_.N - first);
      p.first = static_cast<int>(first);
      DYNDEPLOY_TRY(with_kernels(problem_.dtype, tf32_, spreads_large(), [&](auto kernels, auto shape) {
        using Shape = typename decltype(shape)::Type;
        p.column_tiles = static_cast<int>(divide_up(spread_columns(problem_), Shape::kColumns));
        return cuda::launch(how_of<Shape>("drconv spread", count * p.most_tiles * p.column_tiles, stream_),
                            kernels.spread, p);
      }));
      if (!pointwise) DYNDEPLOY_TRY(launch_fold(first, count));
    }
    return DYNDEPLOY_OK;
  }

  dyndeploy_status launch_fold(int64_t first, int64_t count) const {
    const Window& window = problem_.window;
    const int64_t pixel_tiles = divide_up(window.H * window.W, kFoldPixels);
    const int64_t channel_tiles = divide_up(problem_.C, kFoldChannels);
    // Strides and dilations of what is there once may be anything.
    const Folding p{.columns = b_.columns,
                    .tap_floats = static_cast<int>(stages_of_tap(problem_) * stage_depth(problem_)),
                    .H = static_cast<int>(window.H),
                    .W = static_cast<int>(window.W),
                    .Ho = static_cast<int>(window.Ho),
                    .Wo = static_cast<int>(window.Wo),
                    .kh = static_cast<int>(window.kh),
                    .kw = static_cast<int>(window.kw),
                    .stride_h = window.Ho > 1 ? static_cast<int>(window.stride_h) : 1,
                    .stride_w = window.Wo > 1 ? static_cast<int>(window.stride_w) : 1,
                    .top = static_cast<int>(window.top),
                    .left = static_cast<int>(window.left),
                    .dilation_h = window.kh > 1 ? static_cast<int>(window.dilation_h) : 0,
                    .dilation_w = window.kw > 1 ? static_cast<int>(window.dilation_w) : 0,
                    .channels = static_cast<int>(problem_.C),
                    .pixel_tiles = static_cast<int>(pixel_tiles),
                    .channel_tiles = static_cast<int>(channel_tiles),
                    .first = static_cast<int>(first),
                    .x = target_of(gradients_[kX])};
    return cuda::with_type(problem_.dtype, [&](auto type) {
      const cuda::Launch how{.name = "drconv fold",
                             .blocks = dim3(static_cast<unsigned>(count * pixel_tiles * channel_tiles)),
                             .threads = kFoldThreads,
                             .shared_bytes = sizeof(FoldShared),
                             .stream = stream_};
      return cuda::launch(how, fold<decltype(type)>, p);
    });
  }

  dyndeploy_status of_filters() const {
    const dyndeploy_tensor& to = gradients_[kFilters];
    Weighing p{.map = map_,
               .x = x_,
               .vectors = static_cast<int>(channel_vectors(problem_)),
               .taps = static_cast<int>(problem_.window.taps()),
               .of_y = of_y_,
               .places = b_.sorting.places,
               .parts = b_.sorting.parts,
               .starts = b_.sorting.starts,
               .part_pixels = static_cast<int>(part_pixels()),
               .most_parts = b_.sorting.most_parts,
               .regions = static_cast<int>(problem_.regions),
               .pieces = static_cast<int>(pieces(problem_)),
               .outputs = static_cast<int>(problem_.O),
               .channels = static_cast<int>(problem_.C),
               .row_tiles = 0,
               .column_tiles = 0,
               .pixels = static_cast<int>(problem_.pixels()),
               .first = 0,
               .to = to.data,
               .n = stride_of(to, 0),
               .o = stride_of(to, 1),
               .d = stride_of(to, 2),
               .sums = b_.sums,
               .slots = static_cast<int>(part_slots(problem_.pixels(), part_pixels()))};
    const auto tiles = [&](int64_t rows, int64_t columns) {
      return problem_.N * p.most_parts * divide_up(problem_.O, rows) * divide_up(weigh_columns(problem_), columns);
    };
    const bool weighs_large = large(problem_.O > 64 && weigh_columns(problem_) > 64 &&
                                    tiles(LargeShape::kRows, LargeShape::kColumns) >= cuda::kMultiprocessors);
    const Pass pass(problem_, weigh_floats(problem_));
    for (int64_t first = 0; first < problem_.N; first += pass.samples) {
      const int64_t count = std::min(pass.samples, problem_.N - first);
      p.first = static_cast<int>(first);
      DYNDEPLOY_TRY(with_kernels(problem_.dtype, tf32_, weighs_large, [&](auto kernels, auto shape) {
        using Shape = typename decltype(shape)::Type;
        p.row_tiles = static_cast<int>(divide_up(problem_.O, Shape::kRows));
        p.column_tiles = static_cast<int>(divide_up(weigh_columns(problem_), Shape::kColumns));
        return cuda::launch(how_of<Shape>("drconv weigh", count * p.most_parts * p.row_tiles * p.column_tiles, stream_),
                            kernels.weigh, p);
      }));
      DYNDEPLOY_TRY(cuda::with_type(problem_.dtype, [&](auto type) {
        const int64_t blocks = count * problem_.regions * divide_up(problem_.O, kJoinOutputs);
        const cuda::Launch how{.name = "drconv join",
                               .blocks = dim3(static_cast<unsigned>(blocks)),
                               .threads = kJoinThreads,
                               .shared_bytes = 0,
                               .stream = stream_};
        return cuda::launch(how, join<decltype(type)>, p);
      }));
    }
    return DYNDEPLOY_OK;
  }

  dyndeploy_status of_guide() const {
    const dyndeploy_tensor& guide = inputs_[kGuide];
    const int64_t pixels = problem_.pixels(), rows = problem_.N * pixels;
    const auto tiles = [&](int64_t of_rows, int64_t of_columns) {
      return problem_.N * problem_.regions * divide_up(problem_.O, of_columns) * divide_up(pixels, of_rows);
    };
    const bool responds_large =
        large(problem_.O > 64 && tiles(LargeShape::kRows, LargeShape::kColumns) >= cuda::kMultiprocessors);
    Response p{.map = map_,
               .x = x_,
               .vectors = static_cast<int>(channel_vectors(problem_)),
               .taps = static_cast<int>(problem_.window.taps()),
               .filters = filters_,
               .of_y = of_y_,
               .regions = static_cast<int>(problem_.regions),
               .outputs = static_cast<int>(problem_.O),
               .column_tiles = 0,
               .pixels = static_cast<int>(pixels),
               .width = static_cast<int>(problem_.window.Wo),
               .pixel_tiles = 0,
               .g = b_.g};
    DYNDEPLOY_TRY(with_kernels(problem_.dtype, tf32_, responds_large, [&](auto kernels, auto shape) {
      using Shape = typename decltype(shape)::Type;
      p.column_tiles = static_cast<int>(divide_up(problem_.O, Shape::kColumns));
      p.pixel_tiles = static_cast<int>(divide_up(pixels, Shape::kRows));
      return cuda::launch(how_of<Shape>("drconv respond", tiles(Shape::kRows, Shape::kColumns), stream_), kernels.respond,
                          p);
    }));
    const Softening softening{.guide = guide.data,
                              .n = stride_of(guide, 0),
                              .c = stride_of(guide, 1),
                              .h = stride_of(guide, 2),
                              .w = stride_of(guide, 3),
                              .to = target_of(gradients_[kGuide]),
                              .g = b_.g,
                              .column_tiles = p.column_tiles,
                              .regions = p.regions,
                              .pixels = p.pixels,
                              .width = p.width,
                              .rows = static_cast<int>(rows)};
    return cuda::with_type(problem_.dtype, [&](auto type) {
      const cuda::Launch how{.name = "drconv soften",
                             .blocks = dim3(static_cast<unsigned>(divide_up(rows, kSoftenThreads))),
                             .threads = kSoftenThreads,
                             .shared_bytes = 0,
                             .stream = stream_};
      return cuda::launch(how, soften<decltype(type)>, softening);
    });
  }

  const Problem& problem_;
  const dyndeploy_tensor& gradient_;
  const dyndeploy_tensor* inputs_;
  const dyndeploy_tensor* gradients_;
  const Wanted wanted_;
  const bool tf32_, exact_;
  const cudaStream_t stream_;
  Buffers b_{};
  GradientMap of_y_{};
  cuda::WindowMap map_{};
  const Sixteen* x_ = nullptr;
  Filters filters_{};
};

struct BackwardCall : BackwardArguments<dyndeploy_drconv, dyndeploy_cuda_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(cuda::check_resources(kOp, resources));
    DYNDEPLOY_TRY(check_unpacked(kOp, resources->packed));
    return drconv::resolve(attributes, inputs, &problem);
  }
  dyndeploy_status prepare() const { return check_backward_sizes(problem, Wanted(gradients)); }
  uint64_t workspace() const { return workspace_of(problem, Wanted(gradients)); }
  dyndeploy_status run() const { return Backward(problem, *gradient, inputs, gradients, *resources).run(); }
};

// --- the list of kernels

template <class T, class Type, class Shape>
void add_products(std::vector<dyndeploy_cuda_kernel>& list, const char* const (&names)[3]) {
  using All = Kernels<T, Type, Shape>;
  constexpr size_t kShared = sizeof(cuda::GemmShared<Shape>);
  list.push_back(cuda::kernel_entry(names[0], All::spread, Shape::kThreads, kShared, Shape::kBlocks));
  list.push_back(cuda::kernel_entry(names[1], All::weigh, Shape::kThreads, kShared, Shape::kBlocks));
  list.push_back(cuda::kernel_entry(names[2], All::respond, Shape::kThreads, kShared, Shape::kBlocks));
}

template <class T>
void add_others(std::vector<dyndeploy_cuda_kernel>& list, const char* const (&names)[5]) {
  using cuda::kernel_entry;
  list.push_back(kernel_entry(names[0], fold<T>, kFoldThreads, sizeof(FoldShared)));
  list.push_back(kernel_entry(names[1], join<T>, kJoinThreads, 0));
  list.push_back(kernel_entry(names[2], soften<T>, kSoftenThreads, 0));
  list.push_back(kernel_entry(names[3], cuda::sum_pixels<T>, cuda::kBiasThreads, sizeof(cuda::BiasShared)));
  list.push_back(kernel_entry(names[4], cuda::add_pixel_sums<T>, cuda::kBiasThreads, 0));
}

}  // namespace

#define DYNDEPLOY_NAMES(type) {"spread, " type, "weigh, " type, "respond, " type}
#define DYNDEPLOY_OTHERS(type) {"fold, " type, "join, " type, "soften, " type, "sum_pixels, " type, "add_pixel_sums, " type}

void backward::add_kernels(std::vector<dyndeploy_cuda_kernel>& list) {
  using cuda::bfloat16;
  using cuda::float16;
  add_products<float, float, SmallShape>(list, DYNDEPLOY_NAMES("float32, 64 x 64"));
  add_products<float, cuda::tf32, SmallShape>(list, DYNDEPLOY_NAMES("TF32, 64 x 64"));
  add_products<float, cuda::tf32, LargeShape>(list, DYNDEPLOY_NAMES("TF32, 128 x 128"));
  add_products<float16, float16, SmallShape>(list, DYNDEPLOY_NAMES("float16, 64 x 64"));
  add_products<float16, float16, LargeShape>(list, DYNDEPLOY_NAMES("float16, 128 x 128"));
  add_products<bfloat16, bfloat16, SmallShape>(list, DYNDEPLOY_NAMES("bfloat16, 64 x 64"));
  add_products<bfloat16, bfloat16, LargeShape>(list, DYNDEPLOY_NAMES("bfloat16, 128 x 128"));
  add_others<float>(list, DYNDEPLOY_OTHERS("float32"));
  add_others<float16>(list, DYNDEPLOY_OTHERS("float16"));
  add_others<bfloat16>(list, DYNDEPLOY_OTHERS("bfloat16"));
}

#undef DYNDEPLOY_NAMES
#undef DYNDEPLOY_OTHERS

}  // namespace dyndeploy::drconv

using namespace dyndeploy;
using namespace dyndeploy::drconv;

dyndeploy_status dyndeploy_drconv_cuda_backward_workspace(const dyndeploy_drconv* attributes,
                                                          const dyndeploy_tensor* gradient,
                                                          const dyndeploy_tensor inputs[4],
                                                          const dyndeploy_tensor gradients[4],
                                                          const dyndeploy_cuda_resources* resources, uint64_t* bytes) {
  return query_backward(kOp, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}}, bytes);
}

dyndeploy_status dyndeploy_drconv_cuda_backward(const dyndeploy_drconv* attributes, const dyndeploy_tensor* gradient,
                                                const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                                const dyndeploy_cuda_resources* resources) {
  return run_backward(kOp, kInputs, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}});
}

dyndeploy_status dyndeploy_drconv_cuda_use_backward(int32_t tile, int32_t part_pixels, int32_t samples) {
  if (tile != 0 && tile != SmallShape::kRows && tile != LargeShape::kRows)
    return bad_argument("%s: there is no tile of %d rows", kOp, tile);
  DYNDEPLOY_TRY(check_range(kOp, "pixels of a part", part_pixels, 0, cuda::kMostCount));
  DYNDEPLOY_TRY(check_range(kOp, "samples", samples, 0, cuda::kMostCount));
  used_tile = tile;
  used_part = part_pixels;
  used_samples = samples;
  return DYNDEPLOY_OK;
}

// The C ABI of the gradients on GPUs: checks, the choice of tiles, launches. The kernels are in data_gradient.cuh and
// weight_gradient.cuh.
#include "dcnv2/cuda_backward.h"

#include "common/cuda/parts.cuh"
#include "common/entry.h"
#include "dcnv2/weight_gradient.cuh"

namespace dyndeploy::dcnv2 {
namespace {

using cuda::divide_up;
using cuda::Sixteen;
using cuda::stride_of;
using cuda::wide;

template <class T>
constexpr Name kPackOutputs = name_of("pack_outputs", kType<T>);
template <class T>
constexpr Name kClear = name_of("clear", kType<T>);
template <class Number, class Tile>
constexpr Name kSpread = name_of("spread_gradient", kType<Number>, Tile::kRows, Tile::kColumns);
template <class T>
constexpr Name kAddPoints = name_of("add_point_sums", kType<T>);
template <class T>
constexpr Name kStoreX = name_of("store_x_gradient", kType<T>);
template <class Number, class Tile>
constexpr Name kCorrelate = name_of("correlate", kType<Number>, Tile::kRows, Tile::kColumns);
template <class T>
constexpr Name kStoreW = name_of("store_w_gradient", kType<T>);
template <class T>
constexpr Name kSumPixels = name_of("sum_pixels", kType<T>);
template <class T>
constexpr Name kAddPixels = name_of("add_pixel_sums", kType<T>);

class Backward {
 public:
  Backward(const Problem& problem, const Weights& weights, const Layout& layout, const dyndeploy_tensor& gradient,
           const dyndeploy_tensor* inputs, const dyndeploy_tensor* gradients, const dyndeploy_cuda_resources& resources)
      : problem_(problem),
        weights_(weights),
        layout_(layout),
        gradient_(gradient),
        inputs_(inputs),
        gradients_(gradients),
        wanted_(gradients),
        tf32_(resources.tf32 == 1),
        stream_(static_cast<cudaStream_t>(resources.stream)) {
    Workspace workspace(resources.workspace);
    b_ = lay_out(problem, layout, wanted_, workspace);
  }

  dyndeploy_status run() {
    return cuda::with_type(problem_.dtype, [&](auto type) { return this->template run<decltype(type)>(); });
  }

 private:
  template <class T>
  dyndeploy_status run() {
    if (wanted_.b) {
      const char* const names[] = {kSumPixels<T>.data(), kAddPixels<T>.data()};
      DYNDEPLOY_TRY(cuda::launch_bias_gradient(names, gradient_, gradients_[kB], b_.b_sums, stream_));
    }
    if (!wanted_.products()) return DYNDEPLOY_OK;
    const Sixteen *x = b_.x, *gradient = b_.gradient;
    if (dense(gradient_, problem_.group_outputs()))
      gradient = static_cast<const Sixteen*>(gradient_.data);
    else
      DYNDEPLOY_TRY(copy<T>(gradient_, problem_.group_outputs(), layout_.group_vectors,
                            problem_.group * layout_.group_vectors, b_.gradient));
    if (!wanted_.samples() || dense(inputs_[kX], weights_.unit_channels))
      x = static_cast<const Sixteen*>(inputs_[kX].data);
    else
      DYNDEPLOY_TRY(copy<T>(inputs_[kX], weights_.unit_channels, weights_.order.unit_vectors, layout_.x_vectors, b_.x));
    Sampling sampling = sampling_of(problem_, weights_, inputs_, x);
    if (wanted_.data()) DYNDEPLOY_TRY(data<T>(sampling, gradient));
    return wanted_.w ? weights<T>(sampling, gradient) : DYNDEPLOY_OK;
  }

  template <class T>
  dyndeploy_status copy(const dyndeploy_tensor& map, int64_t unit_channels, int64_t unit_vectors, int64_t vectors,
                        Sixteen* to) const {
    return cuda::launch_channels_last(kCopy<T>.data(), map, unit_channels, unit_vectors, vectors, to, stream_);
  }

  cuda::Launch how(const char* name, int64_t blocks, int threads, size_t shared_bytes = 0) const {
    return {.name = name,
            .blocks = dim3(static_cast<unsigned>(blocks)),
            .threads = threads,
            .shared_bytes = static_cast<int>(shared_bytes),
            .stream = stream_};
  }

  // --- of X, offsets and masks

  template <class T>
  dyndeploy_status data(const Sampling& sampling, const Sixteen* gradient) {
    DYNDEPLOY_TRY(pack<T>());
    float* x_sums = nullptr;
    if (wanted_.x) {
      // Floats that lie as the sums do are added up where they belong.
      const bool there = problem_.dtype == DYNDEPLOY_FLOAT32 && dense(gradients_[kX], weights_.unit_channels);
      x_sums = there ? static_cast<float*>(gradients_[kX].data) : b_.x_sums;
      const int64_t vectors = pixels_of_x(problem_) * layout_.x_vectors * wide(problem_.dtype) / 4;
      DYNDEPLOY_TRY(cuda::launch(how(kClear<float>.data(), divide_up(vectors, kClearThreads), kClearThreads), clear<float>,
                                 Clearing{reinterpret_cast<Sixteen*>(x_sums), vectors}));
    }
    const dyndeploy_tensor& to = gradients_[kOffsetMask];
    DataGradient p{.sampling = sampling,
                   .gradient = gradient,
                   .gradient_vectors = static_cast<int>(problem_.group * layout_.group_vectors),
                   .group_vectors = static_cast<int>(layout_.group_vectors),
                   .packed = b_.packed,
                   .stages = static_cast<int>(layout_.stages),
                   .columns = static_cast<int>(problem_.window.taps() * layout_.tap_columns),
                   .offset_groups = static_cast<int>(problem_.offset_group),
                   .taps = static_cast<int>(problem_.window.taps()),
                   .units_of_group = weights_.order.units,
                   .unit_channels = static_cast<int>(weights_.unit_channels),
                   .unit_vectors = weights_.order.unit_vectors,
                   .tap_columns = static_cast<int>(layout_.tap_columns),
                   .row_tiles = 0,
                   .parts = 0,
                   .part_slabs = 0,
                   .x_sums = x_sums,
                   .points = to.data,
                   .n = stride_of(to, 0),
                   .c = stride_of(to, 1),
                   .h = stride_of(to, 2),
                   .w = stride_of(to, 3),
                   .point_sums = b_.point_sums};
    if constexpr (sizeof(T) == 4) {
      if (tf32_)
        DYNDEPLOY_TRY((spread<T, cuda::tf32, Small>(p)));
      else
        DYNDEPLOY_TRY((spread<T, float, SmallFloats>(p)));
    } else {
      DYNDEPLOY_TRY((spread<T, T, Small>(p)));
    }
    if (p.points && p.parts > 1) {
      const int64_t blocks = sampling.points * divide_up(layout_.rows, kPointThreads);
      DYNDEPLOY_TRY(cuda::launch(how(kAddPoints<T>.data(), blocks, kPointThreads), add_point_sums<T>, p));
    }
    return x_sums == b_.x_sums && wanted_.x ? store_x<T>() : DYNDEPLOY_OK;
  }

  template <class T>
  dyndeploy_status pack() const {
    const dyndeploy_tensor& W = inputs_[kW];
    const OutputPacking packing{.weights = W.data,
                                .o = stride_of(W, 0),
                                .c = stride_of(W, 1),
                                .h = stride_of(W, 2),
                                .w = stride_of(W, 3),
                                .kw = static_cast<int>(problem_.window.kw),
                                .taps = static_cast<int>(problem_.window.taps()),
                                .tap_columns = static_cast<int>(layout_.tap_columns),
                                .outputs = static_cast<int>(problem_.group_outputs()),
                                .stages = static_cast<int>(layout_.stages),
                                .units = static_cast<int>(weights_.units),
                                .units_of_group = weights_.order.units,
                                .unit_channels = static_cast<int>(weights_.unit_channels),
                                .packed = b_.packed};
    const int64_t blocks = divide_up(layout_.packed, kPackThreads);
    return cuda::launch(how(kPackOutputs<T>.data(), blocks, kPackThreads), pack_outputs<T>, packing);
  }

  // Parts of the slabs, so that there are enough blocks; as many as `most_parts` fit the workspace.
  template <class T, class Number, class Tile>
  dyndeploy_status spread(DataGradient& p) const {
    const int64_t row_tiles = divide_up(layout_.rows, Tile::kRows);
    const int64_t blocks = row_tiles * problem_.offset_group * layout_.tap_groups;
    int64_t most = std::min<int64_t>(layout_.slabs, kMostParts);
    if (p.points)
      most = std::clamp<int64_t>(kMostPartBytes / std::max<int64_t>(product({layout_.points, sizeof(float4)}), 1), 1, most);
    const int64_t wish = used_parts ? used_parts.load() : divide_up(kEnoughBlocks, std::max<int64_t>(blocks, 1));
    p.part_slabs = static_cast<int>(divide_up(layout_.slabs, std::min(wish, most)));
    p.parts = static_cast<int>(divide_up(layout_.slabs, p.part_slabs));
    p.row_tiles = static_cast<int>(row_tiles);
    using Product = ProductOf<T, Number, Tile>;
    const cuda::Launch start =
        how(kSpread<Number, Tile>.data(), blocks * p.parts, Tile::kThreads, sizeof(DataGradientShared<Tile>));
    return cuda::launch(start, spread_gradient<T, Tile, Product>, p);
  }

  template <class T>
  dyndeploy_status store_x() const {
    const dyndeploy_tensor& to = gradients_[kX];
    const int64_t columns = layout_.x_vectors * wide(problem_.dtype), rows = pixels_of_x(problem_);
    const cuda::Parts sums{.sums = b_.x_sums,
                           .part = 0,
                           .count = 1,
                           .rows = static_cast<int>(rows),
                           .columns = static_cast<int>(columns),
                           .pitch = static_cast<int>(columns),
                           .along_columns = channels_last(to)};
    const ToMap<T> map{.data = static_cast<T*>(to.data),
                       .n = stride_of(to, 0),
                       .c = stride_of(to, 1),
                       .h = stride_of(to, 2),
                       .w = stride_of(to, 3),
                       .pixels = static_cast<int>(problem_.window.H * problem_.window.W),
                       .width = static_cast<int>(problem_.window.W),
                       .unit_channels = static_cast<int>(weights_.unit_channels),
                       .unit_columns = static_cast<int>(weights_.order.unit_vectors * wide(problem_.dtype))};
    return cuda::launch(how(kStoreX<T>.data(), cuda::parts_blocks(sums), cuda::kPartsThreads, sizeof(cuda::PartsShared)),
                        cuda::add_parts_of_rows<T, ToMap<T>>, sums, map);
  }

  // --- of W

  template <class T>
  dyndeploy_status weights(const Sampling& sampling, const Sixteen* gradient) const {
    WeightGradient p{.sampling = sampling,
                     .gradient = gradient,
                     .gradient_vectors = static_cast<int>(problem_.group * layout_.group_vectors),
                     .group_vectors = static_cast<int>(layout_.group_vectors),
                     .taps = static_cast<int>(problem_.window.taps()),
                     .units_of_group = weights_.order.units,
                     .unit_vectors = weights_.order.unit_vectors,
                     .row_vectors = static_cast<int>(problem_.window.taps() * weights_.order.unit_vectors),
                     .units = static_cast<int>(weights_.units),
                     .row_tiles = 0,
                     .column_tiles = 0,
                     .parts = 0,
                     .part_stages = 0,
                     .sums = b_.w_sums};
    DYNDEPLOY_TRY(correlate_best<T>(p));
    const dyndeploy_tensor& to = gradients_[kW];
    const cuda::Parts sums{.sums = b_.w_sums,
                           .part = layout_.w_sums,
                           .count = p.parts,
                           .rows = static_cast<int>(layout_.w_rows),
                           .columns = static_cast<int>(problem_.group_outputs()),
                           .pitch = static_cast<int>(layout_.group_vectors * wide(problem_.dtype)),
                           .along_columns = false};
    const ToWeights<T> W{.data = static_cast<T*>(to.data),
                         .o = stride_of(to, 0),
                         .c = stride_of(to, 1),
                         .h = stride_of(to, 2),
                         .w = stride_of(to, 3),
                         .kw = static_cast<int>(problem_.window.kw),
                         .taps = p.taps,
                         .outputs = static_cast<int>(problem_.group_outputs()),
                         .units_of_group = p.units_of_group,
                         .unit_channels = static_cast<int>(weights_.unit_channels),
                         .unit_rows = static_cast<int>(weights_.order.unit_vectors * wide(problem_.dtype))};
    return cuda::launch(how(kStoreW<T>.data(), cuda::parts_blocks(sums), cuda::kPartsThreads, sizeof(cuda::PartsShared)),
                        cuda::add_parts_of_rows<T, ToWeights<T>>, sums, W);
  }

  // With as many columns as a group has outputs, or the most: then nothing is sampled twice.
  template <class T>
  dyndeploy_status correlate_best(WeightGradient& p) const {
    const int64_t outputs = problem_.group_outputs();
    if constexpr (sizeof(T) == 4) {
      if (tf32_) return outputs > 64 ? launch<T, cuda::tf32, Wide>(p) : launch<T, cuda::tf32, SmallFloats>(p);
      return outputs > 64 ? launch<T, float, Wide>(p) : launch<T, float, SmallFloats>(p);
    } else {
      if (outputs > 128) return launch<T, T, Widest>(p);
      return outputs > 64 ? launch<T, T, Wide>(p) : launch<T, T, Small>(p);
    }
  }

  template <class T, class Number, class Tile>
  dyndeploy_status launch(WeightGradient& p) const {
    static_assert(sizeof(WeightGradientShared<T, Tile>) <= cuda::kMostSharedBytes);
    p.row_tiles = static_cast<int>(divide_up(p.row_vectors, Tile::kRows / cuda::kPerSixteen<T>));
    p.column_tiles = static_cast<int>(divide_up(problem_.group_outputs(), Tile::kColumns));
    const int64_t stages = divide_up(layout_.rows, cuda::kStageDepth<T>);
    const int64_t blocks = weights_.units * p.row_tiles * p.column_tiles;
    const int64_t bytes = layout_.w_sums * static_cast<int64_t>(sizeof(float));
    const int64_t most = std::min<int64_t>(kMostWeightBytes / std::max<int64_t>(bytes, 1), kMostWeightParts);
    const int64_t enough = divide_up(kEnoughBlocks, std::max<int64_t>(blocks, 1));
    const int64_t wish = used_parts ? used_parts.load() : std::min(enough, stages / kLeastPartStages);
    p.part_stages = static_cast<int>(divide_up(stages, std::max<int64_t>(std::min(wish, most), 1)));
    p.parts = p.part_stages ? static_cast<int>(divide_up(stages, p.part_stages)) : 1;
    return cuda::launch(how(kCorrelate<Number, Tile>.data(), blocks * p.parts, Tile::kThreads,
                            sizeof(WeightGradientShared<T, Tile>)),
                        correlate<T, Tile, WeightProduct<T, Number, Tile>>, p);
  }

 public:
  using Small = cuda::Tile<64, 64, 2, 2, 4>;
  using SmallFloats = cuda::Tile<64, 64, 2, 2, 3>;
  using Wide = cuda::Tile<64, 128, 2, 4, 2>;
  using Widest = cuda::Tile<64, 256, 2, 4, 2>;

  template <class T, class Number, class Tile>
  using WeightProduct =
      std::conditional_t<std::is_same_v<Number, float>,
                         cuda::FloatProduct<Tile, cuda::DepthInRows<T, Tile>, cuda::DepthOutside<T, Tile>>,
                         cuda::TensorCoreProduct<Tile, Number, cuda::DepthInRows<T, Tile>, cuda::DepthOutside<T, Tile>>>;

  static std::vector<dyndeploy_cuda_kernel> kernels() {
    std::vector<dyndeploy_cuda_kernel> all;
    all.push_back(cuda::kernel_entry(kClear<float>.data(), clear<float>, kClearThreads, 0));
    add<float>(all), add<cuda::float16>(all), add<cuda::bfloat16>(all);
    return all;
  }

 private:
  template <class T>
  static void add(std::vector<dyndeploy_cuda_kernel>& all) {
    const auto some = [&](const Name& name, auto kernel, int threads, size_t shared = 0) {
      all.push_back(cuda::kernel_entry(name.data(), kernel, threads, shared));
    };
    some(kCopy<T>, cuda::copy_channels_last<T>, cuda::kCopyThreads, sizeof(cuda::CopyShared<T>));
    some(kPackOutputs<T>, pack_outputs<T>, kPackThreads);
    some(kAddPoints<T>, add_point_sums<T>, kPointThreads);
    some(kStoreX<T>, cuda::add_parts_of_rows<T, ToMap<T>>, cuda::kPartsThreads, sizeof(cuda::PartsShared));
    some(kStoreW<T>, cuda::add_parts_of_rows<T, ToWeights<T>>, cuda::kPartsThreads, sizeof(cuda::PartsShared));
    some(kSumPixels<T>, cuda::sum_pixels<T>, cuda::kBiasThreads, sizeof(cuda::BiasShared));
    some(kAddPixels<T>, cuda::add_pixel_sums<T>, cuda::kBiasThreads);
    if constexpr (sizeof(T) == 4) {
      spread_product<T, float, SmallFloats>(all), spread_product<T, cuda::tf32, Small>(all);
      weight_products<T, float, SmallFloats, Wide>(all), weight_products<T, cuda::tf32, SmallFloats, Wide>(all);
    } else {
      spread_product<T, T, Small>(all);
      weight_products<T, T, Small, Wide, Widest>(all);
    }
  }
  template <class T, class Number, class Tile>
  static void spread_product(std::vector<dyndeploy_cuda_kernel>& all) {
    all.push_back(cuda::kernel_entry(kSpread<Number, Tile>.data(), spread_gradient<T, Tile, ProductOf<T, Number, Tile>>,
                                     Tile::kThreads, sizeof(DataGradientShared<Tile>), Tile::kBlocks));
  }
  template <class T, class Number, class... Tiles>
  static void weight_products(std::vector<dyndeploy_cuda_kernel>& all) {
    (all.push_back(cuda::kernel_entry(kCorrelate<Number, Tiles>.data(),
                                      correlate<T, Tiles, WeightProduct<T, Number, Tiles>>, Tiles::kThreads,
                                      sizeof(WeightGradientShared<T, Tiles>), Tiles::kBlocks)),
     ...);
  }

  const Problem& problem_;
  const Weights& weights_;
  const Layout& layout_;
  const dyndeploy_tensor& gradient_;
  const dyndeploy_tensor* const inputs_;
  const dyndeploy_tensor* const gradients_;
  const Wanted wanted_;
  const bool tf32_;
  const cudaStream_t stream_;
  Buffers b_;
};

struct BackwardCall : BackwardArguments<dyndeploy_dcnv2, dyndeploy_cuda_resources> {
  Problem problem{};
  Weights weights{};
  Layout layout{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(cuda::check_resources(kOp, resources));
    return dcnv2::resolve(attributes, inputs, &problem);
  }
  dyndeploy_status prepare() {
    DYNDEPLOY_TRY(resolve_order(problem, problem.offset_group, &weights));
    return resolve_layout(problem, weights, &layout);
  }
  uint64_t workspace() const {
    Workspace workspace;
    lay_out(problem, layout, Wanted(gradients), workspace);
    return workspace.bytes();
  }
  dyndeploy_status run() const {
    return Backward(problem, weights, layout, *gradient, inputs, gradients, *resources).run();
  }
};

}  // namespace

std::vector<dyndeploy_cuda_kernel> backward_kernels() { return Backward::kernels(); }

}  // namespace dyndeploy::dcnv2

using namespace dyndeploy;
using namespace dyndeploy::dcnv2;

dyndeploy_status dyndeploy_dcnv2_cuda_backward_workspace(const dyndeploy_dcnv2* attributes,
                                                         const dyndeploy_tensor* gradient,
                                                         const dyndeploy_tensor inputs[4],
                                                         const dyndeploy_tensor gradients[4],
                                                         const dyndeploy_cuda_resources* resources, uint64_t* bytes) {
  return query_backward(kOp, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}}, bytes);
}

dyndeploy_status dyndeploy_dcnv2_cuda_backward(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* gradient,
                                               const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                               const dyndeploy_cuda_resources* resources) {
  return run_backward(kOp, kInputs, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}});
}

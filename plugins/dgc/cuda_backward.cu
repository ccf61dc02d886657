// The C ABI of the gradients on GPUs: checks, memory, launches. The kernels are in convolve_transposed.cuh, join.cuh and
// correlate.cuh, and those of the forward in keep.cuh and convolve.cuh.
//
//   keep        which channels each head keeps, and where each channel is among them
//   copy        the gradient of Y, with the heads' outputs side by side, padded to vectors
//   compress, correlate, sum_weights      W
//   pack, convolve_transposed, join       X and the saliency
//   sum_pixels                            B
//
// All but the last is done once per pass of some samples.
#include <algorithm>
#include <atomic>

#include "common/cuda/bias.cuh"
#include "common/entry.h"
#include "dgc/backward_layout.h"

namespace dyndeploy::dgc {
namespace {

using cuda::divide_up;
using cuda::stride_of;
using cuda::wide;

// Blocks that keep all multiprocessors busy: with more, the pixels of W's gradient are not shared among blocks.
constexpr int64_t kEnoughBlocks = 4 * cuda::kMultiprocessors;

// What dyndeploy_dgc_cuda_use says.
std::atomic<int32_t> used_rows{0};
std::atomic<int64_t> used_pass{0};

int64_t most_pass() {
  const int64_t used = used_pass;
  return used ? used : kMostPass;
}

// --- tiles

using SmallTile = cuda::Tile<64, 64, 2, 2, 4>;
using TallTile = cuda::Tile<128, 64, 4, 2, 2>;

// The larger one reads less per product, where all multiprocessors have work with it. `tiles`: of it.
bool is_tall(int64_t tiles) {
  const int32_t rows = used_rows;
  return rows ? rows == TallTile::kRows : tiles >= TallTile::kBlocks * cuda::kMultiprocessors;
}

template <class T, class Tile>
using OfHalf = cuda::TensorCoreProduct<Tile, T>;
template <class Tile>
using OfTf32 = cuda::TensorCoreProduct<Tile, cuda::tf32>;
template <class Tile>
using OfFloat = cuda::FloatProduct<Tile>;
// With depth, the pixels, outside of both.
template <class T, class Tile>
using HalfSums = cuda::TensorCoreProduct<Tile, T, cuda::DepthInRows<T, Tile>, cuda::DepthOutside<T, Tile>>;
template <class Tile>
using Tf32Sums =
    cuda::TensorCoreProduct<Tile, cuda::tf32, cuda::DepthInRows<float, Tile>, cuda::DepthOutside<float, Tile>>;
template <class Tile>
using FloatSums = cuda::FloatProduct<Tile, cuda::DepthInRows<float, Tile>, cuda::DepthOutside<float, Tile>>;

// --- a call

// Samples first, first + 1, …
dyndeploy_tensor part_of(dyndeploy_tensor tensor, int64_t first, int64_t count) {
  const int64_t size = tensor.dtype == DYNDEPLOY_FLOAT32 ? 4 : 2;
  if (tensor.data) tensor.data = static_cast<unsigned char*>(tensor.data) + first * stride_of(tensor, 0) * size;
  tensor.extents[0] = count;
  return tensor;
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
        stream_(static_cast<cudaStream_t>(resources.stream)),
        tf32_(resources.tf32 == 1),
        workspace_(resources.workspace),
        b_(lay_out(problem, wanted_, most_pass(), workspace_)) {}

  dyndeploy_status run() {
    return cuda::with_type(problem_.dtype, [&](auto type) { return run_in<decltype(type)>(); });
  }

 private:
  template <class T>
  dyndeploy_status run_in() {
    if (wanted_.b)
      DYNDEPLOY_TRY(cuda::launch_bias_gradient({"dgc sum_pixels", "dgc add_pixel_sums"}, gradient_, gradients_[kB],
                                               b_.bias_sums, stream_, problem_.shuffle ? problem_.heads : 1));
    if (!wanted_.kept()) return DYNDEPLOY_OK;
    if (wanted_.columns()) DYNDEPLOY_TRY(launch_pack(problem_, inputs_[kW], b_.packed, stream_));
    // W's gradient is written where there is no sample, too.
    for (int64_t first = 0; first < std::max<int64_t>(problem_.N, 1); first += b_.samples)
      DYNDEPLOY_TRY(run_pass<T>(first, std::min(b_.samples, problem_.N - first)));
    return DYNDEPLOY_OK;
  }

  template <class T>
  dyndeploy_status run_pass(int64_t first, int64_t count) {
    Problem problem = problem_;
    problem.N = count;
    DYNDEPLOY_TRY(launch_keep(problem, part_of(inputs_[kSaliency], first, count), b_.kept, stream_));
    const int64_t vectors = weight_vectors(problem);
    DYNDEPLOY_TRY(cuda::launch_channels_last("dgc copy_channels_last", part_of(gradient_, first, count),
                                             problem.head_outputs(), vectors, gradient_vectors(problem), b_.gradient,
                                             stream_, problem.shuffle));
    if (wanted_.columns()) {
      DYNDEPLOY_TRY(columns<T>(problem));
      DYNDEPLOY_TRY(join_heads<T>(problem, first));
    }
    if (!wanted_.w) return DYNDEPLOY_OK;
    DYNDEPLOY_TRY(launch_compress(problem, part_of(inputs_[kX], first, count), b_.kept, b_.x, stream_));
    return weights<T>(problem, first);
  }

  cuda::Launch how(const char* name, int64_t blocks, int threads, size_t shared_bytes) const {
    return {.name = name,
            .blocks = dim3(static_cast<unsigned>(blocks)),
            .threads = threads,
            .shared_bytes = static_cast<int>(shared_bytes),
            .stream = stream_};
  }

  template <class T>
  dyndeploy_status columns(const Problem& problem) const {
    const Window& window = problem.window;
    const int64_t of_pixel = gradient_vectors(problem);
    TransposedConvolution p{.kept = b_.kept,
                            .gradient = b_.gradient,
                            .n = pixels_of_y(problem) * of_pixel,
                            .row_h = static_cast<int>(window.Wo * of_pixel),
                            .row_w = static_cast<int>(of_pixel),
                            .Ho = static_cast<int>(window.Ho),
                            .Wo = static_cast<int>(window.Wo),
                            .h = axis_h(window),
                            .w = axis_w(window),
                            .packed = b_.packed,
                            .heads = static_cast<int>(problem.heads),
                            .C = static_cast<int>(problem.C),
                            .vectors = static_cast<int>(weight_vectors(problem)),
                            .columns = b_.columns,
                            .row_tiles = 0,
                            .column_tiles = 0};
    const int64_t tiles = problem.N * problem.heads * p.h.phases * p.w.phases * phase_tiles(p.h, p.w, TallTile::kRows);
    const bool tall = is_tall(tiles);
    if constexpr (sizeof(T) == 4) {
      // Exact products of floats are bound by their arithmetic, and a tall tile of them by registers.
      if (!tf32_) return columns<T, SmallTile, OfFloat<SmallTile>>(problem, p);
      return tall ? columns<T, TallTile, OfTf32<TallTile>>(problem, p)
                  : columns<T, SmallTile, OfTf32<SmallTile>>(problem, p);
    } else {
      return tall ? columns<T, TallTile, OfHalf<T, TallTile>>(problem, p)
                  : columns<T, SmallTile, OfHalf<T, SmallTile>>(problem, p);
    }
  }

  template <class T, class Tile, class Product>
  dyndeploy_status columns(const Problem& problem, TransposedConvolution& p) const {
    p.row_tiles = static_cast<int>(phase_tiles(p.h, p.w, Tile::kRows));
    p.column_tiles = static_cast<int>(divide_up(p.kept.most, Tile::kColumns));
    const int64_t blocks = problem.N * problem.heads * p.h.phases * p.w.phases * p.row_tiles * p.column_tiles;
    return cuda::launch(how("dgc convolve_transposed", blocks, Tile::kThreads, sizeof(cuda::GemmShared<Tile>)),
                        convolve_transposed<T, Tile, Product>, p);
  }

  template <class T>
  dyndeploy_status join_heads(const Problem& problem, int64_t first) const {
    const dyndeploy_tensor X = part_of(inputs_[kX], first, problem.N), of_x = part_of(gradients_[kX], first, problem.N);
    const auto channel_stride = [&](const dyndeploy_tensor& map) { return problem.C > 1 ? stride_of(map, 1) : 1; };
    Joining p{.x = X.data,
              .n = stride_of(X, 0),
              .c = channel_stride(X),
              .h = stride_of(X, 2),
              .w = stride_of(X, 3),
              .gradient = nullptr,
              .gradient_n = 0,
              .gradient_c = 0,
              .gradient_h = 0,
              .gradient_w = 0,
              .heads = static_cast<int>(problem.heads),
              .C = static_cast<int>(problem.C),
              .pixels = static_cast<int>(pixels_of_x(problem)),
              .width = static_cast<int>(problem.window.W),
              .pixel_tiles = static_cast<int>(join_tiles(problem)),
              .channel_tiles = static_cast<int>(divide_up(problem.C, kJoinChannels)),
              .kept = b_.kept,
              .columns = b_.columns,
              .slopes = wanted_.saliency ? b_.slopes : nullptr};
    if (wanted_.x) {
      p.gradient = of_x.data;
      p.gradient_n = stride_of(of_x, 0);
      p.gradient_c = channel_stride(of_x);
      p.gradient_h = stride_of(of_x, 2);
      p.gradient_w = stride_of(of_x, 3);
    }
    const int64_t blocks = problem.N * p.channel_tiles * p.pixel_tiles;
    DYNDEPLOY_TRY(cuda::launch(how("dgc join", blocks, kJoinThreads, sizeof(JoinShared)), join<T>, p));
    if (!wanted_.saliency) return DYNDEPLOY_OK;
    const dyndeploy_tensor of_saliency = part_of(gradients_[kSaliency], first, problem.N);
    const SaliencySums sums{.slopes = b_.slopes,
                            .tiles = p.pixel_tiles,
                            .count = problem.N * problem.heads * problem.C,
                            .heads = p.heads,
                            .C = p.C,
                            .kept = b_.kept,
                            .gradient = of_saliency.data,
                            .n = stride_of(of_saliency, 0),
                            .c = stride_of(of_saliency, 1)};
    const int64_t of_saliencies = divide_up(sums.count, kSaliencyThreads);
    return cuda::launch(how("dgc sum_saliency", of_saliencies, kSaliencyThreads, 0), sum_saliency<T>, sums);
  }

  template <class T>
  dyndeploy_status weights(const Problem& problem, int64_t first) const {
    const Window& window = problem.window;
    Correlation p{.kept = b_.kept,
                  .x = b_.x,
                  .map = cuda::window_map(window, most_kept(problem) / wide(problem.dtype)),
                  .taps = static_cast<int>(window.taps()),
                  .gradient = b_.gradient,
                  .heads = static_cast<int>(problem.heads),
                  .outputs = static_cast<int>(problem.head_outputs()),
                  .vectors = static_cast<int>(weight_vectors(problem)),
                  .pixels = static_cast<int>(pixels_of_y(problem)),
                  .width = static_cast<int>(window.Wo),
                  .parts = 0,
                  .part_pixels = 0,
                  .sums = b_.sums,
                  .row_tiles = 0,
                  .column_tiles = 0};
    const auto tiles = [&](int64_t rows) {
      return problem.N * problem.heads * divide_up(int64_t{p.taps} * p.kept.most, rows) * divide_up(p.outputs, kLeastTile);
    };
    const bool tall = is_tall(tiles(TallTile::kRows));
    const int64_t wish = divide_up(kEnoughBlocks, std::max<int64_t>(tiles(tall ? TallTile::kRows : SmallTile::kRows), 1));
    p.part_pixels = static_cast<int>(divide_up(p.pixels, std::min(wish, most_parts(problem))));
    p.parts = static_cast<int>(divide_up(p.pixels, p.part_pixels));
    DYNDEPLOY_TRY(tall ? (weights_in<T, TallTile>(problem, p)) : (weights_in<T, SmallTile>(problem, p)));
    return add_weights<T>(problem, first, p.parts);
  }

  template <class T, class Tile>
  dyndeploy_status weights_in(const Problem& problem, Correlation& p) const {
    if constexpr (sizeof(T) == 4)
      return tf32_ ? weights<T, Tile, Tf32Sums<Tile>>(problem, p) : weights<T, Tile, FloatSums<Tile>>(problem, p);
    else
      return weights<T, Tile, HalfSums<T, Tile>>(problem, p);
  }

  template <class T, class Tile, class Product>
  dyndeploy_status weights(const Problem& problem, Correlation& p) const {
    p.row_tiles = static_cast<int>(divide_up(int64_t{p.taps} * p.kept.most, Tile::kRows));
    p.column_tiles = static_cast<int>(divide_up(p.outputs, Tile::kColumns));
    const int64_t blocks = problem.N * problem.heads * p.parts * p.row_tiles * p.column_tiles;
    return cuda::launch(how("dgc correlate", blocks, Tile::kThreads, sizeof(cuda::GemmShared<Tile>)),
                        correlate<T, Tile, Product>, p);
  }

  template <class T>
  dyndeploy_status add_weights(const Problem& problem, int64_t first, int parts) const {
    const dyndeploy_tensor& of_w = gradients_[kW];
    const WeightSums p{.sums = b_.sums,
                       .samples = static_cast<int>(problem.N),
                       .parts = parts,
                       .count = problem.O * problem.C * problem.window.taps(),
                       .heads = static_cast<int>(problem.heads),
                       .outputs = static_cast<int>(problem.head_outputs()),
                       .C = static_cast<int>(problem.C),
                       .taps = static_cast<int>(problem.window.taps()),
                       .kw = static_cast<int>(problem.window.kw),
                       .kept = b_.kept,
                       .earlier = b_.earlier,
                       .first = first == 0,
                       .last = first + problem.N == problem_.N,
                       .gradient = of_w.data,
                       .o = stride_of(of_w, 0),
                       .c = stride_of(of_w, 1),
                       .h = stride_of(of_w, 2),
                       .w = stride_of(of_w, 3)};
    return cuda::launch(how("dgc sum_weights", divide_up(p.count, kWeightThreads), kWeightThreads, 0), sum_weights<T>, p);
  }

  const Problem& problem_;
  const dyndeploy_tensor& gradient_;
  const dyndeploy_tensor* inputs_;
  const dyndeploy_tensor* gradients_;
  const Wanted wanted_;
  const cudaStream_t stream_;
  const bool tf32_;
  Workspace workspace_;
  const BackwardBuffers b_;
};

template <class T, class Tile, class Product>
dyndeploy_cuda_kernel columns_entry(const char* name) {
  return cuda::kernel_entry(name, convolve_transposed<T, Tile, Product>, Tile::kThreads, sizeof(cuda::GemmShared<Tile>),
                            Tile::kBlocks);
}
template <class T, class Tile, class Product>
dyndeploy_cuda_kernel weights_entry(const char* name) {
  return cuda::kernel_entry(name, correlate<T, Tile, Product>, Tile::kThreads, sizeof(cuda::GemmShared<Tile>),
                            Tile::kBlocks);
}

struct BackwardCall : BackwardArguments<dyndeploy_dgc, dyndeploy_cuda_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(cuda::check_resources(kOp, resources));
    return dgc::resolve(attributes, inputs, &problem);
  }
  dyndeploy_status prepare() const { return check_backward(problem); }
  uint64_t workspace() const {
    Workspace workspace;
    lay_out(problem, Wanted(gradients), most_pass(), workspace);
    return workspace.bytes();
  }
  dyndeploy_status run() const { return Backward(problem, *gradient, inputs, gradients, *resources).run(); }
};

}  // namespace

std::vector<dyndeploy_cuda_kernel> backward_kernels() {
  using cuda::bfloat16;
  using cuda::float16;
  std::vector<dyndeploy_cuda_kernel> all = {
      columns_entry<float, TallTile, OfTf32<TallTile>>("convolve_transposed, TF32, 128 x 64"),
      columns_entry<float16, TallTile, OfHalf<float16, TallTile>>("convolve_transposed, float16, 128 x 64"),
      columns_entry<bfloat16, TallTile, OfHalf<bfloat16, TallTile>>("convolve_transposed, bfloat16, 128 x 64"),
      weights_entry<float, TallTile, FloatSums<TallTile>>("correlate, float32, 128 x 64"),
      weights_entry<float, TallTile, Tf32Sums<TallTile>>("correlate, TF32, 128 x 64"),
      weights_entry<float16, TallTile, HalfSums<float16, TallTile>>("correlate, float16, 128 x 64"),
      weights_entry<bfloat16, TallTile, HalfSums<bfloat16, TallTile>>("correlate, bfloat16, 128 x 64"),
      columns_entry<float, SmallTile, OfFloat<SmallTile>>("convolve_transposed, float32, 64 x 64"),
      columns_entry<float, SmallTile, OfTf32<SmallTile>>("convolve_transposed, TF32, 64 x 64"),
      columns_entry<float16, SmallTile, OfHalf<float16, SmallTile>>("convolve_transposed, float16, 64 x 64"),
      columns_entry<bfloat16, SmallTile, OfHalf<bfloat16, SmallTile>>("convolve_transposed, bfloat16, 64 x 64"),
      weights_entry<float, SmallTile, FloatSums<SmallTile>>("correlate, float32, 64 x 64"),
      weights_entry<float, SmallTile, Tf32Sums<SmallTile>>("correlate, TF32, 64 x 64"),
      weights_entry<float16, SmallTile, HalfSums<float16, SmallTile>>("correlate, float16, 64 x 64"),
      weights_entry<bfloat16, SmallTile, HalfSums<bfloat16, SmallTile>>("correlate, bfloat16, 64 x 64"),
  };
  const auto add = [&](auto type, const char* copy, const char* sum, const char* more, const char* joined,
                       const char* saliency, const char* weights) {
    using T = decltype(type);
    for (const dyndeploy_cuda_kernel& kernel :
         {cuda::kernel_entry(copy, cuda::copy_channels_last<T>, cuda::kCopyThreads, sizeof(cuda::CopyShared<T>)),
          cuda::kernel_entry(sum, cuda::sum_pixels<T>, cuda::kBiasThreads, sizeof(cuda::BiasShared)),
          cuda::kernel_entry(more, cuda::add_pixel_sums<T>, cuda::kBiasThreads, 0),
          cuda::kernel_entry(joined, join<T>, kJoinThreads, sizeof(JoinShared)),
          cuda::kernel_entry(saliency, sum_saliency<T>, kSaliencyThreads, 0),
          cuda::kernel_entry(weights, sum_weights<T>, kWeightThreads, 0)})
      all.push_back(kernel);
  };
  add(float{}, "copy_channels_last, float32", "sum_pixels, float32", "add_pixel_sums, float32", "join, float32",
      "sum_saliency, float32", "sum_weights, float32");
  add(float16{}, "copy_channels_last, float16", "sum_pixels, float16", "add_pixel_sums, float16", "join, float16",
      "sum_saliency, float16", "sum_weights, float16");
  add(bfloat16{}, "copy_channels_last, bfloat16", "sum_pixels, bfloat16", "add_pixel_sums, bfloat16", "join, bfloat16",
      "sum_saliency, bfloat16", "sum_weights, bfloat16");
  return all;
}

}  // namespace dyndeploy::dgc

using namespace dyndeploy;
using namespace dyndeploy::dgc;

dyndeploy_status dyndeploy_dgc_cuda_use(int32_t rows, int64_t pass_bytes) {
  if (rows != 0 && rows != SmallTile::kRows && rows != TallTile::kRows)
    return bad_argument("%s: tiles of %d rows; there are 64 and 128, or 0", kOp, rows);
  if (pass_bytes < 0) return bad_argument("%s: a pass of %lld bytes", kOp, static_cast<long long>(pass_bytes));
  used_rows = rows;
  used_pass = pass_bytes;
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dgc_cuda_backward_workspace(const dyndeploy_dgc* attributes, const dyndeploy_tensor* gradient,
                                                       const dyndeploy_tensor inputs[4],
                                                       const dyndeploy_tensor gradients[4],
                                                       const dyndeploy_cuda_resources* resources, uint64_t* bytes) {
  return query_backward(kOp, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}}, bytes);
}

dyndeploy_status dyndeploy_dgc_cuda_backward(const dyndeploy_dgc* attributes, const dyndeploy_tensor* gradient,
                                             const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                             const dyndeploy_cuda_resources* resources) {
  return run_backward(kOp, kInputs, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}});
}

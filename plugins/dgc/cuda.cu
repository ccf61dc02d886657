// The C ABI on GPUs: checks, memory, the choice of tiles, launches. The kernels are in keep.cuh and convolve.cuh.
#include <algorithm>

#include "common/entry.h"
#include "dgc/convolve.cuh"
#include "dgc/prepare.h"

namespace dyndeploy::dgc {

using cuda::divide_up;
using cuda::kMostCount;
using cuda::Sixteen;
using cuda::stride_of;
using cuda::wide;

// What W's shape and the attributes say of packed weights.
int64_t weight_vectors(const Problem& problem) {
  return divide_up(problem.head_outputs(), wide(problem.dtype));
}
int64_t packed_vectors(const Problem& problem) {
  return problem.heads * problem.C * problem.window.taps() * weight_vectors(problem);
}

namespace {

uint64_t packed_bytes_of(const Problem& problem) { return static_cast<uint64_t>(packed_vectors(problem)) * sizeof(Sixteen); }

dyndeploy_status check_weights(const Problem& problem) {
  if (problem.window.taps() > kMostCount || problem.O > kMostCount || problem.C * problem.window.taps() > kMostCount)
    return cuda::too_large(kOp, "taps, channels and outputs");
  return packed_vectors(problem) > kMostCount * kPackThreads ? cuda::too_large(kOp, "blocks of weights") : DYNDEPLOY_OK;
}

}  // namespace

dyndeploy_status launch_pack(const Problem& problem, const dyndeploy_tensor& W, void* packed, cudaStream_t stream) {
  const Packing packing{.weights = W.data,
                        .o = stride_of(W, 0),
                        .c = stride_of(W, 1),
                        .h = stride_of(W, 2),
                        .w = stride_of(W, 3),
                        .heads = static_cast<int>(problem.heads),
                        .C = static_cast<int>(problem.C),
                        .taps = static_cast<int>(problem.window.taps()),
                        .kw = static_cast<int>(problem.window.kw),
                        .outputs = static_cast<int>(problem.head_outputs()),
                        .vectors = static_cast<int>(weight_vectors(problem)),
                        .packed = static_cast<Sixteen*>(packed)};
  const cuda::Launch how{.name = "dgc pack_weights",
                         .blocks = dim3(static_cast<unsigned>(divide_up(packed_vectors(problem), kPackThreads))),
                         .threads = kPackThreads,
                         .shared_bytes = 0,
                         .stream = stream};
  return cuda::with_type(problem.dtype,
                         [&](auto type) { return cuda::launch(how, pack_weights<decltype(type)>, packing); });
}

// --- a forward

int64_t room(const Problem& problem) {
  return std::max<int64_t>(problem.C - std::max<int64_t>(problem.inactive, 0), 1);
}
int64_t most_kept(const Problem& problem) { return cuda::round_up(room(problem), wide(problem.dtype)); }

dyndeploy_status check_sizes(const Problem& problem) {
  DYNDEPLOY_TRY(check_weights(problem));
  const Window& window = problem.window;
  DYNDEPLOY_TRY(cuda::check_window(kOp, window));
  const int64_t of_x = window.H * window.W, of_y = window.Ho * window.Wo;
  if (of_y > kMostCount || of_x > kMostCount / (most_kept(problem) / wide(problem.dtype))) return cuda::too_large(kOp, "a sample");
  const int64_t heads = problem.N * problem.heads;
  if (heads > kMostCount / most_kept(problem)) return cuda::too_large(kOp, "samples and heads");
  const int64_t tiles = std::max(divide_up(of_y, 64) * divide_up(problem.head_outputs(), 64),
                                 divide_up(of_x, cuda::kCopyPixels) *
                                     divide_up(most_kept(problem) / wide(problem.dtype), cuda::kCopyVectors));
  return tiles > kMostCount / std::max<int64_t>(heads, 1) ? cuda::too_large(kOp, "tiles") : DYNDEPLOY_OK;
}

namespace {

struct Buffers {
  Sixteen* packed = nullptr;
  Sixteen* x = nullptr;
  Kept kept{};
};

Buffers lay_out(const Problem& problem, bool pack, Workspace& workspace) {
  const int64_t heads = problem.N * problem.heads, most = most_kept(problem);
  Buffers buffers;
  if (pack) buffers.packed = workspace.take<Sixteen>(packed_vectors(problem));
  buffers.x = workspace.take<Sixteen>(heads * problem.window.H * problem.window.W * (most / wide(problem.dtype)));
  buffers.kept = {.counts = workspace.take<int>(heads),
                  .channels = workspace.take<int>(heads * most),
                  .gates = workspace.take<float>(heads * most),
                  .places = nullptr,
                  .most = static_cast<int>(most)};
  return buffers;
}

}  // namespace

dyndeploy_status launch_keep(const Problem& problem, const dyndeploy_tensor& saliency, const Kept& kept,
                             cudaStream_t stream) {
  const Keeping keeping{.saliency = saliency.data,
                        .n = stride_of(saliency, 0),
                        .c = stride_of(saliency, 1),
                        .heads = static_cast<int>(problem.heads),
                        .C = static_cast<int>(problem.C),
                        .inactive = static_cast<int>(problem.inactive),
                        .threshold = problem.threshold,
                        .room = static_cast<int>(room(problem)),
                        .kept = kept};
  const cuda::Launch how{.name = "dgc keep",
                         .blocks = dim3(static_cast<unsigned>(problem.N * problem.heads)),
                         .threads = kKeepThreads,
                         .shared_bytes = sizeof(KeepShared),
                         .stream = stream};
  return cuda::with_type(problem.dtype, [&](auto type) { return cuda::launch(how, keep<decltype(type)>, keeping); });
}

dyndeploy_status launch_compress(const Problem& problem, const dyndeploy_tensor& X, const Kept& kept, Sixteen* rows,
                                 cudaStream_t stream) {
  if (elements(X) == 0) return DYNDEPLOY_OK;
  const int64_t pixels = problem.window.H * problem.window.W, size = wide(problem.dtype);
  const int64_t row_vectors = std::max<int64_t>(divide_up(problem.C, size), 1);
  constexpr int64_t kMostPixels = 64, kVectors = sizeof(RowsShared) / sizeof(Sixteen);
  const int64_t row_pixels = std::min(kMostPixels, kVectors / row_vectors);
  // One read for all heads, where channels lie side by side and fit.
  const bool by_rows = channels_last(X) && problem.heads > 1 && row_pixels > 0 &&
                       problem.N * divide_up(pixels, std::max<int64_t>(row_pixels, 1)) <= kMostCount;
  Compressing compressing{.x = X.data,
                          .n = stride_of(X, 0),
                          .c = problem.C > 1 ? stride_of(X, 1) : 1,
                          .h = stride_of(X, 2),
                          .w = stride_of(X, 3),
                          .heads = static_cast<int>(problem.heads),
                          .C = static_cast<int>(problem.C),
                          .pixels = static_cast<int>(pixels),
                          .width = static_cast<int>(problem.window.W),
                          .pixel_tiles = static_cast<int>(divide_up(pixels, by_rows ? row_pixels : cuda::kCopyPixels)),
                          .vector_tiles = static_cast<int>(divide_up(most_kept(problem) / size, cuda::kCopyVectors)),
                          .row_pixels = static_cast<int>(row_pixels),
                          .row_vectors = static_cast<int>(row_vectors),
                          .vectors = cuda::has_vectors(X) && problem.C % size == 0,
                          .kept = kept,
                          .rows = rows};
  const int64_t tiles = problem.N * int64_t{compressing.pixel_tiles};
  return cuda::with_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    cuda::Launch how{.name = "dgc compress",
                     .blocks = dim3(static_cast<unsigned>(tiles * problem.heads * compressing.vector_tiles)),
                     .threads = cuda::kCopyThreads,
                     .shared_bytes = sizeof(CompressShared<T>),
                     .stream = stream};
    if (!by_rows) return cuda::launch(how, compress<T>, compressing);
    how.name = "dgc compress_rows";
    how.blocks = dim3(static_cast<unsigned>(tiles));
    how.threads = kRowsThreads;
    how.shared_bytes = sizeof(RowsShared);
    return cuda::launch(how, compress_rows<T>, compressing);
  });
}

namespace {

using SmallTile = cuda::Tile<64, 64, 2, 2, 4>;
using TallTile = cuda::Tile<128, 64, 4, 2, 2>;
using LargeTile = cuda::Tile<128, 128, 2, 4, 1>;

template <class T, class Tile>
using HalfProduct = cuda::TensorCoreProduct<Tile, T, cuda::DepthInRows<T, Tile>>;
template <class Tile>
using Tf32Product = cuda::TensorCoreProduct<Tile, cuda::tf32, cuda::DepthInRows<float, Tile>>;
template <class Tile>
using ExactProduct = cuda::FloatProduct<Tile, cuda::DepthInRows<float, Tile>>;

template <class T, class Tile, class Product>
dyndeploy_status launch_tile(const Problem& problem, Convolution& convolution, cudaStream_t stream) {
  convolution.row_tiles = static_cast<int>(divide_up(convolution.output.pixels, Tile::kRows));
  convolution.column_tiles = static_cast<int>(divide_up(convolution.outputs, Tile::kColumns));
  const int64_t blocks = problem.N * problem.heads * int64_t{convolution.row_tiles} * int64_t{convolution.column_tiles};
  const cuda::Launch how{.name = "dgc convolve",
                         .blocks = dim3(static_cast<unsigned>(blocks)),
                         .threads = Tile::kThreads,
                         .shared_bytes = sizeof(cuda::GemmShared<Tile>),
                         .stream = stream};
  return cuda::launch(how, convolve<T, Tile, Product>, convolution);
}

// A tile is worth its size when all multiprocessors have work: the larger one reads less per product.
template <class Tile>
bool fills(const Problem& problem) {
  const int64_t tiles = divide_up(problem.window.Ho * problem.window.Wo, Tile::kRows) *
                        divide_up(problem.head_outputs(), Tile::kColumns);
  const bool empty_columns = problem.head_outputs() <= Tile::kColumns / 2;
  return !empty_columns && problem.N * problem.heads * tiles >= Tile::kBlocks * cuda::kMultiprocessors;
}

template <class T>
dyndeploy_status launch_convolve(const Problem& problem, bool tf32, Convolution& convolution, cudaStream_t stream) {
  if constexpr (sizeof(T) == 4) {
    const bool tall = fills<TallTile>(problem);
    if (tf32)
      return tall ? launch_tile<T, TallTile, Tf32Product<TallTile>>(problem, convolution, stream)
                  : launch_tile<T, SmallTile, Tf32Product<SmallTile>>(problem, convolution, stream);
    return tall ? launch_tile<T, TallTile, ExactProduct<TallTile>>(problem, convolution, stream)
                : launch_tile<T, SmallTile, ExactProduct<SmallTile>>(problem, convolution, stream);
  } else {
    if (fills<LargeTile>(problem))
      return launch_tile<T, LargeTile, HalfProduct<T, LargeTile>>(problem, convolution, stream);
    if (fills<TallTile>(problem)) return launch_tile<T, TallTile, HalfProduct<T, TallTile>>(problem, convolution, stream);
    return launch_tile<T, SmallTile, HalfProduct<T, SmallTile>>(problem, convolution, stream);
  }
}

dyndeploy_status run(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                     const dyndeploy_cuda_resources& resources) {
  if (elements(Y) == 0) return DYNDEPLOY_OK;
  const auto stream = static_cast<cudaStream_t>(resources.stream);
  Workspace workspace(resources.workspace);
  const Buffers buffers = lay_out(problem, !resources.packed, workspace);
  const auto* packed = static_cast<const Sixteen*>(resources.packed);
  if (!packed) {
    DYNDEPLOY_TRY(launch_pack(problem, inputs[kW], buffers.packed, stream));
    packed = buffers.packed;
  }
  DYNDEPLOY_TRY(launch_keep(problem, inputs[kSaliency], buffers.kept, stream));
  DYNDEPLOY_TRY(launch_compress(problem, inputs[kX], buffers.kept, buffers.x, stream));

  cuda::Output output = cuda::output_of(Y, inputs[kB], problem.relu);
  const int64_t head = problem.shuffle ? output.c : output.c * problem.head_outputs();
  if (problem.shuffle) output.c *= problem.heads;
  // Heads begin at multiples of sixteen bytes, or do not.
  output.vectors = output.vectors && output.c == 1 && head % wide(problem.dtype) == 0;
  Convolution convolution{.kept = buffers.kept,
                          .x = buffers.x,
                          .map = cuda::window_map(problem.window, most_kept(problem) / wide(problem.dtype)),
                          .taps = static_cast<int>(problem.window.taps()),
                          .packed = packed,
                          .heads = static_cast<int>(problem.heads),
                          .C = static_cast<int>(problem.C),
                          .outputs = static_cast<int>(problem.head_outputs()),
                          .vectors = static_cast<int>(weight_vectors(problem)),
                          .output = output,
                          .head = head,
                          .row_tiles = 0,
                          .column_tiles = 0};
  return cuda::with_type(problem.dtype, [&](auto type) {
    return launch_convolve<decltype(type)>(problem, resources.tf32 == 1, convolution, stream);
  });
}

struct ForwardCall : ForwardArguments<dyndeploy_dgc, dyndeploy_cuda_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(cuda::check_resources(kOp, resources));
    return dgc::resolve(attributes, inputs, &problem);
  }
  dyndeploy_status prepare() const { return check_sizes(problem); }
  bool reads(int input) const { return input != kW || !resources->packed; }
  dyndeploy_status check_packed() const {
    if (!resources->packed) return DYNDEPLOY_OK;
    return cuda::check_packed(kOp, resources->packed, resources->packed_bytes, packed_bytes_of(problem));
  }
  uint64_t workspace() const {
    Workspace workspace;
    lay_out(problem, !resources->packed, workspace);
    return workspace.bytes();
  }
  dyndeploy_status run() const { return dgc::run(problem, inputs, *output, *resources); }
};

}  // namespace
}  // namespace dyndeploy::dgc

using namespace dyndeploy;
using namespace dyndeploy::dgc;

dyndeploy_status dyndeploy_dgc_cuda_packed_bytes(const dyndeploy_dgc* attributes, const dyndeploy_tensor* W,
                                                 uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  DYNDEPLOY_TRY(check_weights(problem));
  return answer(kOp, packed_bytes_of(problem), bytes);
}

dyndeploy_status dyndeploy_dgc_cuda_pack(const dyndeploy_dgc* attributes, const dyndeploy_tensor* W, void* packed,
                                         uint64_t packed_bytes, void* stream) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  DYNDEPLOY_TRY(check_weights(problem));
  DYNDEPLOY_TRY(check_data(kOp, "W", *W));
  DYNDEPLOY_TRY(cuda::check_packed(kOp, packed, packed_bytes, packed_bytes_of(problem)));
  return launch_pack(problem, *W, packed, static_cast<cudaStream_t>(stream));
}

dyndeploy_status dyndeploy_dgc_cuda_forward_workspace(const dyndeploy_dgc* attributes, const dyndeploy_tensor inputs[4],
                                                      const dyndeploy_tensor* output,
                                                      const dyndeploy_cuda_resources* resources, uint64_t* bytes) {
  return query_forward(kOp, ForwardCall{{attributes, inputs, output, resources}}, bytes);
}

dyndeploy_status dyndeploy_dgc_cuda_forward(const dyndeploy_dgc* attributes, const dyndeploy_tensor inputs[4],
                                            const dyndeploy_tensor* output, const dyndeploy_cuda_resources* resources) {
  return run_forward(kOp, kInputs, ForwardCall{{attributes, inputs, output, resources}});
}

namespace {

template <class T, class Tile, class Product>
dyndeploy_cuda_kernel convolve_entry(const char* name) {
  return cuda::kernel_entry(name, convolve<T, Tile, Product>, Tile::kThreads, sizeof(cuda::GemmShared<Tile>),
                            Tile::kBlocks);
}

}  // namespace

int32_t dyndeploy_dgc_cuda_kernels(const dyndeploy_cuda_kernel** kernels) {
  using cuda::bfloat16;
  using cuda::float16;
  using cuda::kernel_entry;
  static const std::vector<dyndeploy_cuda_kernel> all = [] {
    std::vector<dyndeploy_cuda_kernel> kernels = {
        kernel_entry("pack_weights, float32", pack_weights<float>, kPackThreads, 0),
        kernel_entry("pack_weights, float16", pack_weights<float16>, kPackThreads, 0),
        kernel_entry("pack_weights, bfloat16", pack_weights<bfloat16>, kPackThreads, 0),
        kernel_entry("keep, float32", keep<float>, kKeepThreads, sizeof(KeepShared)),
        kernel_entry("keep, float16", keep<float16>, kKeepThreads, sizeof(KeepShared)),
        kernel_entry("keep, bfloat16", keep<bfloat16>, kKeepThreads, sizeof(KeepShared)),
        kernel_entry("compress, float32", compress<float>, cuda::kCopyThreads, sizeof(CompressShared<float>)),
        kernel_entry("compress, float16", compress<float16>, cuda::kCopyThreads, sizeof(CompressShared<float16>)),
        kernel_entry("compress, bfloat16", compress<bfloat16>, cuda::kCopyThreads, sizeof(CompressShared<bfloat16>)),
        kernel_entry("compress_rows, float32", compress_rows<float>, kRowsThreads, sizeof(RowsShared)),
        kernel_entry("compress_rows, float16", compress_rows<float16>, kRowsThreads, sizeof(RowsShared)),
        kernel_entry("compress_rows, bfloat16", compress_rows<bfloat16>, kRowsThreads, sizeof(RowsShared)),
        convolve_entry<float, SmallTile, ExactProduct<SmallTile>>("convolve, float32, 64 x 64"),
        convolve_entry<float, TallTile, ExactProduct<TallTile>>("convolve, float32, 128 x 64"),
        convolve_entry<float, SmallTile, Tf32Product<SmallTile>>("convolve, TF32, 64 x 64"),
        convolve_entry<float, TallTile, Tf32Product<TallTile>>("convolve, TF32, 128 x 64"),
        convolve_entry<float16, SmallTile, HalfProduct<float16, SmallTile>>("convolve, float16, 64 x 64"),
        convolve_entry<float16, TallTile, HalfProduct<float16, TallTile>>("convolve, float16, 128 x 64"),
        convolve_entry<float16, LargeTile, HalfProduct<float16, LargeTile>>("convolve, float16, 128 x 128"),
        convolve_entry<bfloat16, SmallTile, HalfProduct<bfloat16, SmallTile>>("convolve, bfloat16, 64 x 64"),
        convolve_entry<bfloat16, TallTile, HalfProduct<bfloat16, TallTile>>("convolve, bfloat16, 128 x 64"),
        convolve_entry<bfloat16, LargeTile, HalfProduct<bfloat16, LargeTile>>("convolve, bfloat16, 128 x 128"),
    };
    for (const dyndeploy_cuda_kernel& kernel : backward_kernels()) kernels.push_back(kernel);
    return kernels;
  }();
  *kernels = all.data();
  return static_cast<int32_t>(all.size());
}

// The C ABI on GPUs: checks, memory, the choice of tiles, launches. The kernels are in pack.cuh and convolve.cuh.
#include <cstdlib>

#include "common/entry.h"
#include "dcnv2/convolve.cuh"
#include "dcnv2/cuda.h"
#include "dcnv2/pack.cuh"
#include "dcnv2/tiles.h"

namespace dyndeploy::dcnv2 {
namespace {

using cuda::divide_up;
using cuda::Sixteen;
using cuda::stride_of;
using cuda::wide;

template <class T>
constexpr Name kPack = name_of("pack_weights", kType<T>);
template <class Number, class Tile>
constexpr Name kConvolve = name_of("convolve", kType<Number>, Tile::kRows, Tile::kColumns);
template <class T>
constexpr Name kAdd = name_of("add_parts", kType<T>);

// What packing needs of the attributes besides W: pack is asked before there is an X to check them with.
dyndeploy_status resolve_packing(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* W, Problem* problem,
                                 Weights* weights) {
  DYNDEPLOY_TRY(resolve_weights(attributes, W, problem));
  const int64_t offset_group = attributes->offset_group;
  DYNDEPLOY_TRY(check_range(kOp, "offset_group", offset_group, 1, std::max<int64_t>(problem->C, 1)));
  if (problem->C % offset_group)
    return bad_argument("%s: offset_group = %lld does not divide the %lld channels of W", kOp,
                        static_cast<long long>(offset_group), static_cast<long long>(problem->C));
  return resolve_order(*problem, offset_group, weights);
}

dyndeploy_status launch_pack(const Problem& problem, const Weights& weights, const dyndeploy_tensor& W, void* packed,
                             cudaStream_t stream) {
  const Packing packing{.order = weights.order,
                        .weights = W.data,
                        .o = stride_of(W, 0),
                        .c = stride_of(W, 1),
                        .h = stride_of(W, 2),
                        .w = stride_of(W, 3),
                        .kw = static_cast<int>(problem.window.kw),
                        .outputs = static_cast<int>(problem.group_outputs()),
                        .columns = static_cast<int>(weights.columns),
                        .unit_channels = static_cast<int>(weights.unit_channels),
                        .groups = static_cast<int>(problem.group),
                        .packed = static_cast<Sixteen*>(packed)};
  return cuda::with_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const cuda::Launch how{.name = kPack<T>.data(),
                           .blocks = dim3(static_cast<unsigned>(divide_up(weights.vectors, kPackThreads))),
                           .threads = kPackThreads,
                           .shared_bytes = 0,
                           .stream = stream};
    return cuda::launch(how, pack_weights<T>, packing);
  });
}

// --- a forward

// Whether the sampler can read X as it is: channels last, in vectors that begin at multiples of sixteen bytes and hold
// neither channels of two units nor padding.
bool in_place(const Problem& problem, const Weights& weights, const dyndeploy_tensor& X) {
  const int64_t size = wide(problem.dtype);
  if (!channels_last(X) || weights.unit_channels % size || reinterpret_cast<uintptr_t>(X.data) % sizeof(Sixteen))
    return false;
  int64_t reach = problem.C;
  for (const int axis : {0, 2, 3}) {
    if (X.extents[axis] <= 1) continue;
    if (X.strides[axis] % size) return false;
    reach += X.extents[axis] * std::abs(X.strides[axis]);
  }
  return reach / size < cuda::kMostCount;
}

// The workspace. It has room for a copy of X even where X can be read in place: it must not depend on addresses, nor
// shrink when a channel more makes the copy unnecessary.
struct Buffers {
  Sixteen* packed = nullptr;
  Sixteen* x = nullptr;
  float* sums = nullptr;
};

Buffers lay_out(const Problem& problem, const Weights& weights, const dyndeploy_cuda_resources& resources,
                Workspace& workspace) {
  Buffers buffers;
  const Window& window = problem.window;
  if (!resources.packed) buffers.packed = workspace.take<Sixteen>(weights.vectors);
  buffers.x = workspace.take<Sixteen>(problem.N * window.H * window.W * weights.units * weights.order.unit_vectors);
  const int64_t sums = problem.N * problem.pixels() * problem.group * weights.columns;
  buffers.sums = workspace.take<float>(part_bytes(sums * static_cast<int64_t>(sizeof(float))) /
                                       static_cast<int64_t>(sizeof(float)));
  return buffers;
}

template <class T, class Number, class Tile>
dyndeploy_status launch_tile(Convolution& convolution, cudaStream_t stream) {
  static_assert(sizeof(ConvolveShared<T, Tile>) <= cuda::kMostSharedBytes);
  convolution.row_tiles = static_cast<int>(divide_up(convolution.output.rows, Tile::kRows));
  convolution.column_tiles = static_cast<int>(divide_up(convolution.outputs, Tile::kColumns));
  const int64_t tiles = int64_t{convolution.row_tiles} * convolution.column_tiles;
  if (tiles > cuda::kMostCount / convolution.groups / convolution.parts) return too_large("tiles");
  const cuda::Launch how{.name = kConvolve<Number, Tile>.data(),
                         .blocks = dim3(static_cast<unsigned>(tiles * convolution.groups * convolution.parts)),
                         .threads = Tile::kThreads,
                         .shared_bytes = sizeof(ConvolveShared<T, Tile>),
                         .stream = stream};
  return cuda::launch(how, convolve<T, Tile, ProductOf<T, Number, Tile>>, convolution);
}

// A kernel of `convolve`; launch is NULL where there is none.
struct Variant {
  dyndeploy_status (*launch)(Convolution& convolution, cudaStream_t stream);
  dyndeploy_cuda_kernel kernel;
};
// Those of kTiles.
using Variants = std::array<Variant, kTileCount>;

template <int Index, class T, class Number, int Blocks = kTiles[Index].blocks>
Variant variant() {
  constexpr TileShape kShape = kTiles[Index];
  using Tile = cuda::Tile<kShape.rows, kShape.columns, kShape.warp_rows, kShape.warp_columns, Blocks>;
  return {launch_tile<T, Number, Tile>,
          cuda::kernel_entry(kConvolve<Number, Tile>.data(), convolve<T, Tile, ProductOf<T, Number, Tile>>,
                             Tile::kThreads, sizeof(ConvolveShared<T, Tile>), Blocks)};
}

template <class T>
const Variants& variants(bool tf32) {
  if constexpr (sizeof(T) == 4) {
    // 128 registers are too few for the exact product.
    static const Variants exact = {variant<0, T, float, 3>(), {}, variant<2, T, float>(), {}, {}};
    static const Variants rounded = {variant<0, T, cuda::tf32>(), {}, variant<2, T, cuda::tf32>(), {}, {}};
    return tf32 ? rounded : exact;
  } else {
    static const Variants all = {variant<0, T, T>(), variant<1, T, T>(), variant<2, T, T>(), variant<3, T, T>(),
                                 variant<4, T, T>()};
    return all;
  }
}

dyndeploy_status run(const Problem& problem, const Weights& weights, const dyndeploy_tensor* inputs,
                     const dyndeploy_tensor& Y, const dyndeploy_cuda_resources& resources) {
  if (problem.N == 0 || problem.O == 0) return DYNDEPLOY_OK;
  const auto stream = static_cast<cudaStream_t>(resources.stream);
  Workspace workspace(resources.workspace);
  const Buffers buffers = lay_out(problem, weights, resources, workspace);
  const bool copied = !in_place(problem, weights, inputs[kX]);
  const auto* packed = static_cast<const Sixteen*>(resources.packed);
  if (!packed) {
    DYNDEPLOY_TRY(launch_pack(problem, weights, inputs[kW], buffers.packed, stream));
    packed = buffers.packed;
  }
  if (copied) {
    const char* name = cuda::with_type(problem.dtype, [](auto type) { return kCopy<decltype(type)>.data(); });
    DYNDEPLOY_TRY(cuda::launch_channels_last(name, inputs[kX], weights.unit_channels, weights.order.unit_vectors,
                                             weights.units * weights.order.unit_vectors, buffers.x, stream));
  }

  const bool floats = problem.dtype == DYNDEPLOY_FLOAT32, tf32 = resources.tf32 == 1;
  const int64_t rows = problem.N * problem.pixels();
  const Extent extent{.arithmetic = !floats ? Arithmetic::halves
                                    : tf32  ? Arithmetic::tf32
                                            : Arithmetic::floats,
                      .rows = rows,
                      .groups = problem.group,
                      .outputs = problem.group_outputs(),
                      .stages = weights.order.stages(),
                      .part_bytes = rows * problem.group * weights.columns * static_cast<int64_t>(sizeof(float))};
  Cut cut = choose_cut(extent, used_tile - 1, used_parts);
  const int part_stages = static_cast<int>(divide_up(extent.stages, cut.parts));
  // Rounded up, so fewer parts may be enough.
  if (part_stages > 0) cut.parts = static_cast<int>(divide_up(extent.stages, part_stages));
  Convolution convolution{.sampling = sampling_of(problem, weights, inputs, copied ? buffers.x : nullptr),
                          .order = weights.order,
                          .output = cuda::output_of(Y, inputs[kB], problem.relu),
                          .packed = packed,
                          .groups = static_cast<int>(problem.group),
                          .outputs = static_cast<int>(problem.group_outputs()),
                          .columns = static_cast<int>(weights.columns),
                          .row_tiles = 0,
                          .column_tiles = 0,
                          .parts = cut.parts,
                          .part_stages = part_stages,
                          .sums = buffers.sums};
  return cuda::with_type(problem.dtype, [&](auto type) -> dyndeploy_status {
    using T = decltype(type);
    DYNDEPLOY_TRY(variants<T>(tf32)[static_cast<size_t>(cut.tile)].launch(convolution, stream));
    if (cut.parts == 1) return DYNDEPLOY_OK;
    const int64_t blocks = divide_up(rows, kAddRows) * problem.group * divide_up(extent.outputs, cuda::kSlabColumns);
    const cuda::Launch how{.name = kAdd<T>.data(),
                           .blocks = dim3(static_cast<unsigned>(blocks)),
                           .threads = kAddThreads,
                           .shared_bytes = sizeof(AddShared),
                           .stream = stream};
    return cuda::launch(how, add_parts<T>, convolution);
  });
}

template <class T>
void add_kernels(std::vector<dyndeploy_cuda_kernel>& all) {
  all.push_back(cuda::kernel_entry(kPack<T>.data(), pack_weights<T>, kPackThreads, 0));
  all.push_back(cuda::kernel_entry(kCopy<T>.data(), cuda::copy_channels_last<T>, cuda::kCopyThreads,
                                   sizeof(cuda::CopyShared<T>)));
  for (const bool tf32 : {false, true})
    if (!tf32 || sizeof(T) == 4)
      for (const Variant& variant : variants<T>(tf32))
        if (variant.launch) all.push_back(variant.kernel);
  all.push_back(cuda::kernel_entry(kAdd<T>.data(), add_parts<T>, kAddThreads, sizeof(AddShared)));
}

std::vector<dyndeploy_cuda_kernel> all_kernels() {
  std::vector<dyndeploy_cuda_kernel> all = backward_kernels();
  add_kernels<float>(all);
  add_kernels<cuda::float16>(all);
  add_kernels<cuda::bfloat16>(all);
  return all;
}

uint64_t packed_bytes_of(const Weights& weights) { return static_cast<uint64_t>(weights.vectors) * sizeof(Sixteen); }

struct ForwardCall : ForwardArguments<dyndeploy_dcnv2, dyndeploy_cuda_resources> {
  Problem problem{};
  Weights weights{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(cuda::check_resources(kOp, resources));
    return dcnv2::resolve(attributes, inputs, &problem);
  }
  dyndeploy_status prepare() {
    DYNDEPLOY_TRY(resolve_order(problem, problem.offset_group, &weights));
    return check_sizes(problem, weights);
  }
  bool reads(int input) const { return input != kW || !resources->packed; }
  dyndeploy_status check_packed() const {
    if (!resources->packed) return DYNDEPLOY_OK;
    return cuda::check_packed(kOp, resources->packed, resources->packed_bytes, packed_bytes_of(weights));
  }
  uint64_t workspace() const {
    Workspace workspace;
    lay_out(problem, weights, *resources, workspace);
    return workspace.bytes();
  }
  dyndeploy_status run() const { return dcnv2::run(problem, weights, inputs, *output, *resources); }
};

}  // namespace
}  // namespace dyndeploy::dcnv2

using namespace dyndeploy;
using namespace dyndeploy::dcnv2;

dyndeploy_status dyndeploy_dcnv2_cuda_packed_bytes(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* W,
                                                   uint64_t* bytes) {
  Problem problem;
  Weights weights;
  DYNDEPLOY_TRY(resolve_packing(attributes, W, &problem, &weights));
  return answer(kOp, packed_bytes_of(weights), bytes);
}

dyndeploy_status dyndeploy_dcnv2_cuda_pack(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* W, void* packed,
                                           uint64_t packed_bytes, void* stream) {
  Problem problem;
  Weights weights;
  DYNDEPLOY_TRY(resolve_packing(attributes, W, &problem, &weights));
  DYNDEPLOY_TRY(check_data(kOp, "W", *W));
  DYNDEPLOY_TRY(cuda::check_packed(kOp, packed, packed_bytes, packed_bytes_of(weights)));
  return launch_pack(problem, weights, *W, packed, static_cast<cudaStream_t>(stream));
}

dyndeploy_status dyndeploy_dcnv2_cuda_forward_workspace(const dyndeploy_dcnv2* attributes,
                                                        const dyndeploy_tensor inputs[4],
                                                        const dyndeploy_tensor* output,
                                                        const dyndeploy_cuda_resources* resources, uint64_t* bytes) {
  return query_forward(kOp, ForwardCall{{attributes, inputs, output, resources}}, bytes);
}

dyndeploy_status dyndeploy_dcnv2_cuda_forward(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor inputs[4],
                                              const dyndeploy_tensor* output,
                                              const dyndeploy_cuda_resources* resources) {
  return run_forward(kOp, kInputs, ForwardCall{{attributes, inputs, output, resources}});
}

dyndeploy_status dyndeploy_dcnv2_cuda_use(int32_t rows, int32_t columns, int32_t parts) {
  int tile = 0;
  if (rows || columns) {
    while (tile < kTileCount && (kTiles[tile].rows != rows || kTiles[tile].columns != columns)) ++tile;
    if (tile == kTileCount) return bad_argument("%s: there is no tile of %d x %d", kOp, rows, columns);
    ++tile;
  }
  DYNDEPLOY_TRY(check_range(kOp, "parts", parts, 0, kMostParts));
  used_tile = tile;
  used_parts = parts;
  return DYNDEPLOY_OK;
}

int32_t dyndeploy_dcnv2_cuda_kernels(const dyndeploy_cuda_kernel** kernels) {
  static const std::vector<dyndeploy_cuda_kernel> list = all_kernels();
  *kernels = list.data();
  return static_cast<int32_t>(list.size());
}

// What a backward on GPUs counts and keeps: sizes of its products, and the workspace.
#pragma once

#include <bit>

#include "common/cuda/bias.cuh"
#include "dcnv2/cuda.h"
#include "dcnv2/data_gradient.cuh"
#include "dcnv2/tiles.h"

namespace dyndeploy::dcnv2 {

// Parts of the pixels, for the gradient of W, and bytes of all their sums: whichever is less, but one part always.
inline constexpr int kMostWeightParts = 32;
inline constexpr int64_t kMostWeightBytes = int64_t{32} << 20;
// So few stages are not worth a part.
inline constexpr int64_t kLeastPartStages = 4;
// Blocks that keep all multiprocessors busy.
inline constexpr int64_t kEnoughBlocks = 4 * cuda::kMultiprocessors;

struct Wanted {
  bool x, offset_mask, w, b;
  explicit Wanted(const dyndeploy_tensor* gradients)
      : x(gradients[kX].data), offset_mask(gradients[kOffsetMask].data), w(gradients[kW].data), b(gradients[kB].data) {}
  bool data() const { return x || offset_mask; }
  bool samples() const { return offset_mask || w; }
  bool products() const { return data() || w; }
};

// --- sizes

// What the kernels see of a problem.
struct Layout {
  int64_t rows;           // pixels of Y, of all samples
  int64_t x_vectors;      // of sixteen bytes of a pixel, all units
  int64_t group_vectors;  // of a pixel of Y, of a group
  int64_t tap_columns;    // of a tap of a unit, of the product that makes columns' gradients
  int64_t stages;         // of it
  int64_t slabs;          // of an offset group's channels
  int64_t tap_groups;
  int64_t packed;   // vectors
  int64_t points;   // of all pixels
  int64_t w_rows;   // of all units: of the sums of W's gradient
  int64_t w_sums;   // floats of one part of them
};

// At most INT64_MAX.
inline int64_t product(std::initializer_list<int64_t> factors) {
  int64_t result = 1;
  for (const int64_t factor : factors) {
    if (factor == 0) return 0;
    result = result > INT64_MAX / factor ? INT64_MAX : result * factor;
  }
  return result;
}

// All that the kernels count fits 32 bits, or a refusal.
inline dyndeploy_status resolve_layout(const Problem& problem, const Weights& weights, Layout* layout) {
  DYNDEPLOY_TRY(check_sizes(problem, weights));
  const int64_t taps = problem.window.taps(), size = cuda::wide(problem.dtype), channels = weights.unit_channels;
  Layout l{};
  l.rows = problem.N * problem.pixels();
  l.x_vectors = weights.units * weights.order.unit_vectors;
  l.group_vectors = cuda::divide_up(problem.group_outputs(), size);
  l.tap_columns = channels > kSlab ? cuda::round_up(channels, kSlab)
                                   : std::max<int64_t>(std::bit_ceil(static_cast<uint64_t>(channels)), kLeastTapColumns);
  l.stages = cuda::divide_up(l.group_vectors, cuda::kStageVectors);
  l.slabs = std::max<int64_t>(weights.units / problem.offset_group, 1) * cuda::divide_up(l.tap_columns, kSlab);
  l.tap_groups = cuda::divide_up(taps, std::max<int64_t>(kSlab / l.tap_columns, 1));
  l.packed = product({weights.units, l.stages, cuda::kStageVectors, taps, l.tap_columns});
  l.points = product({l.rows, problem.offset_group, taps});
  l.w_rows = product({weights.units, taps, weights.order.unit_vectors, size});
  l.w_sums = product({l.w_rows, l.group_vectors, size});
  if (product({taps, l.tap_columns}) > cuda::kMostCount / cuda::kStageVectors || l.packed > cuda::kMostCount ||
      l.w_rows > cuda::kMostCount)
    return too_large("taps and channels");
  if (product({problem.group, l.group_vectors}) > cuda::kMostCount / 128) return too_large("outputs");
  if (product({problem.N, cuda::divide_up(problem.pixels(), cuda::kCopyPixels),
               cuda::divide_up(problem.group * l.group_vectors, cuda::kCopyVectors)}) > cuda::kMostCount ||
      product({cuda::divide_up(l.rows, 32), problem.offset_group, l.tap_groups}) > cuda::kMostCount / kMostParts ||
      product({cuda::divide_up(l.rows, 32), problem.offset_group, taps}) > cuda::kMostCount)
    return too_large("tiles of Y");
  if (product({cuda::divide_up(l.w_rows, 32) + weights.units, cuda::divide_up(l.group_vectors * size, 32)}) >
      cuda::kMostCount / kMostWeightParts)
    return too_large("tiles of W");
  *layout = l;
  return DYNDEPLOY_OK;
}

// --- memory

// It has room for copies even where tensors can be read in place: it must not depend on addresses, nor shrink when a channel
// more makes a copy unnecessary.
struct Buffers {
  cuda::Sixteen* x = nullptr;
  cuda::Sixteen* gradient = nullptr;
  cuda::Sixteen* packed = nullptr;
  float* x_sums = nullptr;
  float4* point_sums = nullptr;
  float* w_sums = nullptr;
  float* b_sums = nullptr;
};

inline int64_t pixels_of_x(const Problem& problem) { return problem.N * problem.window.H * problem.window.W; }

inline Buffers lay_out(const Problem& problem, const Layout& layout, const Wanted& wanted, Workspace& workspace) {
  Buffers b;
  if (wanted.samples()) b.x = workspace.take<cuda::Sixteen>(pixels_of_x(problem) * layout.x_vectors);
  if (wanted.products()) b.gradient = workspace.take<cuda::Sixteen>(layout.rows * problem.group * layout.group_vectors);
  if (wanted.data()) b.packed = workspace.take<cuda::Sixteen>(layout.packed);
  if (wanted.x) b.x_sums = workspace.take<float>(pixels_of_x(problem) * layout.x_vectors * cuda::wide(problem.dtype));
  if (wanted.offset_mask) {
    const int64_t one = product({layout.points, sizeof(float4)});
    const int64_t bytes = std::min(kMostPartBytes, product({kMostParts, one}));
    b.point_sums = workspace.take<float4>(bytes / static_cast<int64_t>(sizeof(float4)));
  }
  if (wanted.w) {
    const int64_t one = layout.w_sums, most = kMostWeightBytes / static_cast<int64_t>(sizeof(float));
    b.w_sums = workspace.take<float>(std::max(one, std::min(most, product({kMostWeightParts, one}))));
  }
  if (wanted.b) b.b_sums = workspace.take<float>(cuda::bias_sums(layout.rows, problem.O));
  return b;
}

// Whether kernels can read a map as [sample][H][W][vectors]: dense, with every `channels` channels in vectors of their own.
inline bool dense(const dyndeploy_tensor& map, int64_t channels) {
  const bool aligned = reinterpret_cast<uintptr_t>(map.data) % sizeof(cuda::Sixteen) == 0;
  if (!channels_last(map) || channels % cuda::wide(map.dtype) || !aligned) return false;
  int64_t stride = map.extents[1];
  for (const int axis : {3, 2, 0}) {
    if (map.extents[axis] > 1 && map.strides[axis] != stride) return false;
    stride *= map.extents[axis];
  }
  return true;
}

}  // namespace dyndeploy::dcnv2

// The host side that forward and backward on GPUs share: sizes, names, where X is sampled.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <numeric>
#include <type_traits>
#include <vector>

#include "common/cuda/call.h"
#include "dcnv2/pack.cuh"
#include "dcnv2/points.cuh"
#include "dcnv2/problem.h"

namespace dyndeploy::dcnv2 {

// Names of the kernels, for messages and reports: "dcnv2 convolve, float16, 64 x 128".
using Name = std::array<char, 64>;
constexpr Name name_of(const char* kernel, const char* type, int rows = 0, int columns = 0) {
  Name name{};
  size_t end = 0;
  const auto add = [&](const char* text) {
    while (*text) name[end++] = *text++;
  };
  const auto add_number = [&](int number) {
    for (int power = 100; power; power /= 10)
      if (number >= power) name[end++] = static_cast<char>('0' + number / power % 10);
  };
  add("dcnv2 "), add(kernel), add(", "), add(type);
  if (rows) add(", "), add_number(rows), add(" x "), add_number(columns);
  return name;
}

template <class Number>
constexpr const char* kType = "float32";
template <>
constexpr const char* kType<cuda::float16> = "float16";
template <>
constexpr const char* kType<cuda::bfloat16> = "bfloat16";
template <>
constexpr const char* kType<cuda::tf32> = "TF32";

template <class T>
constexpr Name kCopy = name_of("copy_channels_last", kType<T>);

inline dyndeploy_status too_large(const char* what) { return cuda::too_large(kOp, what); }

// --- how weights are packed: from W and the attributes that W's shape depends on, and the offset groups

struct Weights {
  DepthOrder order;
  int64_t units;  // of all groups: channels of one lie in one group and in one offset group
  int64_t unit_channels;
  int64_t columns;  // of a group, padded
  int64_t vectors;  // of sixteen bytes, of all groups
};

inline dyndeploy_status resolve_order(const Problem& problem, int64_t offset_group, Weights* weights) {
  const int64_t group = problem.group, taps = problem.window.taps();
  // Without channels there may be any number of groups.
  weights->units = problem.C == 0 ? group : std::lcm(group, offset_group);
  weights->unit_channels = problem.C / weights->units;
  weights->columns = cuda::round_up(problem.group_outputs(), 8);
  const int64_t vectors = cuda::divide_up(weights->unit_channels, cuda::wide(problem.dtype));
  // Whole blocks and a rest, rather than blocks of one size: so a tap more is never a stage less.
  const int64_t blocks = cuda::divide_up(taps, kBlockTaps), block_taps = std::min<int64_t>(taps, kBlockTaps);
  const int shift = vectors % 4 == 0 ? 2 : vectors % 2 == 0 ? 1 : 0;
  const int64_t last_taps = taps - (blocks - 1) * block_taps;
  const int64_t units = weights->units / group;
  const int64_t block_stages = cuda::divide_up(block_taps * vectors, cuda::kStageVectors);
  const int64_t last_stages = cuda::divide_up(last_taps * vectors, cuda::kStageVectors);
  const int64_t stages = units * ((blocks - 1) * block_stages + last_stages);
  if (taps > cuda::kMostCount || stages > cuda::kMostCount / cuda::kStageVectors) return too_large("taps and channels");
  if (weights->columns > cuda::kMostCount / cuda::kStageVectors) return too_large("outputs");
  weights->vectors = group * stages * weights->columns * cuda::kStageVectors;
  if (cuda::divide_up(weights->vectors, kPackThreads) > cuda::kMostCount) return too_large("blocks of weights");
  weights->order = {.taps = static_cast<int>(taps),
                    .block_taps = static_cast<int>(block_taps),
                    .blocks = static_cast<int>(blocks),
                    .units = static_cast<int>(units),
                    .unit_vectors = static_cast<int>(vectors),
                    .chunk_shift = shift,
                    .block_stages = static_cast<int>(block_stages),
                    .last_block_stages = static_cast<int>(last_stages)};
  return DYNDEPLOY_OK;
}

// Extents in 32 bits, or a refusal.
inline dyndeploy_status check_sizes(const Problem& problem, const Weights& weights) {
  const Window& window = problem.window;
  DYNDEPLOY_TRY(cuda::check_window(kOp, window));
  if (problem.N == 0) return DYNDEPLOY_OK;
  if (problem.N * problem.pixels() > cuda::kMostCount) return too_large("pixels of Y");
  const int64_t vectors = weights.units * weights.order.unit_vectors;
  if (problem.N * window.H * window.W > cuda::kMostCount / std::max<int64_t>(vectors, 1))
    return too_large("vectors of X");
  return DYNDEPLOY_OK;
}

// X is a dense copy of it, or, NULL, X itself, which in_place() has let pass.
inline Sampling sampling_of(const Problem& problem, const Weights& weights, const dyndeploy_tensor* inputs,
                            const cuda::Sixteen* copy) {
  const dyndeploy_tensor &X = inputs[kX], &offset_mask = inputs[kOffsetMask];
  const int64_t vectors = weights.units * weights.order.unit_vectors, size = cuda::wide(problem.dtype);
  cuda::WindowMap map = cuda::window_map(problem.window, vectors);
  if (!copy) {
    map.n = cuda::stride_of(X, 0) / size;
    map.row_h = static_cast<int>(cuda::stride_of(X, 2) / size);
    map.row_w = static_cast<int>(cuda::stride_of(X, 3) / size);
  }
  return {.x = copy ? copy : static_cast<const cuda::Sixteen*>(X.data),
          .map = map,
          .offset_mask = offset_mask.data,
          .n = cuda::stride_of(offset_mask, 0),
          .c = cuda::stride_of(offset_mask, 1),
          .h = cuda::stride_of(offset_mask, 2),
          .w = cuda::stride_of(offset_mask, 3),
          .pixels = static_cast<int>(problem.pixels()),
          .width = static_cast<int>(problem.window.Wo),
          .rows = static_cast<int>(problem.N * problem.pixels()),
          .points = static_cast<int>(problem.offset_group * problem.window.taps()),
          .units_of_offset_group = static_cast<int>(std::max<int64_t>(weights.units / problem.offset_group, 1)),
          .sigmoid = problem.sigmoid,
          .mask_scale = problem.mask_scale};
}

// Number: float, for exact products, tf32 or T.
template <class T, class Number, class Tile>
using ProductOf =
    std::conditional_t<std::is_same_v<Number, float>, cuda::FloatProduct<Tile>, cuda::TensorCoreProduct<Tile, Number>>;

// What dyndeploy_dcnv2_cuda_use asked for: tile + 1 and parts, 0 for those that the rule chooses.
inline std::atomic<int> used_tile{0}, used_parts{0};

// Those of cuda_backward.cu.
std::vector<dyndeploy_cuda_kernel> backward_kernels();

}  // namespace dyndeploy::dcnv2

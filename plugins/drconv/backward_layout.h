// What the backward on GPUs counts and keeps: limits of 32 bits, passes, the workspace.
#pragma once

#include <algorithm>

#include "common/cuda/bias.cuh"
#include "drconv/backward_filters.cuh"
#include "drconv/backward_guide.cuh"
#include "drconv/backward_x.cuh"
#include "drconv/prepare.cuh"

namespace dyndeploy::drconv {

// Bytes of the sums of one pass, about: more only for a single sample that needs more.
inline constexpr int64_t kMostPass = int64_t{256} << 20;
// Of the sums of one sample, in floats: no product of a few such sizes overflows.
inline constexpr int64_t kMostFloats = int64_t{1} << 44;

// dyndeploy_drconv_cuda_use_backward; 0: the rule.
inline int32_t used_tile = 0, used_part = 0, used_samples = 0;

inline int64_t part_pixels() { return used_part ? used_part : kPartPixels; }

struct Wanted {
  bool x, filters, guide, b;
  explicit Wanted(const dyndeploy_tensor* gradients)
      : x(gradients[kX].data),
        filters(gradients[kFilters].data),
        guide(gradients[kGuide].data),
        b(gradients[kB].data) {}
  bool products() const { return x || filters || guide; }
};

// Of the smallest tiles.
inline constexpr int64_t kFewestColumns = 64;

inline int64_t output_vectors(const Problem& problem) { return vectors_of(problem, problem.O); }
// Of the filters' depth.
inline int64_t stages(const Problem& problem) { return problem.window.taps() * stages_of_tap(problem); }
inline int64_t stage_depth(const Problem& problem) { return cuda::kStageVectors * cuda::wide(problem.dtype); }
// Whether the window of a pixel of Y is the same pixel of X, and no other.
inline bool is_pointwise(const Problem& problem) {
  const Window& w = problem.window;
  return w.taps() == 1 && w.top == 0 && w.left == 0 && w.Ho == w.H && w.Wo == w.W;
}
// What `spread` and `weigh` have as columns, in floats of a row of sums.
inline int64_t spread_columns(const Problem& problem) { return stages(problem) * stage_depth(problem); }
inline int64_t weigh_columns(const Problem& problem) {
  return problem.window.taps() * channel_vectors(problem) * cuda::wide(problem.dtype);
}
inline int64_t most_parts(const Problem& problem) { return most_tiles(problem, part_pixels()); }

// Floats of the sums of one sample.
inline int64_t spread_floats(const Problem& problem) {
  return is_pointwise(problem) ? 0 : problem.pixels() * spread_columns(problem);
}
inline int64_t weigh_floats(const Problem& problem) {
  return part_slots(problem.pixels(), part_pixels()) * problem.O * weigh_columns(problem);
}
inline int64_t respond_floats(const Problem& problem) {
  return cuda::divide_up(problem.O, kFewestColumns) * problem.regions * problem.pixels();
}

// Whether a product of counts stays within a limit.
inline bool fits(int64_t limit, std::initializer_list<int64_t> factors) {
  for (const int64_t factor : factors) {
    if (factor == 0) return true;
    limit /= factor;
  }
  return limit > 0;
}

inline dyndeploy_status check_backward_sizes(const Problem& problem, const Wanted& wanted) {
  using cuda::divide_up;
  using cuda::kMostCount;
  DYNDEPLOY_TRY(check_sizes(problem));
  const int64_t N = std::max<int64_t>(problem.N, 1), pixels = problem.pixels();
  const int64_t of_x = problem.window.H * problem.window.W;
  const int64_t outputs = divide_up(problem.O, kFewestColumns), m = problem.regions;
  if (!fits(kMostCount, {pixels, output_vectors(problem)}) ||
      !fits(kMostCount,
            {N, divide_up(pixels, cuda::kCopyPixels), divide_up(output_vectors(problem), cuda::kCopyVectors)}))
    return cuda::too_large(kOp, "numbers of Y's gradient");
  if (!fits(kMostCount, {stages(problem), stage_depth(problem)}) ||
      !fits(kMostCount, {problem.window.taps(), channel_vectors(problem), cuda::wide(problem.dtype)}))
    return cuda::too_large(kOp, "channels and taps");
  const int64_t spread_tiles = divide_up(spread_columns(problem), kFewestColumns);
  if (wanted.x && (!fits(kMostFloats, {pixels, spread_columns(problem)}) ||
                   !fits(kMostCount, {N, most_tiles(problem, kFewestRows), spread_tiles}) ||
                   !fits(kMostCount, {N, divide_up(of_x, kFoldPixels), divide_up(problem.C, kFoldChannels)})))
    return cuda::too_large(kOp, "tiles of the gradient of X");
  if (wanted.filters &&
      (!fits(kMostFloats, {part_slots(pixels, part_pixels()), problem.O, weigh_columns(problem)}) ||
       !fits(kMostCount, {N, most_parts(problem), outputs, divide_up(weigh_columns(problem), kFewestColumns)}) ||
       !fits(kMostCount, {N, m, divide_up(problem.O, kJoinOutputs)})))
    return cuda::too_large(kOp, "tiles of the gradient of filters");
  if (wanted.guide && (!fits(kMostFloats, {N, outputs, m, pixels}) ||
                       !fits(kMostCount, {N, m, outputs, divide_up(pixels, kFewestRows)})))
    return cuda::too_large(kOp, "tiles of the gradient of guide");
  return DYNDEPLOY_OK;
}

// --- memory

// Samples whose sums, of so many floats each, are there at a time; and the floats of all of them. The latter never fall
// when an extent grows.
struct Pass {
  int64_t samples, floats;
  Pass(const Problem& problem, int64_t of_sample) {
    const int64_t most = kMostPass / 4, all = fits(most, {problem.N, of_sample}) ? problem.N * of_sample : most;
    floats = std::max(all, problem.N ? of_sample : 0);
    samples = of_sample ? std::min(problem.N, floats / of_sample) : problem.N;
    if (used_samples) samples = std::min<int64_t>(samples, used_samples);
  }
};

struct Buffers {
  cuda::Sixteen* x;
  cuda::Sixteen* y;  // its gradient
  cuda::Sixteen* filters;
  Sorting sorting;
  float* columns;
  float* sums;
  float* g;
  float* bias_sums;
};

inline Buffers lay_out(const Problem& problem, const Wanted& wanted, Workspace& workspace) {
  Buffers b{};
  if (wanted.filters || wanted.guide) b.x = take_x(problem, workspace);
  if (wanted.products()) b.y = workspace.take<cuda::Sixteen>(problem.N * problem.pixels() * output_vectors(problem));
  if (wanted.x || wanted.guide) b.filters = take_filters(problem, workspace);
  if (wanted.x || wanted.filters) b.sorting = take_sorting(problem, workspace);
  if (wanted.filters) {
    b.sorting.places = workspace.take<Pixel>(problem.N * problem.pixels());
    b.sorting.parts = workspace.take<Tile>(problem.N * most_parts(problem));
    b.sums = workspace.take<float>(Pass(problem, weigh_floats(problem)).floats);
  }
  if (wanted.x) b.columns = workspace.take<float>(Pass(problem, spread_floats(problem)).floats);
  if (wanted.guide) b.g = workspace.take<float>(problem.N * respond_floats(problem));
  if (wanted.b) b.bias_sums = workspace.take<float>(cuda::bias_sums(problem.N * problem.pixels(), problem.O));
  return b;
}

inline uint64_t workspace_of(const Problem& problem, const Wanted& wanted) {
  Workspace workspace;
  lay_out(problem, wanted, workspace);
  return workspace.bytes();
}

}  // namespace dyndeploy::drconv

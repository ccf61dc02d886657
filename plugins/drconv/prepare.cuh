// What every call on GPUs begins with, on the host: sizes, the sorting of pixels, maps and filters as products read them.
#pragma once

#include <algorithm>

#include "common/cuda/call.h"
#include "common/cuda/channels_last.cuh"
#include "drconv/convolve.cuh"
#include "drconv/problem.h"

namespace dyndeploy::drconv {

// Vectors of so many channels of a pixel, and the stages of products that they take.
inline int64_t vectors_of(const Problem& problem, int64_t channels) {
  return cuda::divide_up(channels, cuda::wide(problem.dtype));
}
inline int64_t channel_vectors(const Problem& problem) { return vectors_of(problem, problem.C); }
inline int64_t stages_of_tap(const Problem& problem) {
  return cuda::divide_up(channel_vectors(problem), cuda::kStageVectors);
}
inline int64_t columns(const Problem& problem) { return cuda::round_up(problem.O, kArrangeColumns); }
inline int64_t pieces(const Problem& problem) { return cuda::divide_up(problem.pixels(), kPiece); }
// The tile with the fewest rows needs the longest table.
inline constexpr int kFewestRows = 64;
inline int64_t most_tiles(const Problem& problem, int64_t rows) {
  return problem.pixels() / rows + std::min(problem.regions, problem.pixels());
}
inline int64_t arrange_blocks(const Problem& problem) {
  return problem.N * problem.regions * (columns(problem) / kArrangeColumns) * stages_of_tap(problem);
}

inline dyndeploy_status check_sizes(const Problem& problem) {
  using cuda::divide_up;
  using cuda::kMostCount;
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

// --- memory. It depends on no address and no stride: there is room for what a call with other strides would need, and so
// it never shrinks when an extent grows.

inline cuda::Sixteen* take_x(const Problem& problem, Workspace& workspace) {
  return workspace.take<cuda::Sixteen>(problem.N * problem.window.H * problem.window.W * channel_vectors(problem));
}
inline cuda::Sixteen* take_filters(const Problem& problem, Workspace& workspace) {
  return workspace.take<cuda::Sixteen>(problem.N * problem.regions * problem.window.taps() * stages_of_tap(problem) *
                                 columns(problem) * cuda::kStageVectors);
}
// Pixels sorted by region, with tiles of `rows`.
inline Sorting take_sorting(const Problem& problem, Workspace& workspace) {
  Sorting sorting{};
  sorting.chosen = workspace.take<int>(problem.N * problem.pixels());
  sorting.starts = workspace.take<int>(problem.N * problem.regions * pieces(problem));
  sorting.sorted = workspace.take<int>(problem.N * problem.pixels());
  sorting.tiles = workspace.take<Tile>(problem.N * most_tiles(problem, kFewestRows));
  return sorting;
}

// --- launches

// With the buffers of take_sorting; all else is filled in.
inline dyndeploy_status launch_sort(const Problem& problem, const dyndeploy_tensor& guide, int rows, Sorting& sorting,
                                    cudaStream_t stream) {
  using cuda::stride_of;
  sorting.guide = guide.data;
  sorting.n = stride_of(guide, 0);
  sorting.c = stride_of(guide, 1);
  sorting.h = stride_of(guide, 2);
  sorting.w = stride_of(guide, 3);
  sorting.regions = static_cast<int>(problem.regions);
  sorting.pixels = static_cast<int>(problem.pixels());
  sorting.width = static_cast<int>(problem.window.Wo);
  sorting.pieces = static_cast<int>(pieces(problem));
  sorting.most_tiles = static_cast<int>(most_tiles(problem, rows));
  sorting.tile_rows = rows;
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
    DYNDEPLOY_TRY(cuda::launch(how("drconv place_regions", problem.N), place_regions<>, sorting));
    return cuda::launch(how("drconv sort_pixels", blocks), sort_pixels<>, sorting);
  });
}

// A map as products read it: in place, or copied. `window`: what is read of it.
inline dyndeploy_status prepare_map(const dyndeploy_tensor& map, const Window& window, cuda::Sixteen* copy,
                                    cuda::WindowMap& windows, const cuda::Sixteen*& data, cudaStream_t stream) {
  using cuda::stride_of;
  const int64_t size = cuda::wide(map.dtype), channels = map.extents[1], vectors = cuda::divide_up(channels, size);
  windows = cuda::window_map(window, vectors);
  if (cuda::has_vectors(map) && channels % size == 0 &&
      window.H * std::abs(stride_of(map, 2)) + window.W * std::abs(stride_of(map, 3)) < cuda::kMostCount) {
    data = static_cast<const cuda::Sixteen*>(map.data);
    windows.n = stride_of(map, 0) / size;
    windows.row_h = static_cast<int>(stride_of(map, 2) / size);
    windows.row_w = static_cast<int>(stride_of(map, 3) / size);
    return DYNDEPLOY_OK;
  }
  data = copy;
  return cuda::launch_channels_last("drconv copy_channels_last", map, channels, vectors, vectors, copy, stream);
}

// The filters as products read them: in place, or arranged.
inline dyndeploy_status prepare_filters(const Problem& problem, const dyndeploy_tensor& filters, cuda::Sixteen* arranged,
                                        Filters& result, cudaStream_t stream) {
  using cuda::stride_of;
  const int64_t size = cuda::wide(problem.dtype), stages = stages_of_tap(problem), taps = problem.window.taps();
  const int64_t n = stride_of(filters, 0), o = stride_of(filters, 1), d = stride_of(filters, 2);
  const bool one_run = problem.N == 1 || n == problem.regions * problem.O * o;
  if (taps == 1 && (d == 1 || problem.C == 1) && problem.C % size == 0 && o % size == 0 && o >= 0 &&
      o < cuda::kMostCount && one_run && reinterpret_cast<uintptr_t>(filters.data) % sizeof(cuda::Sixteen) == 0) {
    result = {.data = static_cast<const cuda::Sixteen*>(filters.data),
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

}  // namespace dyndeploy::drconv

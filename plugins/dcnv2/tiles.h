// Which tile a convolution is cut into, and into how many parts its depth is: by an estimate of the time in clocks.
//
// The estimate knows an H200 and nothing of the GPU at hand, so that one problem has the same bits on all of them. What it
// has to get right is the order of candidates: to keep all multiprocessors busy, then to sample and to read weights
// seldom. Its constants come from data sheets and from counting instructions; no GPU has confirmed them yet.
#pragma once

#include <algorithm>
#include <cstdint>

namespace dyndeploy::dcnv2 {

struct TileShape {
  int rows, columns;
  int warp_rows, warp_columns;  // warps that share the rows, the columns
  int blocks;                   // on a multiprocessor at a time, at most
  bool for_floats;              // exists for float32 as well
};

inline constexpr TileShape kTiles[] = {
    {.rows = 64, .columns = 64, .warp_rows = 2, .warp_columns = 2, .blocks = 4, .for_floats = true},
    {.rows = 64, .columns = 128, .warp_rows = 2, .warp_columns = 2, .blocks = 3, .for_floats = false},
    {.rows = 128, .columns = 128, .warp_rows = 4, .warp_columns = 2, .blocks = 1, .for_floats = true},
    {.rows = 64, .columns = 256, .warp_rows = 2, .warp_columns = 4, .blocks = 2, .for_floats = false},
    {.rows = 128, .columns = 256, .warp_rows = 2, .warp_columns = 4, .blocks = 1, .for_floats = false}};
inline constexpr int kTileCount = sizeof(kTiles) / sizeof(kTiles[0]);

// Of the depth: parts, and bytes of all their sums. The workspace has room for either, whichever is less.
inline constexpr int kMostParts = 16;
inline constexpr int64_t kMostPartBytes = int64_t{16} << 20;

enum class Arithmetic { halves, tf32, floats };

// A product: `stages` of 64 bytes of depth per group.
struct Extent {
  Arithmetic arithmetic;
  int64_t rows, groups, outputs, stages;
  int64_t part_bytes;  // of the sums of one part
};

struct Cut {
  int tile;  // of kTiles
  int parts;
};

namespace detail {

constexpr double kMultiprocessors = 132;
constexpr double kFirstCache = 128;     // bytes a clock and multiprocessor, of shared memory too
constexpr double kSecondCache = 24;     // bytes a clock and multiprocessor
constexpr double kStageLatency = 700;   // clocks of a stage of a block that has the multiprocessor for itself
constexpr double kBlockLatency = 4000;  // of a block besides its stages: locating, filling the pipeline, storing
constexpr double kLaunch = 4000;        // of one more kernel

// Multiply-adds of a stage, per row and column; and of a clock: mma.sync gets six tenths of the tensor cores' peak.
constexpr double depth_of(Arithmetic a) { return a == Arithmetic::halves ? 32 : 16; }
constexpr double rate_of(Arithmetic a) { return a == Arithmetic::halves ? 1228 : a == Arithmetic::tf32 ? 614 : 128; }
// Instructions of a row's samples in a stage, by those of all lanes that a multiprocessor starts in a clock.
constexpr double sampling_of(Arithmetic a) { return (a == Arithmetic::halves ? 4 * 137.0 : 4 * 80.0) / 128; }

// Clocks of a stage of a block, while others keep the multiprocessor busy.
inline double stage_clocks(Arithmetic arithmetic, const TileShape& tile) {
  const double multiplying = depth_of(arithmetic) / rate_of(arithmetic) * tile.rows * tile.columns;
  const double sampling = sampling_of(arithmetic) * tile.rows;
  const double weights = 64.0 * tile.columns / kSecondCache;
  // Neighbours: 256 bytes of a row, every second access in two steps, because two pixels meet in the same banks. Then its
  // points, and operands: written once, read by all warps that share them.
  const double bytes = (1.5 * 256 + 32) * tile.rows + 64.0 * tile.rows * (1 + tile.warp_columns) +
                       64.0 * tile.columns * (1 + tile.warp_rows);
  const double moving = bytes / kFirstCache;
  const double slowest = std::max({multiplying, sampling, weights, moving});
  // Which hides most of the others.
  return slowest + 0.25 * (multiplying + sampling + weights + moving - slowest);
}

}  // namespace detail

inline double estimate(const Extent& extent, const Cut& cut) {
  const TileShape& tile = kTiles[cut.tile];
  const auto pieces = [](int64_t n, int64_t size) { return static_cast<double>((n + size - 1) / size); };
  const double blocks = pieces(extent.rows, tile.rows) * pieces(extent.outputs, tile.columns) *
                        static_cast<double>(extent.groups) * cut.parts;
  const double stages = pieces(extent.stages, cut.parts);
  const double stage = detail::stage_clocks(extent.arithmetic, tile);
  const double of_one = pieces(static_cast<int64_t>(blocks), static_cast<int64_t>(detail::kMultiprocessors));
  const double rounds = pieces(static_cast<int64_t>(of_one), tile.blocks);
  const double clocks =
      std::max(of_one * stage, rounds * detail::kStageLatency) * stages + rounds * detail::kBlockLatency;
  if (cut.parts == 1) return clocks;
  // Written, and read by one more kernel.
  const double bytes = 2.0 * static_cast<double>(extent.part_bytes) * cut.parts;
  return clocks + detail::kLaunch + bytes / (detail::kMultiprocessors * detail::kSecondCache);
}

// Parts that there can be.
inline int most_parts(const Extent& extent) {
  const int64_t by_bytes = kMostPartBytes / std::max<int64_t>(extent.part_bytes, 1);
  return static_cast<int>(std::clamp<int64_t>(std::min(by_bytes, extent.stages), 1, kMostParts));
}

// Bytes of workspace for the sums of parts: enough for any cut of these extents and of smaller ones.
inline int64_t part_bytes(int64_t bytes_of_one) { return std::min(kMostPartBytes, kMostParts * bytes_of_one); }

// The best cut; with a `tile` or a number of `parts` given (not -1, not 0), the best of those that have them.
inline Cut choose_cut(const Extent& extent, int tile = -1, int parts = 0) {
  Cut best{.tile = 0, .parts = 1};
  double best_time = -1;
  const bool halves = extent.arithmetic == Arithmetic::halves;
  if (tile >= 0 && !halves && !kTiles[tile].for_floats) tile = -1;
  const int most = most_parts(extent);
  if (parts > 0) parts = std::min(parts, most);
  for (int t = 0; t < kTileCount; ++t) {
    if ((tile >= 0 && t != tile) || (!halves && !kTiles[t].for_floats)) continue;
    for (int p = 1; p <= most; ++p) {
      if (parts > 0 && p != parts) continue;
      const Cut cut{.tile = t, .parts = p};
      const double time = estimate(extent, cut);
      if (best_time < 0 || time < best_time) {
        best = cut;
        best_time = time;
      }
    }
  }
  return best;
}

}  // namespace dyndeploy::dcnv2

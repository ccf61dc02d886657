// Zero-padded planes: a tile of a few channels, copied so that every tap is one distance for all of its pixels.
//
//   plane  [planes_h][planes_w][plane_rows][pitch] of one channel of a map, as a window meets it from a tile of
//          outputs. Rows and columns of taps share one plane where the stride is 1, and have one each otherwise.
//   flat   [rows][pitch]: filters, sums, or whatever else there is per output. Vectors run on over the ends of rows,
//          so that small maps fill them as well; what they find there meets nothing that is stored.
//
// The copies are where layouts, storage types, strides and borders end: behind them is one loop over vectors.
#pragma once

#include <algorithm>

#include "common/cpu/gemm.h"
#include "ddf/filters.h"

namespace dyndeploy::DYNDEPLOY_ISA {
namespace {

// Channels of a group of planes.
constexpr int kGroup = 4;
// Columns of a tile, and numbers of its filters, at most: those stay in the first cache.
constexpr int64_t kMostColumns = 512;
constexpr int64_t kMostFilters = 8192;

constexpr int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Outputs o in 0..count-1 along an axis that meet the map with a tap at `shift`: 0 <= o * stride + shift < size.
struct Range {
  int64_t begin, end;
};
inline Range meeting(int64_t stride, int64_t shift, int64_t size, int64_t count) {
  const int64_t begin = shift >= 0 ? 0 : divide_up(-shift, stride);
  const int64_t end = shift >= size ? 0 : divide_up(size - shift, stride);
  return {std::min(begin, count), std::max(std::min(begin, count), std::min(end, count))};
}

// A tile of outputs.
struct Area {
  int64_t row, rows, column, columns;
};

// Tiles of a map of outputs: how large at most, and how many.
struct Tiles {
  int64_t rows, columns, down, across;
  int64_t count() const { return down * across; }
  Area area(int64_t tile, const Window& window) const {
    const int64_t row = tile / across * rows, column = tile % across * columns;
    return {row, std::min(rows, window.Ho - row), column, std::min(columns, window.Wo - column)};
  }
};
inline Tiles tiles_of(const Window& window, int64_t rows, int64_t columns) {
  Tiles tiles;
  tiles.columns = divide_up(window.Wo, divide_up(window.Wo, columns));
  tiles.across = divide_up(window.Wo, tiles.columns);
  tiles.rows = divide_up(window.Ho, divide_up(window.Ho, rows));
  tiles.down = divide_up(window.Ho, tiles.rows);
  return tiles;
}
// Tiles with `filters` numbers per output, kMostFilters together or, at least, one row.
inline Tiles tiles_of(const Window& window, int64_t filters) {
  const int64_t columns = divide_up(window.Wo, divide_up(window.Wo, kMostColumns));
  return tiles_of(window, std::clamp<int64_t>(kMostFilters / (filters * columns), 1, window.Ho), columns);
}

struct Planes {
  int64_t planes_h, planes_w, plane_rows, pitch;
  int64_t rows;  // of a tile, at most
  int64_t lead;  // floats before a plane, so that what is copied from the first column of a map is aligned
  int64_t size;  // floats of a plane, padded
  int64_t flat;  // floats of [rows][pitch], padded
  bool by_rows;  // vectors end where a row ends
};

// With `by_rows` vectors may end where a row ends; they do if that is not much more to compute.
inline Planes planes_of(const Window& window, const Tiles& tiles, bool by_rows) {
  const bool share_h = window.stride_h == 1 && window.dilation_h * (window.kh - 1) <= (window.kh - 1) * tiles.rows;
  const bool share_w = window.stride_w == 1 && 4 * window.dilation_w <= tiles.columns;
  Planes planes{};
  planes.rows = tiles.rows;
  planes.planes_h = share_h ? 1 : window.kh;
  planes.planes_w = share_w ? 1 : window.kw;
  planes.plane_rows = tiles.rows + (share_h ? window.dilation_h * (window.kh - 1) : 0);
  planes.pitch = tiles.columns + (share_w ? window.dilation_w * (window.kw - 1) : 0);
  planes.by_rows = by_rows && 20 * round_up(tiles.columns, kWidth) <= 23 * planes.pitch;
  if (planes.by_rows) {
    planes.pitch = round_up(planes.pitch, kWidth);
    planes.lead = (kWidth - window.left % kWidth) % kWidth;
  }
  // The last vector reaches past the last output.
  planes.size =
      round_up(planes.lead + planes.planes_h * planes.planes_w * planes.plane_rows * planes.pitch + kWidth, kWidth);
  planes.flat = round_up((tiles.rows - 1) * planes.pitch + tiles.columns, kWidth);
  return planes;
}

// Outputs of an area, with the ends of the rows between them.
inline int64_t outputs(const Planes& planes, const Area& area) { return (area.rows - 1) * planes.pitch + area.columns; }

// The distance of every tap of a plane.
inline void write_offsets(const Planes& planes, const Window& window, int64_t* offsets) {
  for (int64_t i = 0; i < window.kh; ++i)
    for (int64_t j = 0; j < window.kw; ++j) {
      const int64_t rows = planes.planes_h > 1 ? i * planes.planes_w * planes.plane_rows : i * window.dilation_h;
      const int64_t in_row = planes.planes_w > 1 ? j * planes.plane_rows * planes.pitch : j * window.dilation_w;
      *offsets++ = planes.lead + rows * planes.pitch + in_row;
    }
}

// to[g * ld + i] = from[g * map_c + i * step] for some channels of `count` pixels.
template <class T>
void read_pixels(const T* from, int64_t map_c, int64_t step, int64_t group, int64_t count, float* to, int64_t ld) {
  if (step == 1) {
    for (int64_t g = 0; g < group; ++g) read_floats(from + g * map_c, count, to + g * ld);
    return;
  }
  if constexpr (sizeof(T) == sizeof(float)) {
    if (map_c == 1) return transpose(count, group, from, step, to, ld);
  }
  for (int64_t g = 0; g < group; ++g)
    for (int64_t i = 0; i < count; ++i) to[g * ld + i] = to_float(from[g * map_c + i * step]);
}

// The inverse.
template <class T>
void write_pixels(const float* from, int64_t ld, int64_t group, int64_t count, T* to, int64_t map_c, int64_t step) {
  if (step == 1) {
    for (int64_t g = 0; g < group; ++g)
      cover<kWidth>(0, count, [&](auto lanes, int64_t i) {
        store_from_float<lanes>(to + g * map_c + i, load<lanes>(from + g * ld + i));
      });
    return;
  }
  if constexpr (sizeof(T) == sizeof(float)) {
    if (map_c == 1) return transpose(group, count, from, ld, to, step);
  }
  for (int64_t g = 0; g < group; ++g)
    for (int64_t i = 0; i < count; ++i) to[g * map_c + i * step] = from_float<T>(from[g * ld + i]);
}

// Channels first … first + group - 1 of a map into their planes, but for the padding, which is 0 already.
//
// With a spread, the window's map is this one with its pixels that far apart, and zeros between them.
template <class T>
void read_planes(const Map<const T>& map, int64_t n, int64_t first, int64_t group, const Window& window,
                 const Planes& planes, const Area& area, float* to, int64_t spread_h = 1, int64_t spread_w = 1) {
  for (int64_t i = 0; i < planes.planes_h; ++i)
    for (int64_t j = 0; j < planes.planes_w; ++j) {
      const int64_t shift = area.column * window.stride_w + j * window.dilation_w - window.left;
      const int64_t pitch = planes.planes_w > 1 ? area.columns : area.columns + window.dilation_w * (window.kw - 1);
      const Range inside = meeting(window.stride_w, shift, window.W, pitch);
      if (inside.begin == inside.end) continue;
      for (int64_t row = 0; row < planes.plane_rows - planes.rows + area.rows; ++row) {
        const int64_t h = (area.row + row) * window.stride_h + i * window.dilation_h - window.top;
        if (h < 0 || h >= window.H || h % spread_h) continue;
        float* in_row = to + planes.lead + ((i * planes.planes_w + j) * planes.plane_rows + row) * planes.pitch;
        if (spread_w == 1) {
          read_pixels(map.at(n, first, h / spread_h, inside.begin * window.stride_w + shift), map.c,
                      map.w * window.stride_w, group, inside.end - inside.begin, in_row + inside.begin, planes.size);
          continue;
        }
        for (int64_t o = inside.begin; o < inside.end; ++o)
          if (const int64_t w = o * window.stride_w + shift; w % spread_w == 0)
            for (int64_t g = 0; g < group; ++g)
              in_row[g * planes.size + o] = to_float(*map.at(n, first + g, h / spread_h, w / spread_w));
      }
    }
}

// One tap of the filter: the product or the sum of the two.
template <bool Add, class V>
DYNDEPLOY_INLINE V combined(V a, float b) {
  if constexpr (Add)
    return a + b;
  else
    return a * b;
}

struct Operands {
  int64_t taps;
  const float* planes;     // [group][size]
  const int64_t* offsets;  // [taps]
  const float* channel;    // [taps][ld]
  int64_t ld;
  const float* spatial;  // [taps][flat]
  bool relu;
};

// Filters of `Group` channels on Vectors * kWidth outputs, those from at[v] on: put(g, v, sum).
template <int Group, int Vectors, bool Add, class Put>
DYNDEPLOY_INLINE void filter_pixels(const Planes& planes, const Operands& operands, const int64_t* at, Put put) {
  Vector sum[Group][Vectors] = {};
  const float *channel = operands.channel, *spatial = operands.spatial;
  for (int64_t t = 0; t < operands.taps; ++t, spatial += planes.flat, channel += operands.ld) {
    const float* x = operands.planes + operands.offsets[t];
    Vector s[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) s[v] = load(spatial + at[v]);
#pragma GCC unroll 4
    for (int g = 0; g < Group; ++g)
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v)
        sum[g][v] += combined<Add>(s[v], channel[g]) * load(x + g * planes.size + at[v]);
  }
  if (operands.relu)
#pragma GCC unroll 4
    for (int g = 0; g < Group; ++g)
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) sum[g][v] = relu(sum[g][v]);
#pragma GCC unroll 4
  for (int g = 0; g < Group; ++g)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) put(g, v, sum[g][v]);
}

// Outputs [begin, end) of [rows][pitch]: the last vector reaches past `end` if `over`, or overlaps the one before it.
template <int Group, bool Add, class Put>
DYNDEPLOY_INLINE void filter_run(const Planes& planes, const Operands& operands, int64_t begin, int64_t end, bool over,
                                 Put put) {
  int64_t i = begin;
  for (; i + kWidth < end; i += 2 * kWidth) {
    const int64_t at[2] = {i, over ? i + kWidth : std::min(i + kWidth, end - kWidth)};
    filter_pixels<Group, 2, Add>(planes, operands, at, [&](int g, int v, Vector sum) { put(g, at[v], sum); });
  }
  if (i < end) {
    const int64_t at[1] = {over ? i : end - kWidth};
    filter_pixels<Group, 1, Add>(planes, operands, at, [&](int g, int, Vector sum) { put(g, at[0], sum); });
  }
}

}  // namespace
}  // namespace dyndeploy::DYNDEPLOY_ISA

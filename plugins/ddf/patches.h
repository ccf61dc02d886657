// Patches: what a tile of outputs meets of a map, copied for a block of channels, channels last, between zeros.
//
//   patch  [height][width][pixel]: the pixels of the map as they lie, or, where stride or dilation would leave most of
//          them unused, the pixels of every row (column) of taps apart from those of the others.
//   block  As many channels as a pixel has floats: Vectors vectors of Lanes.
//
// The copies are where layouts, storage types and borders end: behind them every tap is one distance for all outputs.
// One copy of an element serves all taps and all sub-pixels.
#pragma once

#include "ddf/planes.h"

namespace dyndeploy::DYNDEPLOY_ISA {
namespace {

// Outputs of a tile, at most, and the distance of a tap's spatial filters: nine of these do not share their sets of the
// first cache.
constexpr int64_t kMostPixels = 512;
constexpr int64_t kSpatialLd = kMostPixels + 16;

// Along one axis.
struct PatchAxis {
  int64_t parts, part;  // 1 if all taps look at the same pixels, or one for each tap; pixels of each
  int64_t tap, step;    // distance in the patch of two taps, of two outputs
  int64_t map_step;     // distance in the map of two pixels of a part

  PatchAxis() = default;
  PatchAxis(int64_t kernel, int64_t stride, int64_t dilation, int64_t outputs) {
    const int64_t shared = (outputs - 1) * stride + (kernel - 1) * dilation + 1;
    if (shared <= kernel * outputs)
      *this = {1, shared, dilation, stride, 1};
    else
      *this = {kernel, outputs, outputs, 1, stride};
  }
  int64_t size() const { return parts * part; }
  // Pixels of a part that fewer outputs meet.
  int64_t used(int64_t outputs, int64_t all) const { return part - (all - outputs) * step; }

 private:
  PatchAxis(int64_t parts, int64_t part, int64_t tap, int64_t step, int64_t map_step)
      : parts(parts), part(part), tap(tap), step(step), map_step(map_step) {}
};

struct Patches {
  int64_t rows, columns;  // of a tile of outputs, at most
  PatchAxis h, w;
  int64_t width;  // of a patch
  bool full;      // a tile has all columns of the map, and a row of a patch has room for them
  int64_t pixels() const { return h.size() * width; }
};
inline Patches patches_of(const Window& window, const Tiles& tiles) {
  Patches patches{.rows = tiles.rows,
                  .columns = tiles.columns,
                  .h = {window.kh, window.stride_h, window.dilation_h, tiles.rows},
                  .w = {window.kw, window.stride_w, window.dilation_w, tiles.columns},
                  .width = 0,
                  .full = false};
  patches.width = patches.w.size();
  // Not with more padding than map: a patch has to stay a small one.
  const bool shared = patches.h.parts * patches.h.map_step == 1 && patches.w.parts * patches.w.map_step == 1;
  if (tiles.across == 1 && shared && window.left + window.W <= 2 * patches.width) {
    patches.full = true;
    patches.width = std::max(patches.width, window.left + window.W);
  }
  return patches;
}

// --- squares of pixels and channels

// The blocks of S x S of two rows change places across the diagonal.
template <int S, int... E>
DYNDEPLOY_INLINE void exchange(Vector& a, Vector& b, std::integer_sequence<int, E...>) {
  const Vector low = __builtin_shufflevector(a, b, ((E & S) ? kWidth + E - S : E)...);
  const Vector high = __builtin_shufflevector(a, b, ((E & S) ? kWidth + E : E + S)...);
  a = low;
  b = high;
}

template <int S = kWidth / 2>
DYNDEPLOY_INLINE void transpose_square(Vector* v) {
#pragma GCC unroll 16
  for (int i = 0; i < kWidth; ++i)
    if (!(i & S)) exchange<S>(v[i], v[i + S], std::make_integer_sequence<int, kWidth>{});
  if constexpr (S > 1) transpose_square<S / 2>(v);
}

// --- copies

// `count` pixels of a map, `step` apart, to pixels of a patch; after `wrap` of them, `skip` pixels are left out.
template <int Lanes, int Vectors, class T>
void pack_run(const T* from, int64_t step, int64_t map_c, int64_t count, int64_t wrap, int64_t skip, float* to) {
  constexpr int kPixel = Lanes * Vectors;
  if (map_c == 1) {
    for (int64_t begin = 0; begin < count; begin += wrap, to += (wrap + skip) * kPixel) {
      const T* pixel = from + begin * step;
      for (int64_t i = 0; i < std::min(wrap, count - begin); ++i, pixel += step)
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v)
          store<Lanes>(to + i * kPixel + v * Lanes, load_as_float<Lanes>(pixel + v * Lanes));
    }
    return;
  }
  if constexpr (Lanes == kWidth) {
    if (step == 1 && count >= kWidth) {
      for (int64_t i = 0;; i = std::min(i + kWidth, count - kWidth)) {
        const int64_t row = i / wrap, first = i - row * wrap;
        for (int v = 0; v < Vectors; ++v) {
          Vector square[kWidth];
#pragma GCC unroll 16
          for (int c = 0; c < kWidth; ++c) square[c] = load_as_float<kWidth>(from + (v * kWidth + c) * map_c + i);
          transpose_square(square);
          float* pixel = to + (i + row * skip) * kPixel + v * kWidth;
          if (first + kWidth <= wrap) {
#pragma GCC unroll 16
            for (int p = 0; p < kWidth; ++p) store(pixel + p * kPixel, square[p]);
          } else {
            int64_t column = first;
#pragma GCC unroll 16
            for (int p = 0; p < kWidth; ++p) {
              store(pixel, square[p]);
              pixel += kPixel;
              if (++column == wrap) {
                column = 0;
                pixel += skip * kPixel;
              }
            }
          }
        }
        if (i + kWidth >= count) return;
      }
    }
  }
  for (int64_t begin = 0; begin < count; begin += wrap, to += (wrap + skip) * kPixel) {
    const T* run = from + begin * step;
    const int64_t pixels = std::min(wrap, count - begin);
    if constexpr (sizeof(T) == sizeof(float)) {
      if (step == 1) {
        transpose(kPixel, pixels, run, map_c, to, kPixel);
        continue;
      }
    }
    for (int64_t i = 0; i < pixels; ++i)
      for (int64_t c = 0; c < kPixel; ++c) to[i * kPixel + c] = to_float(run[i * step + c * map_c]);
  }
}

// The inverse, without gaps.
template <int Lanes, int Vectors, class T>
void unpack_run(const float* from, int64_t count, T* to, int64_t step, int64_t map_c) {
  constexpr int kPixel = Lanes * Vectors;
  if (map_c == 1) {
    for (int64_t i = 0; i < count; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v)
        store_from_float<Lanes>(to + i * step + v * Lanes, load<Lanes>(from + i * kPixel + v * Lanes));
    return;
  }
  if constexpr (Lanes == kWidth) {
    if (step == 1 && count >= kWidth) {
      for (int v = 0; v < Vectors; ++v)
        cover<kWidth>(0, count, [&](auto, int64_t i) {
          Vector square[kWidth];
#pragma GCC unroll 16
          for (int p = 0; p < kWidth; ++p) square[p] = load(from + (i + p) * kPixel + v * kWidth);
          transpose_square(square);
#pragma GCC unroll 16
          for (int c = 0; c < kWidth; ++c) store_from_float<kWidth>(to + (v * kWidth + c) * map_c + i, square[c]);
        });
      return;
    }
  }
  if constexpr (sizeof(T) == sizeof(float)) {
    if (step == 1) return transpose(count, kPixel, from, kPixel, to, map_c);
  }
  for (int64_t c = 0; c < kPixel; ++c)
    for (int64_t i = 0; i < count; ++i) to[i * step + c * map_c] = from_float<T>(from[i * kPixel + c]);
}

// call(patch pixel, h, w of the map, pixels, pixels of the row before the map, and behind it) for the rows of a patch,
// or their parts; of those outside of the map, h is -1.
template <class Call>
DYNDEPLOY_INLINE void for_each_row(const Window& window, const Patches& patches, const Area& area, Call call) {
  const PatchAxis &h = patches.h, &w = patches.w;
  const int64_t rows = h.used(area.rows, patches.rows), columns = w.used(area.columns, patches.columns);
  for (int64_t i = 0; i < h.parts; ++i)
    for (int64_t v = 0; v < rows; ++v) {
      const int64_t in_map = area.row * window.stride_h - window.top + i * window.dilation_h + v * h.map_step;
      for (int64_t j = 0; j < w.parts; ++j) {
        const int64_t first = area.column * window.stride_w - window.left + j * window.dilation_w;
        const int64_t pixel = (i * h.part + v) * patches.width + j * w.part;
        if (in_map < 0 || in_map >= window.H) {
          call(pixel, int64_t{-1}, int64_t{0}, int64_t{0}, columns, int64_t{0});
        } else {
          const Range inside = meeting(w.map_step, first, window.W, columns);
          call(pixel, in_map, first + inside.begin * w.map_step, inside.end - inside.begin, inside.begin,
               columns - inside.end);
        }
      }
    }
}

// Zeros where a patch has no pixels of the map.
inline void clear_border(const Window& window, const Patches& patches, const Area& area, int64_t pixel, float* patch) {
  for_each_row(window, patches, area, [&](int64_t at, int64_t, int64_t, int64_t count, int64_t before, int64_t behind) {
    std::fill_n(patch + at * pixel, before * pixel, 0.0f);
    std::fill_n(patch + (at + before + count) * pixel, behind * pixel, 0.0f);
  });
}

// The channels from `c` on of a map.
template <int Lanes, int Vectors, class T>
void pack_patch(const Map<const T>& map, int64_t n, int64_t c, const Window& window, const Patches& patches,
                const Area& area, float* patch) {
  constexpr int kPixel = Lanes * Vectors;
  // Many short rows at once, if they follow each other.
  if (patches.full && map.c != 1 && map.w == 1 && map.h == window.W) {
    const int64_t top = area.row * window.stride_h - window.top;
    const int64_t begin = std::clamp<int64_t>(top, 0, window.H);
    const int64_t end = std::clamp<int64_t>(top + patches.h.used(area.rows, patches.rows), begin, window.H);
    if (begin < end)
      pack_run<Lanes, Vectors>(map.at(n, c, begin, 0), 1, map.c, (end - begin) * window.W, window.W,
                               patches.width - window.W,
                               patch + ((begin - top) * patches.width + window.left) * kPixel);
    return;
  }
  for_each_row(window, patches, area, [&](int64_t at, int64_t h, int64_t w, int64_t count, int64_t before, int64_t) {
    if (h >= 0 && count)
      pack_run<Lanes, Vectors>(map.at(n, c, h, w), map.w * patches.w.map_step, map.c, count, count, 0,
                               patch + (at + before) * kPixel);
  });
}

// --- filters

struct Outputs {
  int64_t rows, columns;
  int64_t row, pixel;     // distances in floats
  int64_t spatial_pitch;  // of the spatial filters of a row
  bool relu;
};

// Where the taps of the first output lie, in a patch or in a map; distances in floats.
struct Taps {
  const float* first;
  int64_t row, column;  // of two taps
  int64_t down, right;  // of two outputs
};
inline Taps taps_of(const Patches& patches, const float* patch, int64_t pixel) {
  const int64_t row = patches.width * pixel;
  return {patch, patches.h.tap * row, patches.w.tap * pixel, patches.h.step * row, patches.w.step * pixel};
}

// One sub-pixel of all outputs, of a block of channels.
template <int Lanes, int Vectors, bool Add>
void filter_block(const Window& window, const Taps& taps, const float* channel, int64_t ld, const float* spatial,
                  const Outputs& outputs, float* to) {
  for (int64_t row = 0; row < outputs.rows; ++row, to += outputs.row, spatial += outputs.spatial_pitch)
    for (int64_t p = 0; p < outputs.columns; ++p) {
      Floats<Lanes> sum[Vectors] = {};
      int64_t t = 0;
      for (int64_t i = 0; i < window.kh; ++i)
        for (int64_t j = 0; j < window.kw; ++j, ++t) {
          const float s = spatial[t * kSpatialLd + p];
          const float* x = taps.first + row * taps.down + p * taps.right + i * taps.row + j * taps.column;
#pragma GCC unroll 2
          for (int v = 0; v < Vectors; ++v)
            sum[v] += combined<Add>(load<Lanes>(channel + t * ld + v * Lanes), s) * load<Lanes>(x + v * Lanes);
        }
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v)
        store<Lanes>(to + p * outputs.pixel + v * Lanes, outputs.relu ? relu<Lanes>(sum[v]) : sum[v]);
    }
}

// The same for 3x3 taps. Column is the distance of two taps of a row, or 0 if it is known later only. Not inlined: the
// registers of a larger function are taken from the taps.
template <int64_t Column, int Lanes, int Vectors, bool Add>
[[gnu::noinline]] void filter_block_3x3(const Taps& taps, const float* channel, int64_t ld, const float* spatial,
                                        const Outputs& outputs, float* to) {
  Floats<Lanes> held[9][Vectors];
#pragma GCC unroll 9
  for (int t = 0; t < 9; ++t)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) held[t][v] = load<Lanes>(channel + t * ld + v * Lanes);

  int64_t column[3] = {0, Column ? Column : taps.column, Column ? 2 * Column : 2 * taps.column};
  for (int64_t row = 0; row < outputs.rows; ++row) {
    const float* x[3] = {taps.first + row * taps.down, x[0] + taps.row, x[1] + taps.row};
    const float* s = spatial + row * outputs.spatial_pitch;
    float* y = to + row * outputs.row;
    for (int64_t p = 0; p < outputs.columns; ++p, ++s, y += outputs.pixel) {
      // Two distances in registers, not the address of every tap: those would be written to memory and read again.
      if constexpr (!Column) asm("" : "+r"(column[1]), "+r"(column[2]));
      Floats<Lanes> sum[Vectors] = {};
#pragma GCC unroll 9
      for (int t = 0; t < 9; ++t) {
        const float factor = s[t * kSpatialLd];
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v)
          sum[v] += combined<Add>(held[t][v], factor) * load<Lanes>(x[t / 3] + column[t % 3] + v * Lanes);
      }
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) store<Lanes>(y + v * Lanes, outputs.relu ? relu<Lanes>(sum[v]) : sum[v]);
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) x[i] += taps.right;
    }
  }
}

}  // namespace
}  // namespace dyndeploy::DYNDEPLOY_ISA

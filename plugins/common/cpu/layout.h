// Maps in any layout and storage type, read as rows of channels in float and written from tiles of them.
#pragma once

#include "common/api.h"
#include "common/cpu/simd.h"

namespace dyndeploy::DYNDEPLOY_ISA {

// call(T{}) with the storage type of a dtype that check_tensor let pass.
template <class Call>
DYNDEPLOY_INLINE void with_type(int32_t dtype, Call call) {
  if (dtype == DYNDEPLOY_FLOAT32)
    call(float{});
  else if (dtype == DYNDEPLOY_FLOAT16)
    call(float16{});
  else
    call(bfloat16{});
}

// Where the elements of a map [N, C, H, W] lie.
template <class T>
struct Map {
  T* data;
  int64_t n, c, h, w;  // strides in elements

  explicit Map(const dyndeploy_tensor& t)
      : data(static_cast<T*>(t.data)), n(t.strides[0]), c(t.strides[1]), h(t.strides[2]), w(t.strides[3]) {
    // What is not looked at may be anything. As if dense: that no product overflows, and loops are vectorised.
    if (t.extents[0] <= 1) n = 0;
    if (t.extents[1] <= 1) c = 1;
    if (t.extents[3] <= 1) w = 1;
    if (t.extents[2] <= 1) h = w * t.extents[3];
  }
  T* at(int64_t in, int64_t ic, int64_t ih, int64_t iw) const { return data + in * n + ic * c + ih * h + iw * w; }

  // Pixels from pixel `first` (row-major) to `end`, at most, that lie at one distance of each other: to the end of the
  // row, or all of them where each row begins where the one before it ends.
  int64_t run(int64_t width, int64_t first, int64_t end) const {
    const bool dense = h == width * w && (w == 1 || c == 1);
    const int64_t row = width - first % width;
    return dense || end - first < row ? end - first : row;
  }
};

// One sample of a map as [pixels][ld] rows of channels in float, in place or as a copy.
struct Rows {
  const float* data;
  int64_t row_h, row_w;  // distance in floats of pixels one below, one to the right
  const float* at(int64_t h, int64_t w) const { return data + h * row_h + w * row_w; }
};

namespace detail {

// Bit Half of the row number and of the column number of a square change places.
template <int Half, int... I>
DYNDEPLOY_INLINE void exchange(Floats<sizeof...(I)>* row, std::integer_sequence<int, I...>) {
  constexpr int kLanes = sizeof...(I);
#pragma GCC unroll 16
  for (int r = 0; r < kLanes; ++r) {
    if (r & Half) continue;
    const Floats<kLanes> a = row[r], b = row[r + Half];
    row[r] = __builtin_shufflevector(a, b, (I & Half ? kLanes + I - Half : I)...);
    row[r + Half] = __builtin_shufflevector(a, b, (I & Half ? kLanes + I : I + Half)...);
  }
}

template <int Half, int Lanes>
DYNDEPLOY_INLINE void exchange_all(Floats<Lanes>* row) {
  if constexpr (Half > 0) {
    exchange<Half>(row, std::make_integer_sequence<int, Lanes>{});
    exchange_all<Half / 2, Lanes>(row);
  }
}

template <int Lanes>
DYNDEPLOY_INLINE void transpose_square(const float* from, int64_t from_ld, float* to, int64_t to_ld) {
  Floats<Lanes> row[Lanes];
#pragma GCC unroll 16
  for (int r = 0; r < Lanes; ++r) row[r] = load<Lanes>(from + r * from_ld);
  exchange_all<Lanes / 2, Lanes>(row);
#pragma GCC unroll 16
  for (int r = 0; r < Lanes; ++r) store<Lanes>(to + r * to_ld, row[r]);
}

// Rows x Columns: powers of two, one at a time, as squares.
template <int Rows, int Columns>
DYNDEPLOY_INLINE void transpose_block(const float* from, int64_t from_ld, float* to, int64_t to_ld) {
  constexpr int kSide = Rows < Columns ? Rows : Columns;
  for (int r = 0; r < Rows; r += kSide)
    for (int c = 0; c < Columns; c += kSide)
      transpose_square<kSide>(from + r * from_ld + c, from_ld, to + c * to_ld + r, to_ld);
}

}  // namespace detail

// to[c][r] = from[r][c]. The side whose rows are further apart is walked along them, some at a time: they often lie in
// pages of their own, at distances at which lines compete for their place in the first cache.
inline void transpose(int64_t rows, int64_t columns, const float* from, int64_t from_ld, float* to, int64_t to_ld) {
  const auto block = [&](auto some_rows, int64_t r, auto some_columns, int64_t c) {
    detail::transpose_block<some_rows, some_columns>(from + r * from_ld + c, from_ld, to + c * to_ld + r, to_ld);
  };
  if (from_ld > to_ld)
    cover<kWidth>(0, rows, [&](auto some_rows, int64_t r) {
      cover<kWidth>(0, columns, [&](auto some_columns, int64_t c) { block(some_rows, r, some_columns, c); });
    });
  else
    cover<kWidth>(0, columns, [&](auto some_columns, int64_t c) {
      cover<kWidth>(0, rows, [&](auto some_rows, int64_t r) { block(some_rows, r, some_columns, c); });
    });
}

// Row h of sample n of a map, W pixels of `channels`, as [W][ld] floats; what lies between channels and ld is left alone.
template <class T>
void read_row(const Map<const T>& map, int64_t n, int64_t h, int64_t width, int64_t channels, float* to, int64_t ld) {
  if (map.c == 1) {
    for (int64_t w = 0; w < width; ++w) {
      const T* from = map.at(n, 0, h, w);
      for (int64_t c = 0; c < channels; ++c) to[w * ld + c] = to_float(from[c]);
    }
  } else if constexpr (sizeof(T) == sizeof(float)) {
    // In pieces, so that all channels of a pixel are written while it is in the second cache.
    for (int64_t w = 0; w < width; w += 256)
      transpose(channels, width - w < 256 ? width - w : 256, reinterpret_cast<const float*>(map.at(n, 0, h, w)), map.c,
                to + w * ld, ld);
  } else {
    for (int64_t begin = 0; begin < width; begin += 16)
      for (int64_t c = 0; c < channels; ++c) {
        const T* from = map.at(n, c, h, 0);
        const int64_t end = begin + 16 < width ? begin + 16 : width;
        for (int64_t w = begin; w < end; ++w) to[w * ld + c] = to_float(from[w * map.w]);
      }
  }
}

// Pixels [begin, end) of sample n of a map (row-major over H x W) as rows of channels first, first + 1, …
template <class T>
void read_tile(const Map<const T>& map, int64_t n, int64_t width, int64_t begin, int64_t end, int64_t first,
               int64_t channels, float* to, int64_t ld) {
  for (int64_t run; begin < end; begin += run, to += run * ld) {
    run = map.run(width, begin, end);
    Map<const T> from = map;
    from.data = map.at(n, first, begin / width, begin % width);
    read_row(from, 0, 0, run, channels, to, ld);
  }
}

// Pixels [begin, end) of sample n of Y (row-major over Ho x Wo) from a tile of rows of channels: the tile's column c is
// channel first + c * step. With relu, max(y, 0).
template <class T>
void write_tile(const Map<T>& map, int64_t n, int64_t width, int64_t begin, int64_t end, int64_t first, int64_t step,
                int64_t channels, bool with_relu, float* tile, int64_t ld) {
  const int64_t rows = end - begin;
  if (with_relu)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < channels; ++c) tile[r * ld + c] = tile[r * ld + c] < 0 ? 0 : tile[r * ld + c];
  for (int64_t r = 0; r < rows;) {
    const int64_t h = (begin + r) / width, w = (begin + r) % width;
    const int64_t run = map.run(width, begin + r, end);
    const float* from = tile + r * ld;
    if (sizeof(T) == sizeof(float) && map.w == 1 && map.c != 1) {
      transpose(run, channels, from, ld, reinterpret_cast<float*>(map.at(n, first, h, w)), map.c * step);
    } else if (map.c == 1) {
      for (int64_t i = 0; i < run; ++i) {
        T* to = map.at(n, first, h, w + i);
        if (step == 1)
          for (int64_t c = 0; c < channels; ++c) to[c] = from_float<T>(from[i * ld + c]);
        else
          for (int64_t c = 0; c < channels; ++c) to[c * step] = from_float<T>(from[i * ld + c]);
      }
    } else {
      for (int64_t c = 0; c < channels; ++c) {
        T* to = map.at(n, first + c * step, h, w);
        for (int64_t i = 0; i < run; ++i) to[i * map.w] = from_float<T>(from[i * ld + c]);
      }
    }
    r += run;
  }
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

// C += A * B for a tile: A a few rows in cache, B packed once, C in cache. What every convolution here spends its time in.
//
//            kColumns = 2 vectors
//   A  [rows][depth], row-major          B  panels of [depth][kColumns], zero-padded; the last one may be half as wide
//   C  [rows][columns], row-major, padded to a multiple of kWidth
//
// A block of kRows x kColumns of C is held in registers over the whole depth: per step of depth two vectors of B are
// loaded and kRows numbers of A broadcast. The order in which one element of C is summed up depends on nothing else, so
// that any division of the work gives the same bits.
#pragma once

#include "common/cpu/simd.h"

namespace dyndeploy::DYNDEPLOY_ISA {

// As many accumulators as the registers hold besides two of B and one of A.
#if defined(__AVX512F__)
inline constexpr int kRows = 14;
#elif defined(__AVX2__)
inline constexpr int kRows = 6;
#elif defined(__aarch64__)
inline constexpr int kRows = 12;
#else
inline constexpr int kRows = 6;
#endif
inline constexpr int kColumns = 2 * kWidth;

DYNDEPLOY_INLINE constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Columns of a row of C, and floats of one row of packed B.
DYNDEPLOY_INLINE constexpr int64_t padded_columns(int64_t columns) { return round_up(columns, kWidth); }
DYNDEPLOY_INLINE constexpr int64_t panel_count(int64_t columns) { return (columns + kColumns - 1) / kColumns; }
// Columns of panel `p`, padded: kColumns or, the last one, kWidth.
DYNDEPLOY_INLINE constexpr int64_t panel_columns(int64_t p, int64_t columns) {
  return columns - p * kColumns > kWidth ? kColumns : kWidth;
}
// Floats of all panels, the last one padded to its width, and where panel p begins.
DYNDEPLOY_INLINE constexpr int64_t packed_floats(int64_t depth, int64_t columns) {
  const int64_t last = panel_count(columns) - 1;
  return columns <= 0 ? 0 : depth * (last * kColumns + panel_columns(last, columns));
}
DYNDEPLOY_INLINE constexpr int64_t panel_offset(int64_t p, int64_t depth) { return p * kColumns * depth; }

// Pack B[d][c] = element(d, c), depth x columns.
template <class Element>
DYNDEPLOY_INLINE void pack_panel(int64_t p, int64_t depth, int64_t columns, Element element, float* packed) {
  const int64_t begin = p * kColumns, width = panel_columns(p, columns);
  float* out = packed + panel_offset(p, depth);
  for (int64_t d = 0; d < depth; ++d)
    for (int64_t c = 0; c < width; ++c) *out++ = begin + c < columns ? element(d, begin + c) : 0.0f;
}

namespace detail {

// Steps of depth between asking for a row of B and its use. Measured on Zen 4 where an index picks the rows, which the
// CPU cannot foresee, and weights do not stay in the second cache: 0.8 to 0.95 of the time, else no difference.
inline constexpr int64_t kAhead = 16;
// The same without an index. CPUs foresee these rows, but not far enough.
inline constexpr int64_t kAheadInOrder = 32;
// Rows of A per pointer: few enough that their distances from it, one and two times lda, are no more registers. One
// pointer for all rows takes more than there are. With kAheadInOrder, 112 rows, depth 256, weights of 0.6, 2.4 and
// 9.4 MB: 0.98, 0.96 and 0.94 of the time (Sapphire Rapids, AVX-512, one thread; 84 % of the peak at best).
inline constexpr int kRowsPerPointer = 3;

// Vectors = 1 or 2; Rows 1..kRows. `index`: row of B for every step of depth, or none for rows 0, 1, 2, …
template <int Rows, int Vectors, bool Indexed>
void multiply_block(int64_t depth, const float* a, int64_t lda, const float* b, const int32_t* index, float* c,
                    int64_t ldc) {
  constexpr int kPointers = (Rows + kRowsPerPointer - 1) / kRowsPerPointer;
  Vector sum[Rows][Vectors];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) sum[r][v] = load(c + r * ldc + v * kWidth);
  const float* rows[kPointers];
#pragma GCC unroll 8
  for (int i = 0; i < kPointers; ++i) {
    rows[i] = a + i * kRowsPerPointer * lda;
    asm("" : "+r"(rows[i]));  // or the compiler goes back to one pointer
  }
  const auto step = [&](int64_t d, int at) __attribute__((always_inline)) {
    const float* row = b + (Indexed ? static_cast<int64_t>(index[d]) : d) * (Vectors * kWidth);
    const float* ahead = row + kAheadInOrder * Vectors * kWidth;
    if constexpr (Indexed)
      ahead = b + static_cast<int64_t>(index[d + kAhead < depth ? d + kAhead : d]) * (Vectors * kWidth);
    __builtin_prefetch(ahead);
    if (Vectors > 1) __builtin_prefetch(ahead + (Vectors - 1) * kWidth);
    Vector bv[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) bv[v] = load(row + v * kWidth);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vector av = splat(rows[r / kRowsPerPointer][r % kRowsPerPointer * lda + at]);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) sum[r][v] += av * bv[v];
    }
  };
  const auto advance = [&](int by) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int i = 0; i < kPointers; ++i) rows[i] += by;
  };
  int64_t d = 0;
  for (; d + 2 <= depth; d += 2) {
    step(d, 0);
    step(d + 1, 1);
    advance(2);
  }
  if (d < depth) step(d, 0);
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) store(c + r * ldc + v * kWidth, sum[r][v]);
}

using Block = void (*)(int64_t, const float*, int64_t, const float*, const int32_t*, float*, int64_t);

template <int Vectors, bool Indexed, int... R>
DYNDEPLOY_INLINE Block block_of(int rows, std::integer_sequence<int, R...>) {
  static constexpr Block blocks[] = {multiply_block<R + 1, Vectors, Indexed>...};
  return blocks[rows - 1];
}

template <int Vectors, bool Indexed>
DYNDEPLOY_INLINE void multiply_rows(int64_t rows, int64_t depth, const float* a, int64_t lda, const float* b,
                                    const int32_t* index, float* c, int64_t ldc) {
  int64_t r = 0;
  for (; r + kRows <= rows; r += kRows)
    multiply_block<kRows, Vectors, Indexed>(depth, a + r * lda, lda, b, index, c + r * ldc, ldc);
  if (r < rows)
    block_of<Vectors, Indexed>(static_cast<int>(rows - r), std::make_integer_sequence<int, kRows>{})(
        depth, a + r * lda, lda, b, index, c + r * ldc, ldc);
}

}  // namespace detail

// C[:, columns of panel p] += A * panel p.  `c` points to C's column 0; `b` to the packed panels; depth steps are taken.
// With an index, step d multiplies row index[d] of the panel, whose panels were packed with `packed_depth` rows.
DYNDEPLOY_INLINE void multiply_panel(int64_t p, int64_t columns, int64_t rows, int64_t depth, const float* a, int64_t lda,
                                     const float* b, int64_t packed_depth, const int32_t* index, float* c, int64_t ldc) {
  b += panel_offset(p, packed_depth);
  c += p * kColumns;
  if (panel_columns(p, columns) == kColumns) {
    if (index)
      detail::multiply_rows<2, true>(rows, depth, a, lda, b, index, c, ldc);
    else
      detail::multiply_rows<2, false>(rows, depth, a, lda, b, index, c, ldc);
  } else {
    if (index)
      detail::multiply_rows<1, true>(rows, depth, a, lda, b, index, c, ldc);
    else
      detail::multiply_rows<1, false>(rows, depth, a, lda, b, index, c, ldc);
  }
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

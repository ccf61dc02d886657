// C = A * B for a tile of C in the registers of one block, where A is made while it is multiplied: what convolutions are
// built on whose columns come from somewhere (sampled, gathered, compacted).
//
//                 depth, a stage of 64 bytes at a time
//             ┌────┬────┬────┬─ ─         A  rows x depth: a Rows object makes the next stage while this is multiplied;
//      rows   │    │ A  │    │               two buffers in shared memory; depth inside of rows, or rows inside of depth
//             └────┴────┴────┴─ ─
//             ┌────┬────┬────┬─ ─         B  columns x depth, depth contiguous: a Columns object copies it from global
//     columns │    │ B  │    │               memory, kColumnBuffers - 1 stages ahead
//             └────┴────┴────┴─ ─         C  rows x columns: float, a Product object holds it in registers
//
//   per stage   columns.copy()  starts a later stage of B
//               rows.load()     starts the loads that the next stage of A is made of, into registers
//               product.step()  multiplies this stage: 64 bytes of each row of A and of each column of B
//               rows.store()    makes the next stage of A of what was loaded: its arithmetic, and 16-byte stores
//               one barrier
//
// A stage of a row of A or of a column of B is four vectors of sixteen bytes: 32 numbers of a half type, 16 floats. Its
// vectors are permuted (`place`), so that neither the stores nor the loads of whole columns of vectors meet in a bank.
//
// Per stage a tile of R x C, by w x v warps, does 32 R C multiply-adds of halves or 16 R C of floats, writes 64 (R + C)
// bytes of operands to shared memory, and reads 64 (v R + w C) there. Shared memory: 128 R + 192 C bytes.
#pragma once

#include "common/cuda/mma.cuh"

namespace dyndeploy::cuda {

inline constexpr int kStageVectors = 4;
template <class T>
inline constexpr int kStageDepth = kStageVectors * kPerSixteen<T>;

inline constexpr int kRowBuffers = 2;     // of A
inline constexpr int kColumnBuffers = 3;  // of B

// Vector `vector` of row `row` of a stage, in vectors from the stage's begin. Eight rows in sequence lie in all banks.
__host__ __device__ constexpr int place(int row, int vector) { return row * kStageVectors + (vector ^ (row >> 1 & 3)); }

// kRows x kColumns of C, by kWarpRows x kWarpColumns warps; at least kBlocks blocks share a multiprocessor's registers.
template <int Rows, int Columns, int WarpRows, int WarpColumns, int Blocks>
struct Tile {
  static constexpr int kRows = Rows, kColumns = Columns;
  static constexpr int kWarpRows = WarpRows, kWarpColumns = WarpColumns;
  static constexpr int kThreads = WarpRows * WarpColumns * kWarp;
  static constexpr int kBlocks = Blocks;
  // Of one warp.
  static constexpr int kRowsOfWarp = Rows / WarpRows, kColumnsOfWarp = Columns / WarpColumns;
};

// C leaves the registers through shared memory, a slab of columns at a time.
inline constexpr int kSlabColumns = 64;
// In floats: rows in sequence begin four banks apart.
inline constexpr int kSlabPitch = kSlabColumns + 4;

// Shared memory of a tile. The sums take the place of the stages when all is multiplied.
template <class Tile>
union GemmShared {
  struct {
    Sixteen a[kRowBuffers][Tile::kRows * kStageVectors];
    Sixteen b[kColumnBuffers][Tile::kColumns * kStageVectors];
  } stages;
  float sums[Tile::kRows * kSlabPitch];
};

// --- how A lies in a stage: load, for the products; step, which rows a lane of FloatProduct has: the same for all kM

// Row by row, with the depth of each in four vectors: `place`.
struct DepthInside {
  // What an mma needs of rows `row`, … + 15, from depth vector k on: its operand A.
  static __device__ __forceinline__ void load(uint32_t (&words)[4], const Sixteen* a, int row, int k) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    load_matrices(words, a + place(row + lane % 16, k + lane / 16));
  }
  // The four floats of depth vector k, of rows row + step(0), row + step(1), …
  template <int M>
  static __device__ __forceinline__ void load(float (&numbers)[M][4], const Sixteen* a, int row, int k) {
#pragma unroll
    for (int m = 0; m < M; ++m) unpack<float>(a[place(row + step(m), k)], numbers[m]);
  }

  static __host__ __device__ constexpr int first(int quarter) { return quarter; }
  static __host__ __device__ constexpr int step(int m) { return 4 * m; }
};

// One after the other all rows of each number of depth.
template <class T, class Tile>
struct DepthOutside {
  // Vector `vector` of the rows at `depth`, permuted for reads of the same rows at depths in sequence.
  static __host__ __device__ constexpr int place(int depth, int vector) {
    return depth * (Tile::kRows / kPerSixteen<T>) + (vector ^ (sizeof(T) == 2 ? depth & 7 : (depth & 3) << 1));
  }

  static __device__ __forceinline__ void load(uint32_t (&words)[4], const Sixteen* a, int row, int k) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if constexpr (sizeof(T) == 2) {
      load_matrices_transposed(words, a + place(8 * k + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int of_row = row + lane / 4 + i % 2 * 8;
        words[i] = a[place(4 * k + lane % 4 + i / 2 * 4, of_row / 4)].words[of_row % 4];
      }
    }
  }
  template <int M>
  static __device__ __forceinline__ void load(float (&numbers)[M][4], const Sixteen* a, int row, int k) {
    static_assert(M % 4 == 0);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int m = 0; m < M; m += 4) {
        float four[4];
        unpack<float>(a[place(4 * k + i, (row + step(m)) / 4)], four);
#pragma unroll
        for (int j = 0; j < 4; ++j) numbers[m + j][i] = four[j];
      }
  }

  // Four rows in sequence are one vector.
  static __host__ __device__ constexpr int first(int quarter) { return 4 * quarter; }
  static __host__ __device__ constexpr int step(int m) { return m / 4 * 16 + m % 4; }

 private:
  static_assert(Tile::kRows / kPerSixteen<T> >= 8);
};

// --- how B lies in a stage: load, for the products

// Column by column, with the depth of each in four vectors, as A's rows.
struct DepthInColumns {
  // What an mma needs of columns `column`, … + 15, from depth vector k on: two of its operands B.
  static __device__ __forceinline__ void load(uint32_t (&words)[4], const Sixteen* b, int column, int k) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    load_matrices(words, b + place(column + lane / 16 * 8 + lane % 8, k + lane / 8 % 2));
  }
  // The four floats of depth vector k.
  static __device__ __forceinline__ void load(float (&numbers)[4], const Sixteen* b, int column, int k) {
    unpack<float>(b[place(column, k)], numbers);
  }
};

// One after the other all columns of each number of depth.
template <class T, class Tile>
struct DepthInRows {
  // Vector `vector` of the columns at `depth`, permuted like `place`, for reads of the same columns at depths in sequence.
  static __host__ __device__ constexpr int place(int depth, int vector) {
    return depth * (Tile::kColumns / kPerSixteen<T>) + (vector ^ (sizeof(T) == 2 ? depth & 7 : (depth & 3) << 1));
  }

  static __device__ __forceinline__ void load(uint32_t (&words)[4], const Sixteen* b, int column, int k) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if constexpr (sizeof(T) == 2) {
      load_matrices_transposed(words, b + place(8 * k + lane % 16, column / 8 + lane / 16));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) words[i] = word(b, 4 * k + lane % 4 + i % 2 * 4, column + lane / 4 + i / 2 * 8);
    }
  }
  static __device__ __forceinline__ void load(float (&numbers)[4], const Sixteen* b, int column, int k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) numbers[i] = __uint_as_float(word(b, 4 * k + i, column));
  }

 private:
  static_assert(Tile::kColumns / kPerSixteen<T> >= 8);
  static __device__ __forceinline__ uint32_t word(const Sixteen* b, int depth, int column) {
    return b[place(depth, column / 4)].words[column % 4];
  }
};

// --- products: sums(), step, put

// On tensor cores. Type: float16 or bfloat16, or tf32 for floats whose fractions are rounded to 10 bits here.
template <class Tile, class Type, class Operand = DepthInColumns, class RowOperand = DepthInside>
class TensorCoreProduct {
 public:
  __device__ __forceinline__ TensorCoreProduct()
      : lane_(static_cast<int>(threadIdx.x) % kWarp),
        row_(static_cast<int>(threadIdx.x) / kWarp / Tile::kWarpColumns * Tile::kRowsOfWarp),
        column_(static_cast<int>(threadIdx.x) / kWarp % Tile::kWarpColumns * Tile::kColumnsOfWarp) {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kN; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums_[m][n][i] = 0.0f;
  }

  __device__ __forceinline__ void step(const Sixteen* a, const Sixteen* b) {
#pragma unroll
    for (int k = 0; k < kStageVectors; k += 2) {  // an mma is two vectors deep
      uint32_t rows[kM][4];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        RowOperand::load(rows[m], a, row_ + 16 * m, k);
        round(rows[m]);
      }
#pragma unroll
      for (int n = 0; n < kN; n += 2) {
        uint32_t columns[4];
        Operand::load(columns, b, column_ + 8 * n, k);
        round(columns);
        const uint32_t left[2] = {columns[0], columns[1]}, right[2] = {columns[2], columns[3]};
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          mma_16x8<Type>(sums_[m][n], rows[m], left);
          mma_16x8<Type>(sums_[m][n + 1], rows[m], right);
        }
      }
    }
  }

  // Columns begin, begin + 1, … of the slab of the tile's sums, as [row][kSlabPitch].
  __device__ __forceinline__ void put(int begin, float* slab) const {
    const int first = column_ - begin;
    if (first < 0 || first >= kSlabColumns) return;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        float* at = slab + (row_ + 16 * m + lane_ / 4) * kSlabPitch + first + 8 * n + lane_ % 4 * 2;
        *reinterpret_cast<float2*>(at) = make_float2(sums_[m][n][0], sums_[m][n][1]);
        *reinterpret_cast<float2*>(at + 8 * kSlabPitch) = make_float2(sums_[m][n][2], sums_[m][n][3]);
      }
  }

 private:
  static constexpr int kM = Tile::kRowsOfWarp / 16, kN = Tile::kColumnsOfWarp / 8;
  static_assert(kM > 0 && kN > 0 && kN % 2 == 0 && kSlabColumns % Tile::kColumnsOfWarp == 0);

  static __device__ __forceinline__ void round(uint32_t (&words)[4]) {
    if constexpr (std::is_same_v<Type, tf32>)
#pragma unroll
      for (int i = 0; i < 4; ++i) words[i] = round_to_tf32(__uint_as_float(words[i]));
  }

  const int lane_, row_, column_;
  float sums_[kM][kN][4];
};

// Of floats, exactly: each product rounded once, with its sum. A lane has a quarter of its warp's rows (by RowOperand), and
// every eighth column.
template <class Tile, class Operand = DepthInColumns, class RowOperand = DepthInside>
class FloatProduct {
 public:
  __device__ __forceinline__ FloatProduct()
      : row_(static_cast<int>(threadIdx.x) / kWarp / Tile::kWarpColumns * Tile::kRowsOfWarp +
             RowOperand::first(static_cast<int>(threadIdx.x) % kWarp / 8)),
        column_(static_cast<int>(threadIdx.x) / kWarp % Tile::kWarpColumns * Tile::kColumnsOfWarp +
                static_cast<int>(threadIdx.x) % 8) {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kN; ++n) sums_[m][n] = 0.0f;
  }

  __device__ __forceinline__ void step(const Sixteen* a, const Sixteen* b) {
#pragma unroll 1
    for (int k = 0; k < kStageVectors; ++k) {
      float rows[kM][4];
      RowOperand::load(rows, a, row_, k);
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        float column[4];
        Operand::load(column, b, column_ + 8 * n, k);
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int m = 0; m < kM; ++m) sums_[m][n] = fmaf(rows[m][i], column[i], sums_[m][n]);
      }
    }
  }

  __device__ __forceinline__ void put(int begin, float* slab) const {
    const int first = column_ - begin;
    if (first < 0 || first >= kSlabColumns) return;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kN; ++n) slab[(row_ + RowOperand::step(m)) * kSlabPitch + first + 8 * n] = sums_[m][n];
  }

 private:
  static constexpr int kM = Tile::kRowsOfWarp / 4, kN = Tile::kColumnsOfWarp / 8;
  static_assert(kM > 0 && kN > 0 && kSlabColumns % Tile::kColumnsOfWarp == 0);

  const int row_, column_;
  float sums_[kM][kN];
};

// --- columns: copy

// B as it lies packed in global memory: [stage][columns][kStageVectors], each stage permuted by `place` already. A tile's
// first column is a multiple of 8, which leaves the permutation the same.
template <class Tile>
class PackedColumns {
 public:
  // `first`: column of the tile, of `columns` in all; beyond them are zeros.
  __device__ __forceinline__ PackedColumns(const Sixteen* packed, int columns, int first)
      : packed_(packed), columns_(columns), first_(first) {}

  __device__ __forceinline__ void copy(int stage, Sixteen* b) const {
    const Sixteen* from = packed_ + (static_cast<int64_t>(stage) * columns_ + first_) * kStageVectors;
    const int there = (columns_ - first_) * kStageVectors;
#pragma unroll
    for (int i = 0; i < Tile::kColumns * kStageVectors; i += Tile::kThreads) {
      const int vector = i + static_cast<int>(threadIdx.x);
      copy_async_sixteen(b + vector, vector < there ? from + vector : packed_, vector < there);
    }
  }

 private:
  static_assert(Tile::kColumns * kStageVectors % Tile::kThreads == 0);
  const Sixteen* packed_;
  int columns_, first_;
};

// --- the loop

// product += stages [first, last) of A * B. All threads of the block call it.
//
// Rows:     load()                starts the next stage, beginning with `first`; may wait at barriers of the block
//           store(Sixteen* a)     writes that stage, all kRows of it, where the product's RowOperand reads them
// Columns:  copy(int stage, Sixteen* b)   by copy_async_sixteen, all kColumns of it
template <class Tile, class Product, class Rows, class Columns>
__device__ __forceinline__ void multiply(GemmShared<Tile>& shared, Product& product, Rows& rows, const Columns& columns,
                                         int first, int last) {
  auto& stages = shared.stages;
#pragma unroll
  for (int i = 0; i < kColumnBuffers - 1; ++i) {
    if (first + i < last) columns.copy(first + i, stages.b[i]);
    copy_async_commit();
  }
  if (first < last) {
    rows.load();
    rows.store(stages.a[0]);
  }
  copy_async_wait<kColumnBuffers - 2>();
  __syncthreads();
  int a = 0, b = 0;  // the buffers of this stage
  for (int stage = first; stage < last; ++stage) {
    const bool more = stage + 1 < last;
    const int ahead = stage + kColumnBuffers - 1;
    // Its buffer was read in the stage before this one, and a barrier is between.
    if (ahead < last) columns.copy(ahead, stages.b[b == 0 ? kColumnBuffers - 1 : b - 1]);
    copy_async_commit();
    if (more) rows.load();
    product.step(stages.a[a], stages.b[b]);
    if (more) rows.store(stages.a[1 - a]);
    a = 1 - a;
    b = b == kColumnBuffers - 1 ? 0 : b + 1;
    copy_async_wait<kColumnBuffers - 2>();
    __syncthreads();
  }
  copy_async_wait<0>();
}

// store(begin, sums) for every slab of the tile's columns: begin, …, begin + kSlabColumns - 1 as [row][kSlabPitch].
template <class Tile, class Product, class Store>
__device__ __forceinline__ void store_sums(GemmShared<Tile>& shared, const Product& product, Store store) {
#pragma unroll 1
  for (int begin = 0; begin < Tile::kColumns; begin += kSlabColumns) {
    __syncthreads();
    product.put(begin, shared.sums);
    __syncthreads();
    store(begin, static_cast<const float*>(shared.sums));
  }
}

}  // namespace dyndeploy::cuda

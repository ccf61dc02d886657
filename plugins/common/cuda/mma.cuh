// Tensor cores, and how their operands get into registers: instructions of sm_80 that all later GPUs have.
//
// mma_16x8: D += A * B, a warp together; A is 16 rows, B 8 columns, D float. Depth is 16 for float16 and bfloat16, 8 for
// TF32. With lane l, r = l / 4, c = l % 4, of 32-bit words ("pair" is two halves next to each other in depth):
//
//   D    d[0], d[1]: row r, columns 2c, 2c + 1            d[2], d[3]: row r + 8
//   A    half: a[0] row r, depth pair c; a[1] row r + 8, pair c; a[2] row r, pair c + 4; a[3] row r + 8, pair c + 4
//        TF32: the same with single numbers instead of pairs
//   B    half: b[0] depth pair c, column r; b[1] pair c + 4, column r           TF32: the same with single numbers
//
// load_matrices: four 8 x 8 matrices of halves (8 x 4 of words) from shared memory: lane l gives the address of row l % 8
// of matrix l / 8 (16 bytes, aligned to 16) and gets word l % 4 of row l / 4 of each. That is A's layout above, with the
// matrices in the order upper left, lower left, upper right, lower right. Transposed, halves only: lane l gets, of each
// matrix, rows 2 (l % 4) and 2 (l % 4) + 1 of column l / 4: B's layout, from rows of depth.
#pragma once

#include <type_traits>

#include "common/cuda/dtype.cuh"

namespace dyndeploy::cuda {

struct tf32;  // float in registers, of which the tensor core uses 10 bits of fraction

#ifdef DYNDEPLOY_EMULATOR

using emulator::copy_async_commit;
using emulator::copy_async_sixteen;
using emulator::copy_async_wait;
using emulator::load_matrices;
using emulator::load_matrices_transposed;
using emulator::round_to_tf32;

template <class Type>
void mma_16x8(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
              emulator::Where where = emulator::here()) {
  if constexpr (std::is_same_v<Type, tf32>)
    emulator::mma_16x8x8_tf32(d, a, b, where);
  else if constexpr (std::is_same_v<Type, float16>)
    emulator::mma_16x8x16_float16(d, a, b, where);
  else
    emulator::mma_16x8x16_bfloat16(d, a, b, where);
}

#else

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes from global to shared memory behind this thread's back; zeros, and nothing is read, where not `there`.
__device__ __forceinline__ void copy_async_sixteen(void* shared, const void* global, bool there) {
  const int bytes = there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
// Ends a group of copies; the thread waits until at most `Groups` of its last groups are under way.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int Groups>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Groups) : "memory");
}

__device__ __forceinline__ void load_matrices(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&words)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ uint32_t round_to_tf32(float v) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(v));
  return bits;
}

template <class Type>
__device__ __forceinline__ void mma_16x8(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<Type, tf32>)
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else if constexpr (std::is_same_v<Type, float16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

}  // namespace dyndeploy::cuda

// CUDA C++ for a C++ compiler: what kernels use of the language and its built-in functions, run by the emulator.
// This list is all there is; README.md says how it behaves.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <tuple>
#include <type_traits>

#include "emulator/numbers.h"
#include "emulator/vectors.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

namespace dyndeploy::emulator {

// Where in a kernel's source something is called.
struct Where {
  const char* file;
  int line;
};
constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

cudaError_t launch(const char* name, dim3 blocks, int threads, int shared_bytes, void (*run)(const void* call),
                   const void* call, size_t call_bytes);

// Calls `kernel` once for every thread. Has ended when it returns.
template <class... Parameters>
cudaError_t launch(const char* name, dim3 blocks, int threads, int shared_bytes, void (*kernel)(Parameters...),
                   const std::type_identity_t<Parameters>&... arguments) {
  using Call = std::tuple<void (*)(Parameters...), Parameters...>;
  const Call call(kernel, arguments...);
  const auto run = [](const void* call) {
    std::apply([](auto kernel, const auto&... arguments) { kernel(arguments...); }, *static_cast<const Call*>(call));
  };
  return launch(name, blocks, threads, shared_bytes, run, &call, sizeof call);
}

// The block's shared memory, of which the kernel is going to use `bytes`.
void* shared_memory(size_t bytes, size_t alignment, Where where = here());

// Collectives of a warp and of a block.
void synchronise_block(Where where);
void synchronise_warp(unsigned mask, Where where);
uint32_t shuffle(unsigned mask, uint32_t value, int source, Where where);
enum class Vote { ballot, any, all };
unsigned vote(Vote kind, unsigned mask, bool predicate, Where where);

void load_matrices(uint32_t (&words)[4], const void* row, Where where = here());
void load_matrices_transposed(uint32_t (&words)[4], const void* row, Where where = here());
void mma_16x8x16_float16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where = here());
void mma_16x8x16_bfloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where = here());
void mma_16x8x8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where = here());

void copy_async_sixteen(void* shared, const void* global, bool there, Where where = here());
void copy_async_commit();
void copy_async_wait(int groups);
template <int Groups>
void copy_async_wait() {
  copy_async_wait(Groups);
}

// The lane that __shfl_*_sync reads, in sections of `width` lanes; its own where there is none.
int lane();
inline int shuffle_index(int source, int width) { return (lane() & -width) | (source & (width - 1)); }
inline int shuffle_up(int delta, int width) { return (lane() & (width - 1)) < delta ? lane() : lane() - delta; }
inline int shuffle_down(int delta, int width) {
  return (lane() & (width - 1)) + delta >= width ? lane() : lane() + delta;
}
inline int shuffle_xor(int mask, int width) {
  // A partner in an earlier section is read, one in a later section is not.
  const int partner = lane() ^ mask;
  return partner > (lane() | (width - 1)) ? lane() : partner;
}

template <class T>
T shuffle_as(unsigned mask, T value, int source, Where where) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, float>);
  return std::bit_cast<T>(shuffle(mask, std::bit_cast<uint32_t>(value), source, where));
}

// A load of global memory through the path that does not see what its launch writes, and a store; in one piece, so that
// the address is a multiple of the size.
void load_read_only(void* to, const void* from, size_t bytes);
void store(void* to, const void* from, size_t bytes);

// Returns what was there.
enum class Atomic { add, max, min };
int atomic(Atomic what, int* address, int value);
unsigned atomic(Atomic what, unsigned* address, unsigned value);
float atomic(Atomic what, float* address, float value);

}  // namespace dyndeploy::emulator

extern __thread uint3 threadIdx, blockIdx, blockDim, gridDim;

// --- waiting for each other, and exchange within a warp

inline void __syncthreads(dyndeploy::emulator::Where where = dyndeploy::emulator::here()) {
  dyndeploy::emulator::synchronise_block(where);
}
inline void __syncwarp(unsigned mask = ~0u, dyndeploy::emulator::Where where = dyndeploy::emulator::here()) {
  dyndeploy::emulator::synchronise_warp(mask, where);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              dyndeploy::emulator::Where where = dyndeploy::emulator::here()) {
  return dyndeploy::emulator::shuffle_as(mask, value, dyndeploy::emulator::shuffle_index(source, width), where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 dyndeploy::emulator::Where where = dyndeploy::emulator::here()) {
  const int source = dyndeploy::emulator::shuffle_up(static_cast<int>(delta), width);
  return dyndeploy::emulator::shuffle_as(mask, value, source, where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   dyndeploy::emulator::Where where = dyndeploy::emulator::here()) {
  const int source = dyndeploy::emulator::shuffle_down(static_cast<int>(delta), width);
  return dyndeploy::emulator::shuffle_as(mask, value, source, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                  dyndeploy::emulator::Where where = dyndeploy::emulator::here()) {
  return dyndeploy::emulator::shuffle_as(mask, value, dyndeploy::emulator::shuffle_xor(lanes, width), where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              dyndeploy::emulator::Where where = dyndeploy::emulator::here()) {
  return dyndeploy::emulator::vote(dyndeploy::emulator::Vote::ballot, mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, dyndeploy::emulator::Where where = dyndeploy::emulator::here()) {
  return static_cast<int>(dyndeploy::emulator::vote(dyndeploy::emulator::Vote::any, mask, predicate != 0, where));
}
inline int __all_sync(unsigned mask, int predicate, dyndeploy::emulator::Where where = dyndeploy::emulator::here()) {
  return static_cast<int>(dyndeploy::emulator::vote(dyndeploy::emulator::Vote::all, mask, predicate != 0, where));
}

// --- memory

// Inlined always, so that the address from which the emulator is called, and which reports name, lies in the kernel.
#define DYNDEPLOY_ATOMIC(Name, what, T)                                                    \
  __forceinline__ T Name(T* address, T value) {                                            \
    return dyndeploy::emulator::atomic(dyndeploy::emulator::Atomic::what, address, value); \
  }
DYNDEPLOY_ATOMIC(atomicAdd, add, int)
DYNDEPLOY_ATOMIC(atomicAdd, add, unsigned)
DYNDEPLOY_ATOMIC(atomicAdd, add, float)
DYNDEPLOY_ATOMIC(atomicMax, max, int)
DYNDEPLOY_ATOMIC(atomicMax, max, unsigned)
DYNDEPLOY_ATOMIC(atomicMin, min, int)
DYNDEPLOY_ATOMIC(atomicMin, min, unsigned)
#undef DYNDEPLOY_ATOMIC

template <class T>
__forceinline__ T __ldg(const T* from) {
  T v;
  dyndeploy::emulator::load_read_only(&v, from, sizeof v);
  return v;
}

// --- arithmetic

using std::isfinite;
using std::isinf;
using std::isnan;

inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline float __int_as_float(int v) { return std::bit_cast<float>(v); }

inline float __expf(float v) { return expf(v); }
inline float rsqrtf(float v) { return 1 / sqrtf(v); }
inline float __frcp_rn(float v) { return 1 / v; }

inline int __popc(unsigned v) { return std::popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return std::countl_zero(static_cast<unsigned>(v)); }

// As CUDA C++ has them: an int and an unsigned are compared as unsigned.
#define DYNDEPLOY_MIN_MAX(Result, A, B)                                \
  constexpr Result min(A a, B b) {                                     \
    const auto x = static_cast<Result>(a), y = static_cast<Result>(b); \
    return y < x ? y : x;                                              \
  }                                                                    \
  constexpr Result max(A a, B b) {                                     \
    const auto x = static_cast<Result>(a), y = static_cast<Result>(b); \
    return x < y ? y : x;                                              \
  }
DYNDEPLOY_MIN_MAX(int, int, int)
DYNDEPLOY_MIN_MAX(unsigned, unsigned, unsigned)
DYNDEPLOY_MIN_MAX(unsigned, int, unsigned)
DYNDEPLOY_MIN_MAX(unsigned, unsigned, int)
DYNDEPLOY_MIN_MAX(long, long, long)
DYNDEPLOY_MIN_MAX(unsigned long, unsigned long, unsigned long)
DYNDEPLOY_MIN_MAX(long long, long long, long long)
DYNDEPLOY_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
#undef DYNDEPLOY_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

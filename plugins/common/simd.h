// Vectors of float in the widest registers of the instruction set that this file is compiled for.
//
// Plain GCC vector extensions: the compiler picks the instructions, on x86 as on Arm, and contracts a * b + c. Whatever
// is compiled more than once, for one instruction set each, stands in namespace dyndeploy::DYNDEPLOY_ISA.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#ifndef DYNDEPLOY_ISA
#error "compile with -DDYNDEPLOY_ISA=portable, avx2 or avx512"
#endif

#define DYNDEPLOY_INLINE inline __attribute__((always_inline))

namespace dyndeploy::DYNDEPLOY_ISA {

#if defined(__AVX512F__)
inline constexpr int kWidth = 16;
#elif defined(__AVX2__)
inline constexpr int kWidth = 8;
#else
inline constexpr int kWidth = 4;
#endif

typedef float Vector __attribute__((vector_size(kWidth * 4)));
typedef int32_t Mask __attribute__((vector_size(kWidth * 4)));  // -1 where true, as a comparison of Vectors gives it
typedef float Unaligned __attribute__((vector_size(kWidth * 4), aligned(4), may_alias));

DYNDEPLOY_INLINE Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
DYNDEPLOY_INLINE void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
namespace detail {
template <int... I>
DYNDEPLOY_INLINE Vector repeat(float s, std::integer_sequence<int, I...>) {
  return Vector{(static_cast<void>(I), s)...};  // becomes one broadcast; `s - Vector{}` would cost a subtraction
}
}  // namespace detail
DYNDEPLOY_INLINE Vector splat(float s) { return detail::repeat(s, std::make_integer_sequence<int, kWidth>{}); }

// The first `count` < kWidth elements; the others are 0 and their memory is not touched.
DYNDEPLOY_INLINE Vector load_first(const float* p, int64_t count) {
  Vector v{};
  std::memcpy(&v, p, static_cast<size_t>(count) * sizeof(float));
  return v;
}
DYNDEPLOY_INLINE void store_first(float* p, Vector v, int64_t count) {
  std::memcpy(p, &v, static_cast<size_t>(count) * sizeof(float));
}

// max(v, 0) that keeps NaN, as torch and ONNX define ReLU.
DYNDEPLOY_INLINE Vector relu(Vector v) { return v < Vector{} ? Vector{} : v; }

// Storage type <-> float.
struct bfloat16 {
  uint16_t bits;
};

DYNDEPLOY_INLINE float to_float(float v) { return v; }
DYNDEPLOY_INLINE float to_float(bfloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

template <class T>
T from_float(float v);
template <>
DYNDEPLOY_INLINE float from_float<float>(float v) {
  return v;
}
// To nearest, ties to even; a NaN stays one.
template <>
DYNDEPLOY_INLINE bfloat16 from_float<bfloat16>(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>(v != v ? (bits >> 16) | 0x40u : rounded)};
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

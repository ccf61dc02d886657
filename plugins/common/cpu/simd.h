// Vectors of float in the widest registers of the instruction set that this file is compiled for.
//
// Plain GCC vector extensions: the compiler picks the instructions, on x86 as on Arm, and contracts a * b + c. Whatever
// is compiled more than once, for one instruction set each, stands in namespace dyndeploy::DYNDEPLOY_ISA.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
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

// The same for `Lanes` floats, a power of two up to kWidth.
namespace detail {
template <int Lanes>
struct FloatsOf {
  typedef float Type __attribute__((vector_size(Lanes * 4)));
  typedef float Anywhere __attribute__((vector_size(Lanes * 4), aligned(4), may_alias));
};
}  // namespace detail
template <int Lanes>
using Floats = typename detail::FloatsOf<Lanes>::Type;

template <int Lanes>
DYNDEPLOY_INLINE Floats<Lanes> load(const float* p) {
  return *reinterpret_cast<const typename detail::FloatsOf<Lanes>::Anywhere*>(p);
}
template <int Lanes>
DYNDEPLOY_INLINE void store(float* p, Floats<Lanes> v) {
  *reinterpret_cast<typename detail::FloatsOf<Lanes>::Anywhere*>(p) = v;
}
template <int Lanes>
DYNDEPLOY_INLINE Floats<Lanes> relu(Floats<Lanes> v) {
  return v < Floats<Lanes>{} ? Floats<Lanes>{} : v;
}

// call(number of lanes, i) for pieces of [begin, end) that are as wide as possible, at most Lanes. The last piece of a
// width overlaps the one before it rather than be narrower: what is called may do an element twice.
template <int Lanes, class Call>
DYNDEPLOY_INLINE void cover(int64_t begin, int64_t end, Call call) {
  if (end - begin >= Lanes) {
    for (int64_t i = begin; i + Lanes <= end; i += Lanes) call(std::integral_constant<int, Lanes>{}, i);
    if ((end - begin) % Lanes) call(std::integral_constant<int, Lanes>{}, end - Lanes);
  } else if constexpr (Lanes > 1) {
    cover<Lanes / 2>(begin, end, call);
  }
}

// Storage types, and their way to float and back: to nearest, ties to even.
struct float16 {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};
// The compiler's own half converts only: not every compiler can pass it to a function.
#if defined(__aarch64__)
using CompilersHalf = __fp16;
#else
using CompilersHalf = _Float16;
#endif

DYNDEPLOY_INLINE float to_float(float v) { return v; }
DYNDEPLOY_INLINE float to_float(float16 v) {
  CompilersHalf half;
  std::memcpy(&half, &v, sizeof half);
  return static_cast<float>(half);
}
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
template <>
DYNDEPLOY_INLINE float16 from_float<float16>(float v) {
  const CompilersHalf half = static_cast<CompilersHalf>(v);
  float16 stored;
  std::memcpy(&stored, &half, sizeof stored);
  return stored;
}
// A NaN stays one.
template <>
DYNDEPLOY_INLINE bfloat16 from_float<bfloat16>(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>(v != v ? (bits >> 16) | 0x40u : rounded)};
}

// The same for `Lanes` numbers at once. In integers: not every compiler has the conversions of a vector.
namespace detail {
template <int Lanes>
struct BitsOf {
  typedef uint32_t Type __attribute__((vector_size(Lanes * 4)));
  typedef uint16_t Half __attribute__((vector_size(Lanes * 2)));
};
template <int Lanes>
DYNDEPLOY_INLINE typename BitsOf<Lanes>::Type load_bits(const void* p) {
  typename BitsOf<Lanes>::Half half;
  std::memcpy(&half, p, sizeof half);
  return __builtin_convertvector(half, typename BitsOf<Lanes>::Type);
}
template <int Lanes>
DYNDEPLOY_INLINE void store_bits(void* p, typename BitsOf<Lanes>::Type bits) {
  const auto half = __builtin_convertvector(bits, typename BitsOf<Lanes>::Half);
  std::memcpy(p, &half, sizeof half);
}
}  // namespace detail

template <int Lanes>
DYNDEPLOY_INLINE Floats<Lanes> load_as_float(const float* p) {
  return load<Lanes>(p);
}
template <int Lanes>
DYNDEPLOY_INLINE Floats<Lanes> load_as_float(const bfloat16* p) {
  return reinterpret_cast<Floats<Lanes>>(detail::load_bits<Lanes>(p) << 16);
}
template <int Lanes>
DYNDEPLOY_INLINE Floats<Lanes> load_as_float(const float16* p) {
  using Bits = typename detail::BitsOf<Lanes>::Type;
  const Bits bits = detail::load_bits<Lanes>(p), magnitude = bits & 0x7fff;
  // The exponent's bias is corrected by a product, which is exact for the smallest numbers too.
  const Bits finite = reinterpret_cast<Bits>(reinterpret_cast<Floats<Lanes>>(magnitude << 13) * 0x1p112f);
  const Bits number = magnitude >= 0x7c00 ? (magnitude << 13) | 0x7f800000 : finite;
  return reinterpret_cast<Floats<Lanes>>(number | (bits & 0x8000) << 16);
}

template <int Lanes>
DYNDEPLOY_INLINE void store_from_float(float* p, Floats<Lanes> v) {
  store<Lanes>(p, v);
}
template <int Lanes>
DYNDEPLOY_INLINE void store_from_float(bfloat16* p, Floats<Lanes> v) {
  using Bits = typename detail::BitsOf<Lanes>::Type;
  const Bits bits = reinterpret_cast<Bits>(v), nan = (bits >> 16) | 0x40;
  detail::store_bits<Lanes>(p, v != v ? nan : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
template <int Lanes>
DYNDEPLOY_INLINE void store_from_float(float16* p, Floats<Lanes> v) {
  using Bits = typename detail::BitsOf<Lanes>::Type;
  const Bits bits = reinterpret_cast<Bits>(v), magnitude = bits & 0x7fffffff;
  // From 2^-14 on: the new bias, and half of the last bit. Below, a sum with 0.5 rounds at the last bit by itself.
  const Bits normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const Bits tiny = reinterpret_cast<Bits>(reinterpret_cast<Floats<Lanes>>(magnitude) + 0.5f) - 0x3f000000;
  Bits number = magnitude < 0x38800000 ? tiny : normal;
  number = magnitude >= 0x47800000 ? Bits{} + 0x7c00 : number;
  number = magnitude > 0x7f800000 ? Bits{} + 0x7e00 : number;
  detail::store_bits<Lanes>(p, number | bits >> 31 << 15);
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

// Storage types, and their ways to float and back: to nearest, ties to even. All arithmetic is in float.
#pragma once

#include "common/cuda/cuda.cuh"

#ifndef DYNDEPLOY_EMULATOR
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace dyndeploy::cuda {

struct float16 {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

// Sixteen bytes, as the widest loads and stores of a thread take them: 4 floats or 8 halves.
struct alignas(16) Sixteen {
  uint32_t words[4];
};
template <class T>
inline constexpr int kPerSixteen = 16 / static_cast<int>(sizeof(T));

#ifdef DYNDEPLOY_EMULATOR
using emulator::float_of_bfloat16;
using emulator::float_of_float16;
using emulator::bits_of_bfloat16;
using emulator::bits_of_float16;
#else
__device__ __forceinline__ float float_of_float16(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
__device__ __forceinline__ float float_of_bfloat16(uint16_t bits) { return __uint_as_float(uint32_t{bits} << 16); }
__device__ __forceinline__ uint16_t bits_of_float16(float v) { return __half_as_ushort(__float2half_rn(v)); }
__device__ __forceinline__ uint16_t bits_of_bfloat16(float v) { return __bfloat16_as_ushort(__float2bfloat16_rn(v)); }
#endif

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(float16 v) { return float_of_float16(v.bits); }
__device__ __forceinline__ float to_float(bfloat16 v) { return float_of_bfloat16(v.bits); }

template <class T>
__device__ __forceinline__ T from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ float16 from_float<float16>(float v) {
  return {bits_of_float16(v)};
}
template <>
__device__ __forceinline__ bfloat16 from_float<bfloat16>(float v) {
  return {bits_of_bfloat16(v)};
}

// Two numbers of a half type in one word, the first one in the lower half: one instruction on a GPU.
template <class T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high);
template <class T>
__device__ __forceinline__ float2 unpack_pair(uint32_t pair);
#ifdef DYNDEPLOY_EMULATOR
template <class T>
uint32_t pack_pair(float low, float high) {
  return from_float<T>(low).bits | uint32_t{from_float<T>(high).bits} << 16;
}
template <class T>
float2 unpack_pair(uint32_t pair) {
  return {to_float(T{static_cast<uint16_t>(pair)}), to_float(T{static_cast<uint16_t>(pair >> 16)})};
}
#else
template <>
__device__ __forceinline__ uint32_t pack_pair<float16>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
template <>
__device__ __forceinline__ uint32_t pack_pair<bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
template <>
__device__ __forceinline__ float2 unpack_pair<float16>(uint32_t pair) {
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}
template <>
__device__ __forceinline__ float2 unpack_pair<bfloat16>(uint32_t pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
#endif

// All numbers of sixteen bytes, as float, and back.
template <class T>
__device__ __forceinline__ void unpack(const Sixteen& packed, float (&values)[kPerSixteen<T>]) {
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = __uint_as_float(packed.words[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = unpack_pair<T>(packed.words[i]);
      values[2 * i] = pair.x;
      values[2 * i + 1] = pair.y;
    }
  }
}
template <class T>
__device__ __forceinline__ Sixteen pack(const float (&values)[kPerSixteen<T>]) {
  Sixteen packed;
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) packed.words[i] = __float_as_uint(values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) packed.words[i] = pack_pair<T>(values[2 * i], values[2 * i + 1]);
  }
  return packed;
}

// Sixteen bytes of global memory, aligned to sixteen; what this kernel does not write is read through the read-only path.
#ifdef DYNDEPLOY_EMULATOR
__forceinline__ Sixteen load_sixteen(const void* from) {
  Sixteen v;
  emulator::load_read_only(&v, from, sizeof v);
  return v;
}
__forceinline__ void store_sixteen(void* to, const Sixteen& v) { emulator::store(to, &v, sizeof v); }
#else
__device__ __forceinline__ Sixteen load_sixteen(const void* from) {
  const uint4 v = __ldg(static_cast<const uint4*>(from));
  return {{v.x, v.y, v.z, v.w}};
}
__device__ __forceinline__ void store_sixteen(void* to, const Sixteen& v) {
  *static_cast<uint4*>(to) = make_uint4(v.words[0], v.words[1], v.words[2], v.words[3]);
}
#endif

// call(T{}) with the storage type of a dtype that check_tensor let pass.
template <class Call>
auto with_type(int32_t dtype, Call call) {
  if (dtype == DYNDEPLOY_FLOAT32) return call(float{});
  if (dtype == DYNDEPLOY_FLOAT16) return call(float16{});
  return call(bfloat16{});
}

}  // namespace dyndeploy::cuda

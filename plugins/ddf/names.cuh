// Names of kernels, with the type that they are compiled for: for launches, reports and tests.
#pragma once

#include <algorithm>
#include <array>

#include "common/cuda/dtype.cuh"

namespace dyndeploy::cuda::ddf {

template <size_t Size>
struct Text {
  char text[Size];
  constexpr Text(const char (&from)[Size]) { std::copy_n(from, Size, text); }
};
template <class T>
inline constexpr Text kType = "bfloat16";
template <>
inline constexpr Text kType<float> = "float32";
template <>
inline constexpr Text kType<float16> = "float16";

// "ddf `Kernel` `T`".
template <Text Kernel, class T>
inline constexpr auto kName = [] {
  std::array<char, sizeof "ddf " + sizeof Kernel.text + sizeof kType<T>.text - 1> name{};
  char* to = std::copy_n("ddf ", 4, name.data());
  to = std::copy_n(Kernel.text, sizeof Kernel.text - 1, to);
  *to++ = ' ';
  std::copy_n(kType<T>.text, sizeof kType<T>.text, to);
  return name;
}();

template <Text Kernel, class T>
dyndeploy_cuda_kernel known(const void* function, int threads, size_t shared_bytes, int blocks) {
  return {kName<Kernel, T>.data(), function, threads, static_cast<int32_t>(shared_bytes), blocks};
}

}  // namespace dyndeploy::cuda::ddf

// From a slab of a tile's sums (gemm.cuh) to elements of a map Y [N, O, H, W] in any layout: bias, ReLU, one rounding.
//
// Rows of the tile are pixels, counted over all samples. Channels last, a thread stores sixteen bytes of one pixel; in any
// other layout neighbouring threads store neighbouring pixels of one plane.
#pragma once

#include "common/cuda/gemm.cuh"

namespace dyndeploy::cuda {

struct Output {
  void* data;
  int64_t n, c, h, w;  // strides in elements
  int pixels, width;   // of a sample, of its rows
  int rows;            // pixels of all samples
  bool vectors;        // c = 1, and pixels begin at multiples of sixteen bytes
  bool relu;
  const void* bias;
  int64_t bias_stride;
};

namespace detail {

// A NaN stays one.
__device__ __forceinline__ float finish(float sum, float bias, bool relu) {
  const float v = sum + bias;
  return relu && v < 0.0f ? 0.0f : v;
}

__device__ __forceinline__ int64_t pixel_of(const Output& output, int row) {
  const int n = row / output.pixels, pixel = row - n * output.pixels;
  const int i = pixel / output.width, j = pixel - i * output.width;
  return n * output.n + i * output.h + j * output.w;
}

}  // namespace detail

// Rows 0, …, rows - 1 of the slab, whose pixels begin at at(row) elements from Y's first one, and Y's outputs
// [output, output + outputs), from the slab's first columns.
template <class T, int Rows, int Threads, class At>
__device__ __forceinline__ void store_slab(const Output& y, const float* slab, int rows, At at_row, int output, int outputs) {
  constexpr int kWide = kPerSixteen<T>, kFour = 4;
  T* data = static_cast<T*>(y.data) + output * y.c;
  const T* bias = static_cast<const T*>(y.bias) + output * y.bias_stride;
  if (y.vectors && output % kWide == 0) {
    for (int task = static_cast<int>(threadIdx.x); task < rows * (kSlabColumns / kWide); task += Threads) {
      const int r = task / (kSlabColumns / kWide), first = task % (kSlabColumns / kWide) * kWide;
      if (first >= outputs) continue;
      const float* sums = slab + r * kSlabPitch + first;
      T* at = data + at_row(r) + first;
      float values[kWide];
#pragma unroll
      for (int i = 0; i < kWide; ++i)
        if (first + i < outputs)
          values[i] = detail::finish(sums[i], to_float(bias[(first + i) * y.bias_stride]), y.relu);
        else
          values[i] = 0.0f;
      if (first + kWide <= outputs) {
        store_sixteen(at, pack<T>(values));
      } else {
#pragma unroll
        for (int i = 0; i < kWide; ++i)
          if (first + i < outputs) at[i] = from_float<T>(values[i]);
      }
    }
    return;
  }
  for (int task = static_cast<int>(threadIdx.x); task < Rows * (kSlabColumns / kFour); task += Threads) {
    const int r = task % Rows, first = task / Rows * kFour;
    if (r >= rows || first >= outputs) continue;
    const float4 four = *reinterpret_cast<const float4*>(slab + r * kSlabPitch + first);
    const float sums[kFour] = {four.x, four.y, four.z, four.w};
    T* at = data + at_row(r) + first * y.c;
#pragma unroll
    for (int i = 0; i < kFour; ++i)
      if (first + i < outputs)
        at[i * y.c] =
            from_float<T>(detail::finish(sums[i], to_float(bias[(first + i) * y.bias_stride]), y.relu));
  }
}

// The same of pixels row, row + 1, … of Y, as far as there are any.
template <class T, int Rows, int Threads>
__device__ __forceinline__ void store_slab(const Output& y, const float* slab, int row, int output, int outputs) {
  store_slab<T, Rows, Threads>(
      y, slab, min(Rows, y.rows - row), [&](int r) { return detail::pixel_of(y, row + r); }, output, outputs);
}

}  // namespace dyndeploy::cuda

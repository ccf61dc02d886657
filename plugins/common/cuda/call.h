// What the host side of every operator's CUDA kernels does alike: checks of resources, sizes, strides, maps of outputs.
#pragma once

#include <cstdlib>

#include "common/cuda/channels_last.cuh"
#include "common/cuda/output.cuh"
#include "common/problem.h"
#include "common/cuda/windows.cuh"

namespace dyndeploy::cuda {

// Of what kernels count in 32 bits, with room for a tile.
inline constexpr int64_t kMostCount = (int64_t{1} << 31) - 1024;
// Of coordinates, so that sums of a few stay in 32 bits.
inline constexpr int64_t kMostCoordinate = int64_t{1} << 29;
// Multiprocessors to keep busy, by which tiles are chosen: those of an H100 or H200. Nothing but time depends on it.
inline constexpr int64_t kMultiprocessors = 132;

inline int64_t divide_up(int64_t n, int64_t size) { return (n + size - 1) / size; }
inline int64_t round_up(int64_t n, int64_t multiple) { return divide_up(n, multiple) * multiple; }

// Elements of a vector of sixteen bytes.
inline int64_t wide(int32_t dtype) { return dtype == DYNDEPLOY_FLOAT32 ? 4 : 8; }

// A stride of a dim of one element may be anything.
inline int64_t stride_of(const dyndeploy_tensor& tensor, int axis) {
  return tensor.extents[axis] > 1 ? tensor.strides[axis] : 0;
}

inline dyndeploy_status too_large(const char* op, const char* what) {
  return unsupported("%s: too large for the CUDA kernels, which count %s in 32 bits", op, what);
}

// Coordinates of the window fit 32 bits.
inline dyndeploy_status check_window(const char* op, const Window& window) {
  const int64_t down = (window.Ho - 1) * window.stride_h + (window.kh - 1) * window.dilation_h;
  const int64_t right = (window.Wo - 1) * window.stride_w + (window.kw - 1) * window.dilation_w;
  for (const int64_t coordinate : {window.H, window.W, window.top, window.left, down, right})
    if (coordinate > kMostCoordinate) return too_large(op, "coordinates");
  return DYNDEPLOY_OK;
}

inline dyndeploy_status check_resources(const char* op, const dyndeploy_cuda_resources* resources) {
  if (!resources) return bad_argument("%s: resources is NULL", op);
  if (resources->size != sizeof(dyndeploy_cuda_resources))
    return bad_argument("%s: resources has %llu bytes, this library knows %zu", op,
                        static_cast<unsigned long long>(resources->size), sizeof(dyndeploy_cuda_resources));
  return check_range(op, "resources.tf32", resources->tf32, 0, 1);
}

// Weights as a pack function wrote them: `needed` bytes. What is in them cannot be read here.
inline dyndeploy_status check_packed(const char* op, const void* packed, uint64_t bytes, uint64_t needed) {
  if (!packed || reinterpret_cast<uintptr_t>(packed) % sizeof(Sixteen) || bytes != needed)
    return bad_argument("%s: packed weights have %llu bytes, aligned to %zu; given are %llu at %p", op,
                        static_cast<unsigned long long>(needed), sizeof(Sixteen), static_cast<unsigned long long>(bytes),
                        packed);
  return DYNDEPLOY_OK;
}

// A line of dyndeploy_<op>_cuda_kernels.
template <class... Parameters>
dyndeploy_cuda_kernel kernel_entry(const char* name, void (*kernel)(Parameters...), int threads, size_t shared_bytes,
                                   int blocks = 1) {
  return {name, reinterpret_cast<const void*>(kernel), threads, static_cast<int32_t>(shared_bytes), blocks};
}

// Whether a map is channels last with pixels that begin at multiples of sixteen bytes.
inline bool has_vectors(const dyndeploy_tensor& map) {
  if (!channels_last(map) || reinterpret_cast<uintptr_t>(map.data) % sizeof(Sixteen)) return false;
  for (const int axis : {0, 2, 3})
    if (stride_of(map, axis) % wide(map.dtype)) return false;
  return true;
}

// Bring X channels last. `units`: of a pixel's channels, see channels_last.cuh; `vectors`: of all of them; `interleaved`:
// channels in sequence belong to units in sequence. A template, so that its kernels are compiled only where it is called.
template <class = void>
dyndeploy_status launch_channels_last(const char* name, const dyndeploy_tensor& X, int64_t unit_channels,
                                      int64_t unit_vectors, int64_t vectors, Sixteen* rows, cudaStream_t stream,
                                      bool interleaved = false) {
  const int64_t pixels = X.extents[2] * X.extents[3], tiles = divide_up(pixels, kCopyPixels);
  const int64_t channel = stride_of(X, 1), units = unit_vectors > 0 ? vectors / unit_vectors : 1;
  const ChannelsLast copy{.x = X.data,
                          .n = stride_of(X, 0),
                          .c = interleaved ? units * channel : channel,
                          .h = stride_of(X, 2),
                          .w = stride_of(X, 3),
                          .unit = interleaved ? channel : unit_channels * channel,
                          .pixels = static_cast<int>(pixels),
                          .width = static_cast<int>(X.extents[3]),
                          .unit_channels = static_cast<int>(unit_channels),
                          .unit_vectors = static_cast<int>(unit_vectors),
                          .vectors = static_cast<int>(vectors),
                          .pixel_tiles = static_cast<int>(tiles),
                          .rows = rows};
  const int64_t blocks = X.extents[0] * tiles * divide_up(vectors, kCopyVectors);
  return with_type(X.dtype, [&](auto type) {
    using T = decltype(type);
    const Launch how{.name = name,
                     .blocks = dim3(static_cast<unsigned>(blocks)),
                     .threads = kCopyThreads,
                     .shared_bytes = sizeof(CopyShared<T>),
                     .stream = stream};
    return launch(how, copy_channels_last<T>, copy);
  });
}

// Windows on a dense copy of a map, [sample][H][W][vectors].
inline WindowMap window_map(const Window& window, int64_t vectors) {
  return {.n = window.H * window.W * vectors,
          .row_h = static_cast<int>(window.W * vectors),
          .row_w = static_cast<int>(vectors),
          .H = static_cast<int>(window.H),
          .W = static_cast<int>(window.W),
          .kw = static_cast<int>(window.kw),
          .stride_h = window.Ho > 1 ? static_cast<int>(window.stride_h) : 0,
          .stride_w = window.Wo > 1 ? static_cast<int>(window.stride_w) : 0,
          .top = static_cast<int>(window.top),
          .left = static_cast<int>(window.left),
          .dilation_h = window.kh > 1 ? static_cast<int>(window.dilation_h) : 0,
          .dilation_w = window.kw > 1 ? static_cast<int>(window.dilation_w) : 0};
}

// Y, with all its samples in one sequence of pixels.
inline Output output_of(const dyndeploy_tensor& Y, const dyndeploy_tensor& B, bool relu) {
  return {.data = Y.data,
          .n = stride_of(Y, 0),
          .c = stride_of(Y, 1),
          .h = stride_of(Y, 2),
          .w = stride_of(Y, 3),
          .pixels = static_cast<int>(Y.extents[2] * Y.extents[3]),
          .width = static_cast<int>(Y.extents[3]),
          .rows = static_cast<int>(Y.extents[0] * Y.extents[2] * Y.extents[3]),
          .vectors = has_vectors(Y) && Y.extents[1] > 1,
          .relu = relu,
          .bias = B.data,
          .bias_stride = stride_of(B, 0)};
}

}  // namespace dyndeploy::cuda

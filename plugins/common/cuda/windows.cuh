// Rows of a product (gemm.cuh) that are windows of a map, channels last: the columns of a convolution, which are never
// written anywhere.
//
//   depth   tap by tap, the channels of each in stages of four vectors of sixteen bytes; the last one of a tap may be empty
//           in part
//   load    a thread has one vector of depth of some pixels; what lies beside the map is not read and counts 0
#pragma once

#include "common/cuda/gemm.cuh"

namespace dyndeploy::cuda {

struct WindowMap {
  int64_t n;         // stride of samples, in vectors
  int row_h, row_w;  // in vectors
  int H, W;
  int kw, stride_h, stride_w, top, left, dilation_h, dilation_w;
};

template <class T, class Tile>
class Windows {
 public:
  // `x`: of the sample. `vectors`: of a pixel's channels. pixel(row of the tile, i, j) says which output pixel it is, and
  // whether there is one.
  template <class Pixel>
  __device__ __forceinline__ Windows(const WindowMap& map, const Sixteen* x, int vectors, Pixel pixel)
      : map_(map), x_(x), vectors_(vectors), vector_(place()) {
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      int i = 0, j = 0;
      const bool there = pixel(row_of(task), i, j);
      h_[task] = there ? i * map.stride_h - map.top : kOutside;
      v_[task] = j * map.stride_w - map.left;
    }
  }

  static __device__ __forceinline__ int stages_of_tap(int vectors) {
    return (vectors + kStageVectors - 1) / kStageVectors;
  }

  __device__ __forceinline__ void load() {
    const int down = tap_ / map_.kw, right = tap_ - down * map_.kw;
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      const int h = h_[task] + down * map_.dilation_h, v = v_[task] + right * map_.dilation_w;
      loaded_[task] = Sixteen{};
      if (vector_ < vectors_ && h >= 0 && h < map_.H && v >= 0 && v < map_.W)
        loaded_[task] = load_sixteen(x_ + h * map_.row_h + v * map_.row_w + vector_);
    }
    vector_ += kStageVectors;
    if (vector_ - place() >= vectors_) {
      vector_ = place();
      ++tap_;
    }
  }

  __device__ __forceinline__ void store(Sixteen* a) const {
#pragma unroll
    for (int task = 0; task < kTasks; ++task) a[cuda::place(row_of(task), place())] = loaded_[task];
  }

 private:
  static constexpr int kOutside = -(1 << 30);
  static constexpr int kPixelsAtOnce = Tile::kThreads / kStageVectors;
  static constexpr int kTasks = Tile::kRows / kPixelsAtOnce;
  static_assert(kTasks * kPixelsAtOnce == Tile::kRows);

  static __device__ __forceinline__ int place() { return static_cast<int>(threadIdx.x) % kStageVectors; }
  static __device__ __forceinline__ int row_of(int task) {
    return static_cast<int>(threadIdx.x) / kStageVectors + task * kPixelsAtOnce;
  }

  const WindowMap& map_;
  const Sixteen* x_;
  const int vectors_;
  int tap_ = 0, vector_;
  int h_[kTasks], v_[kTasks];
  Sixteen loaded_[kTasks];
};

}  // namespace dyndeploy::cuda

// The rows of the product: what a deformable convolution samples for a tile of output pixels, stage by stage of depth.
//
//   locate   per (pixel of the tile, tap of the block of taps), for one offset group: reads offset_mask, and keeps in shared
//            memory where the four neighbours lie, how far the point is behind the first one, and the mask
//   load     a thread has one vector of depth (tap, channels) of some pixels: up to four loads of sixteen bytes each
//   store    the weighted sum of the four in float, rounded once to the storage type, goes to the stage
//
// Cost per stage and pixel: four times 64 bytes of X, from the first cache where points of neighbouring pixels lie close
// together, and 4 x 137 instructions of a lane: of a vector of halves 68 are its arithmetic (32 conversions, 32
// multiply-adds, 4 packings), the rest addresses, weights and the copies of zeros (counted in sm_90 code).
#pragma once

#include "dcnv2/depth.cuh"
#include "dcnv2/points.cuh"

namespace dyndeploy::dcnv2 {

template <class Tile>
struct SamplerShared {
  Point points[kBlockTaps * Tile::kRows];
  Pixel pixels[Tile::kRows];
};

// Rows of multiply() in gemm.cuh.
template <class T, class Tile>
class Sampler {
 public:
  // For rows `row`, … of the product of `group`, from `stage` on.
  __device__ __forceinline__ Sampler(const Sampling& sampling, const DepthOrder& order, SamplerShared<Tile>& shared,
                                     int row, int group, int stage)
      : s_(sampling), order_(order), shared_(shared), group_(group), position_(order, stage, place()) {
    for (int r = static_cast<int>(threadIdx.x); r < Tile::kRows; r += Tile::kThreads)
      shared_.pixels[r] = pixel_at(s_, row + r);
    __syncthreads();
  }

  __device__ __forceinline__ void load() {
    if (begins_) {
      locate();
      __syncthreads();
      begins_ = false;
    }
    const bool exists = position_.vector < order_.unit_vectors;
    const int channels = (group_ * order_.units + position_.unit) * order_.unit_vectors + position_.vector;
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      load_neighbours(s_, shared_.points[point_of(task)], channels, exists, neighbours_[task]);
    }
  }

  __device__ __forceinline__ void store(cuda::Sixteen* a) {
    const bool exists = position_.vector < order_.unit_vectors;
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      const Point point = shared_.points[point_of(task)];
      a[cuda::place(row_of(task), place())] = interpolate<T>(point, neighbours_[task], exists);
    }
    begins_ = position_.advance(order_, place());
  }

 private:
  static constexpr int kPixelsAtOnce = Tile::kThreads / cuda::kStageVectors;
  static constexpr int kTasks = Tile::kRows / kPixelsAtOnce;
  static_assert(kTasks * kPixelsAtOnce == Tile::kRows);

  static __device__ __forceinline__ int place() { return static_cast<int>(threadIdx.x) % cuda::kStageVectors; }
  static __device__ __forceinline__ int row_of(int task) {
    return static_cast<int>(threadIdx.x) / cuda::kStageVectors + task * kPixelsAtOnce;
  }
  __device__ __forceinline__ int point_of(int task) const { return position_.tap * Tile::kRows + row_of(task); }

  // The points of the position's block of taps. Of the block before, all threads have stored the last stage: a barrier of
  // multiply() is between.
  __device__ __forceinline__ void locate() {
    const int unit = group_ * order_.units + position_.unit;
    dcnv2::locate<T, Tile::kThreads>(s_, shared_.pixels, Tile::kRows, unit / s_.units_of_offset_group * order_.taps,
                                     position_.block * order_.block_taps, position_.taps, shared_.points);
  }

  const Sampling& s_;
  const DepthOrder& order_;
  SamplerShared<Tile>& shared_;
  const int group_;
  DepthPosition position_;
  bool begins_ = true;
  cuda::Sixteen neighbours_[kTasks][4];
};

}  // namespace dyndeploy::dcnv2

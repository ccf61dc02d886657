// W [O, C/group, kh, kw], any strides, in the order of depth: [group][stage][columns][kStageVectors], which is what
// PackedColumns in gemm.cuh reads. Only moves data: W is read once and written once.
#pragma once

#include "dcnv2/depth.cuh"

namespace dyndeploy::dcnv2 {

struct Packing {
  DepthOrder order;
  const void* weights;
  int64_t o, c, h, w;  // strides in elements
  int kw;
  int outputs, columns;  // of a group; padded
  int unit_channels;
  int groups;
  cuda::Sixteen* packed;
};

inline constexpr int kPackThreads = 256;

// A thread packs one vector. A block's threads read all taps and channels of few outputs, which lie together in W.
template <class T>
__global__ void __launch_bounds__(kPackThreads) pack_weights(const Packing p) {
  constexpr int kWide = cuda::kPerSixteen<T>;
  const int64_t stages = p.order.stages(), of_column = stages * cuda::kStageVectors;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPackThreads + static_cast<int>(threadIdx.x);
  if (index >= p.groups * p.columns * of_column) return;
  const int group = static_cast<int>(index / of_column / p.columns);
  const int column = static_cast<int>(index / of_column - static_cast<int64_t>(group) * p.columns);
  const int of_all = static_cast<int>(index % of_column);
  const int stage = of_all / cuda::kStageVectors, place = of_all % cuda::kStageVectors;
  const DepthPosition at(p.order, stage, place);
  const int tap = at.block * p.order.block_taps + at.tap;
  const T* from = static_cast<const T*>(p.weights) + (static_cast<int64_t>(group) * p.outputs + column) * p.o +
                  tap / p.kw * p.h + tap % p.kw * p.w;
  float values[kWide];
#pragma unroll
  for (int i = 0; i < kWide; ++i) {
    const int channel = at.vector * kWide + i;  // of the unit
    values[i] = 0.0f;
    if (column < p.outputs && at.vector < p.order.unit_vectors && channel < p.unit_channels)
      values[i] = cuda::to_float(from[(static_cast<int64_t>(at.unit) * p.unit_channels + channel) * p.c]);
  }
  p.packed[((group * stages + stage) * p.columns) * cuda::kStageVectors + cuda::place(column, place)] =
      cuda::pack<T>(values);
}

}  // namespace dyndeploy::dcnv2

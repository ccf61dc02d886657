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

// --- for the gradients of what W is multiplied with: outputs as depth, [unit][stage][columns][kStageVectors]

struct OutputPacking {
  const void* weights;
  int64_t o, c, h, w;  // strides in elements
  int kw, taps, tap_columns;
  int outputs, stages;  // of a group
  int units, units_of_group, unit_channels;
  cuda::Sixteen* packed;
};

// A thread packs one vector: some outputs of a tap and channel. Neighbouring threads have neighbouring channels.
template <class T>
__global__ void __launch_bounds__(kPackThreads) pack_outputs(const OutputPacking p) {
  constexpr int kWide = cuda::kPerSixteen<T>;
  const int columns = p.taps * p.tap_columns;
  int64_t index = static_cast<int64_t>(blockIdx.x) * kPackThreads + static_cast<int>(threadIdx.x);
  const int64_t stage = index / columns / cuda::kStageVectors;  // of all units
  if (stage >= static_cast<int64_t>(p.units) * p.stages) return;
  index -= stage * columns * cuda::kStageVectors;
  const int vector = static_cast<int>(index / columns), column = static_cast<int>(index % columns);
  const int unit = static_cast<int>(stage / p.stages), group = unit / p.units_of_group;
  const int first = (static_cast<int>(stage % p.stages) * cuda::kStageVectors + vector) * kWide;  // output
  const int tap = column / p.tap_columns, channel = column - tap * p.tap_columns;
  const int64_t of_group = static_cast<int64_t>(unit - group * p.units_of_group) * p.unit_channels + channel;
  const T* from = static_cast<const T*>(p.weights) + (static_cast<int64_t>(group) * p.outputs + first) * p.o +
                  of_group * p.c + tap / p.kw * p.h + tap % p.kw * p.w;
  float values[kWide];
#pragma unroll
  for (int i = 0; i < kWide; ++i) {
    values[i] = 0.0f;
    if (channel < p.unit_channels && first + i < p.outputs) values[i] = cuda::to_float(from[i * p.o]);
  }
  p.packed[stage * columns * cuda::kStageVectors + cuda::place(column, vector)] = cuda::pack<T>(values);
}

}  // namespace dyndeploy::dcnv2

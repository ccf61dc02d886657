// The order in which a sum of the product runs through taps and channels: in the packed weights, and in the sampler.
//
//   unit    channels that lie in one group and in one offset group, padded to whole vectors of sixteen bytes
//   block   of taps, kBlockTaps at most: what the sampler locates at a time
//   chunk   1, 2 or 4 vectors of channels
//
//   for unit of the group: for block of taps: for chunk of the unit: for tap of the block: for vector of the chunk
//
// Taps run inside of chunks, because around a tile the pixels that one tap reads are those that the next one reads: they
// are still in the first cache. Four vectors in sequence are a stage; what a block leaves of its last one stays empty.
#pragma once

#include "common/cuda/gemm.cuh"

namespace dyndeploy::dcnv2 {

inline constexpr int kBlockTaps = 9;

struct DepthOrder {
  int taps, block_taps, blocks;
  int units;         // of a group
  int unit_vectors;  // of channels
  int chunk_shift;   // a chunk has 1 << chunk_shift vectors
  int block_stages, last_block_stages;

  __host__ __device__ int unit_stages() const { return (blocks - 1) * block_stages + last_block_stages; }
  __host__ __device__ int stages() const { return units * unit_stages(); }
};

// A vector of depth: of those that have the same place in their stages.
struct DepthPosition {
  int unit, block, stage;  // stage of the block
  int taps;                // of the block
  int tap;                 // of those
  int vector;              // of the unit's channels; from unit_vectors on: nothing

  // Vector `place` of stage `of_all` of a group.
  __device__ __forceinline__ DepthPosition(const DepthOrder& order, int of_all, int place) {
    unit = of_all / order.unit_stages();
    stage = of_all - unit * order.unit_stages();
    block = min(stage / order.block_stages, order.blocks - 1);
    stage -= block * order.block_stages;
    begin_block(order, place);
  }

  // The same vector of the next stage. Whether that is the first one of a block.
  __device__ __forceinline__ bool advance(const DepthOrder& order, int place) {
    ++stage;
    const int end = block == order.blocks - 1 ? order.last_block_stages : order.block_stages;
    if (stage == end) {
      stage = 0;
      if (++block == order.blocks) {
        block = 0;
        ++unit;
      }
      begin_block(order, place);
      return true;
    }
    tap += cuda::kStageVectors >> order.chunk_shift;
    while (tap >= taps) {
      tap -= taps;
      vector += 1 << order.chunk_shift;
    }
    return false;
  }

 private:
  __device__ __forceinline__ void begin_block(const DepthOrder& order, int place) {
    taps = min(order.block_taps, order.taps - block * order.block_taps);
    const int of_block = stage * cuda::kStageVectors + place, piece = of_block >> order.chunk_shift;
    const int chunk = piece / taps;
    tap = piece - chunk * taps;
    vector = (chunk << order.chunk_shift) + (of_block & ((1 << order.chunk_shift) - 1));
  }
};

}  // namespace dyndeploy::dcnv2

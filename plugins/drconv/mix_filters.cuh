// Filters of some samples, mixed of banks: filters[n, t] = sum over j of share[n, t, j] * banks[j], in float, rounded once.
//
//   a thread   one vector of sixteen bytes of every bank, and of the filters of kMixPairs (sample, region): a number of a bank
//              is read and widened once for all of them
//
// In the order in which the product reads them (convolve.cuh), so that they need no rearranging.
// Cost per number of a filter: `bases` multiply-adds; bases / kMixPairs numbers read, from the second cache, and one written.
#pragma once

#include "drconv/convolve.cuh"

namespace dyndeploy::drconv {

inline constexpr int kMixThreads = 128, kMixPairs = 8, kMixBases = 32;

struct Mixing {
  Filters banks;       // in the place of the region: the base
  int column_vectors;  // of a column, of which the next one begins banks.column vectors later
  int vectors;         // of a bank
  int vector_tiles, pair_tiles;
  int bases, regions, pairs;
  const void* share;
  int64_t n, t, j;     // strides in elements
  cuda::Sixteen* mixed;  // [pair][vectors]
};

struct MixShared {
  float share[kMixPairs][kMixBases];
};

// Blocks: [vectors][pairs], so that blocks side by side read the same numbers of banks.
template <class T>
__global__ void __launch_bounds__(kMixThreads) mix_filters(const Mixing p) {
  constexpr int kWide = cuda::kPerSixteen<T>;
  auto& shared = cuda::shared_memory<MixShared>();
  const int tid = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const int first_pair = block % p.pair_tiles * kMixPairs, vector = block / p.pair_tiles * kMixThreads + tid;
  const int column = vector / p.column_vectors;
  const cuda::Sixteen* bank =
      p.banks.data + static_cast<int64_t>(column) * p.banks.column + (vector - column * p.column_vectors);
  float sums[kMixPairs][kWide];
#pragma unroll
  for (int r = 0; r < kMixPairs; ++r)
#pragma unroll
    for (int i = 0; i < kWide; ++i) sums[r][i] = 0.0f;

  for (int first = 0; first < p.bases; first += kMixBases) {
    __syncthreads();
    for (int i = tid; i < kMixPairs * kMixBases; i += kMixThreads) {
      const int r = i / kMixBases, base = first + i % kMixBases, pair = first_pair + r;
      float share = 0.0f;
      if (pair < p.pairs && base < p.bases) {
        const int n = pair / p.regions;
        share = cuda::to_float(static_cast<const T*>(p.share)[n * p.n + (pair - n * p.regions) * p.t + base * p.j]);
      }
      shared.share[r][i % kMixBases] = share;
    }
    __syncthreads();
    if (vector >= p.vectors) continue;
    const int some = min(p.bases - first, kMixBases);
#pragma unroll 2
    for (int j = 0; j < some; ++j) {
      float values[kWide];
      cuda::unpack<T>(cuda::load_sixteen(bank + (first + j) * p.banks.region), values);
#pragma unroll
      for (int r = 0; r < kMixPairs; ++r)
#pragma unroll
        for (int i = 0; i < kWide; ++i) sums[r][i] = fmaf(shared.share[r][j], values[i], sums[r][i]);
    }
  }
  if (vector >= p.vectors) return;
#pragma unroll
  for (int r = 0; r < kMixPairs; ++r)
    if (first_pair + r < p.pairs)
      cuda::store_sixteen(p.mixed + static_cast<int64_t>(first_pair + r) * p.vectors + vector, cuda::pack<T>(sums[r]));
}

}  // namespace dyndeploy::drconv

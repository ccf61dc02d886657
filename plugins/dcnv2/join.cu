// Puts DeformConv's two tensors together. A copy: what is written is read once, sample by sample.
//
//   offset  n: |- 2*G*K*Ho*Wo -|      joined  n: |- 2*G*K*Ho*Wo -|- G*K*Ho*Wo -|
//   mask    n: |- G*K*Ho*Wo -|
//
// Beside X of C channels it moves 6*G*K channels, once before every product.
#include "dcnv2/join.h"

#include "common/cuda/dtype.cuh"
#include "common/problem.h"

namespace dyndeploy::dcnv2 {
namespace {

constexpr int kJoinThreads = 256;

struct Joining {
  const void* offset;
  const void* mask;  // or nullptr
  void* joined;
  void* zero;
  int64_t offsets, masks;  // elements of a sample
  int64_t count;           // of joined
};

// A thread writes one element.
template <class T>
__global__ void __launch_bounds__(kJoinThreads) join(const Joining p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kJoinThreads + static_cast<int>(threadIdx.x);
  if (i == 0) *static_cast<T*>(p.zero) = cuda::from_float<T>(0.0f);
  if (i >= p.count) return;
  const int64_t sample = p.offsets + p.masks, n = i / sample, at = i - n * sample;
  T value = cuda::from_float<T>(1.0f);
  if (at < p.offsets)
    value = static_cast<const T*>(p.offset)[n * p.offsets + at];
  else if (p.mask)
    value = static_cast<const T*>(p.mask)[n * p.masks + at - p.offsets];
  static_cast<T*>(p.joined)[i] = value;
}

}  // namespace

dyndeploy_status join_offset_and_mask(const dyndeploy_tensor& offset, const dyndeploy_tensor* mask,
                                      const dyndeploy_tensor& joined, void* zero, void* stream) {
  const int64_t N = joined.extents[0], count = elements(joined);
  const int64_t offsets = N ? elements(offset) / N : 0;
  const Joining joining{.offset = offset.data,
                        .mask = mask ? mask->data : nullptr,
                        .joined = joined.data,
                        .zero = zero,
                        .offsets = offsets,
                        .masks = N ? count / N - offsets : 0,
                        .count = count};
  const int64_t blocks = (count + kJoinThreads - 1) / kJoinThreads;
  if (blocks >= kMostExtent) return unsupported("dcnv2: offsets and masks have more than 2^39 elements");
  const cuda::Launch how{.name = "dcnv2 join",
                         .blocks = dim3(static_cast<unsigned>(blocks > 0 ? blocks : 1)),
                         .threads = kJoinThreads,
                         .shared_bytes = 0,
                         .stream = static_cast<cudaStream_t>(stream)};
  return cuda::with_type(joined.dtype, [&](auto type) { return cuda::launch(how, join<decltype(type)>, joining); });
}

}  // namespace dyndeploy::dcnv2

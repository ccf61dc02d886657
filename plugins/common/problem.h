// Checks that all operators share, and the arithmetic of a convolution's window: the C++ side of an OpSpec.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>

#include "common/api.h"
#include "common/status.h"

namespace dyndeploy {

// Of a tensor's dim, and of a number in an attribute.
inline constexpr int64_t kMostExtent = int64_t{1} << 31;

// A convolution's window on a map.
struct Window {
  int64_t kh, kw;
  int64_t stride_h, stride_w;
  int64_t top, left;
  int64_t dilation_h, dilation_w;
  int64_t H, W;    // of the map
  int64_t Ho, Wo;  // of the output
  int64_t taps() const { return kh * kw; }
};

// `size` is the first field of an attribute struct.
dyndeploy_status check_struct(const char* op, uint64_t size, uint64_t known);

// `value` of attribute `name` lies in low..high.
dyndeploy_status check_range(const char* op, const char* name, int64_t value, int64_t low, int64_t high);

// Rank, dtype, extents (-1: any) and, for all of them together, sizes that index arithmetic in 64 bits can hold.
dyndeploy_status check_tensor(const char* op, const char* name, const dyndeploy_tensor& tensor, int32_t dtype,
                              std::initializer_list<int64_t> extents);

// A map X or Y, or a gradient of one: its stride along C or along W is 1, so that there is something to vectorise.
dyndeploy_status check_map(const char* op, const char* name, const dyndeploy_tensor& map);

// The answer of a function that counts bytes.
dyndeploy_status answer(const char* op, uint64_t value, uint64_t* bytes);

// Data that is there, aligned to its element, unless the tensor is empty.
dyndeploy_status check_data(const char* op, const char* name, const dyndeploy_tensor& tensor);

// Of Y, or its gradient: (N, C, H, W).
using MapExtents = std::array<int64_t, 4>;

// The answer of dyndeploy_<op>_output.
dyndeploy_status answer(const char* op, const MapExtents& value, int64_t* extents);

// Y, or its gradient: a map that is there, of these extents.
dyndeploy_status check_output(const char* op, const char* name, const dyndeploy_tensor* output, int32_t dtype,
                              const MapExtents& extents);

inline constexpr const char* kGradientOfY = "the gradient of Y";

// Those gradients of the inputs that are wanted, whose data is not NULL: as large as the inputs, that of X (the first)
// a map. The inputs are checked already.
dyndeploy_status check_gradients(const char* op, const char* const (&names)[4], const dyndeploy_tensor* inputs,
                                 const dyndeploy_tensor* gradients);

// Their data.
dyndeploy_status check_gradients_data(const char* op, const char* const (&names)[4], const dyndeploy_tensor* gradients);

// Of an operator that has nothing to pack.
dyndeploy_status check_unpacked(const char* op, const void* packed);

// Ho and Wo by the arithmetic of a convolution. strides[2], pads[4] = top, left, bottom, right; dilations[2].
dyndeploy_status resolve_window(const char* op, const dyndeploy_tensor& X, int64_t kh, int64_t kw, const int64_t* strides,
                                const int64_t* pads, const int64_t* dilations, Window* window);

// The workspace is large enough.
dyndeploy_status check_workspace(const char* op, const void* workspace, uint64_t bytes, uint64_t needed);
// That of a call, on a machine of any kind.
template <class Resources>
dyndeploy_status check_workspace(const char* op, const Resources& resources, uint64_t needed) {
  return check_workspace(op, resources.workspace, resources.workspace_bytes, needed);
}

// Channels last: the stride along C is 1 (or there is one channel).
inline bool channels_last(const dyndeploy_tensor& map) { return map.strides[1] == 1 || map.extents[1] <= 1; }

inline int64_t elements(const dyndeploy_tensor& tensor) {
  int64_t count = 1;
  for (int32_t i = 0; i < tensor.rank; ++i) count *= tensor.extents[i];
  return count;
}

// Cuts a workspace into pieces that begin at cache lines. Without memory (a query) it counts the bytes only.
class Workspace {
 public:
  explicit Workspace(void* memory = nullptr)
      : begin_(reinterpret_cast<uintptr_t>(memory)), next_((begin_ + 63) / 64 * 64) {}

  template <class T>
  T* take(int64_t count) {
    const uintptr_t piece = next_;
    next_ += (static_cast<uintptr_t>(count) * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(piece);
  }

  // 63 more than was taken: the memory may begin anywhere.
  uint64_t bytes() const { return next_ - begin_ + 63; }

 private:
  uintptr_t begin_, next_;
};

}  // namespace dyndeploy

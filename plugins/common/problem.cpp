#include "common/problem.h"

#include <algorithm>

namespace dyndeploy {
namespace {

// Far below the end of int64, so that no sum or product of a few of them overflows.
constexpr int64_t kMostElements = int64_t{1} << 44;

int64_t element_bytes(int32_t dtype) { return dtype == DYNDEPLOY_FLOAT32 ? 4 : 2; }

long long ll(int64_t value) { return value; }

dyndeploy_status check_tensor(const char* op, const char* name, const dyndeploy_tensor& tensor, int32_t dtype,
                              const int64_t* extents, int32_t rank) {
  if (tensor.dtype != DYNDEPLOY_FLOAT32 && tensor.dtype != DYNDEPLOY_FLOAT16 && tensor.dtype != DYNDEPLOY_BFLOAT16)
    return unsupported("%s: %s has element type %d; float32 (%d), float16 (%d) and bfloat16 (%d) are there", op, name,
                       tensor.dtype, DYNDEPLOY_FLOAT32, DYNDEPLOY_FLOAT16, DYNDEPLOY_BFLOAT16);
  if (tensor.dtype != dtype) return bad_argument("%s: %s has another element type than X", op, name);
  if (tensor.rank != rank) return bad_argument("%s: %s has %d dims, not %d", op, name, tensor.rank, rank);
  int64_t count = 1;
  for (int32_t axis = 0; axis < rank; ++axis) {
    const int64_t extent = tensor.extents[axis], expected = extents[axis];
    if (expected >= 0 && extent != expected)
      return bad_argument("%s: dim %d of %s is %lld, not %lld", op, axis, name, ll(extent), ll(expected));
    if (extent < 0 || extent > kMostExtent)
      return bad_argument("%s: dim %d of %s is %lld, outside 0..2^31", op, axis, name, ll(extent));
    if (count > kMostElements / (extent > 0 ? extent : 1))
      return unsupported("%s: %s has more than 2^44 elements", op, name);
    count *= extent > 0 ? extent : 1;
    const int64_t stride = tensor.strides[axis];
    if (extent > 1 && (stride < -kMostElements / extent || stride > kMostElements / extent))
      return unsupported("%s: stride %d of %s reaches further than 2^44 elements", op, axis, name);
  }
  return DYNDEPLOY_OK;
}

}  // namespace

dyndeploy_status check_struct(const char* op, uint64_t size, uint64_t known) {
  if (size != known)
    return bad_argument("%s: the attributes have %llu bytes, this library knows %llu", op,
                        static_cast<unsigned long long>(size), static_cast<unsigned long long>(known));
  return DYNDEPLOY_OK;
}

dyndeploy_status check_range(const char* op, const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    return bad_argument("%s: %s = %lld is outside %lld..%lld", op, name, ll(value), ll(low), ll(high));
  return DYNDEPLOY_OK;
}

dyndeploy_status check_tensor(const char* op, const char* name, const dyndeploy_tensor& tensor, int32_t dtype,
                              std::initializer_list<int64_t> extents) {
  return check_tensor(op, name, tensor, dtype, extents.begin(), static_cast<int32_t>(extents.size()));
}

dyndeploy_status check_map(const char* op, const char* name, const dyndeploy_tensor& map) {
  if (channels_last(map) || map.strides[3] == 1 || map.extents[3] <= 1 || elements(map) == 0) return DYNDEPLOY_OK;
  return unsupported("%s: %s has strides %lld along C and %lld along W; one of them has to be 1", op, name,
                     ll(map.strides[1]), ll(map.strides[3]));
}

dyndeploy_status check_data(const char* op, const char* name, const dyndeploy_tensor& tensor) {
  if (elements(tensor) == 0) return DYNDEPLOY_OK;
  if (!tensor.data) return bad_argument("%s: the data of %s is NULL", op, name);
  if (reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(element_bytes(tensor.dtype)))
    return bad_argument("%s: the data of %s is not aligned to its element", op, name);
  return DYNDEPLOY_OK;
}

dyndeploy_status answer(const char* op, uint64_t value, uint64_t* bytes) {
  if (!bytes) return bad_argument("%s: bytes is NULL", op);
  *bytes = value;
  return DYNDEPLOY_OK;
}

dyndeploy_status answer(const char* op, const MapExtents& value, int64_t* extents) {
  if (!extents) return bad_argument("%s: extents is NULL", op);
  std::copy(value.begin(), value.end(), extents);
  return DYNDEPLOY_OK;
}

dyndeploy_status check_output(const char* op, const char* name, const dyndeploy_tensor* output, int32_t dtype,
                              const MapExtents& extents) {
  if (!output) return bad_argument("%s: %s is NULL", op, name);
  DYNDEPLOY_TRY(check_tensor(op, name, *output, dtype, extents.data(), 4));
  return check_map(op, name, *output);
}

dyndeploy_status check_gradients(const char* op, const char* const (&names)[4], const dyndeploy_tensor* inputs,
                                 const dyndeploy_tensor* gradients) {
  if (!gradients) return bad_argument("%s: gradients is NULL", op);
  for (int i = 0; i < 4; ++i)
    if (gradients[i].data)
      DYNDEPLOY_TRY(check_tensor(op, names[i], gradients[i], inputs[0].dtype, inputs[i].extents, inputs[i].rank));
  return gradients[0].data ? check_map(op, names[0], gradients[0]) : DYNDEPLOY_OK;
}

dyndeploy_status check_gradients_data(const char* op, const char* const (&names)[4],
                                      const dyndeploy_tensor* gradients) {
  for (int i = 0; i < 4; ++i)
    if (gradients[i].data) DYNDEPLOY_TRY(check_data(op, names[i], gradients[i]));
  return DYNDEPLOY_OK;
}

dyndeploy_status check_unpacked(const char* op, const void* packed) {
  return packed ? bad_argument("%s: nothing of it can be packed, but packed is not NULL", op) : DYNDEPLOY_OK;
}

dyndeploy_status resolve_window(const char* op, const dyndeploy_tensor& X, int64_t kh, int64_t kw, const int64_t* strides,
                                const int64_t* pads, const int64_t* dilations, Window* window) {
  DYNDEPLOY_TRY(check_range(op, "kernel height", kh, 1, kMostExtent));
  DYNDEPLOY_TRY(check_range(op, "kernel width", kw, 1, kMostExtent));
  for (int i = 0; i < 2; ++i) {
    DYNDEPLOY_TRY(check_range(op, "strides", strides[i], 1, kMostExtent));
    DYNDEPLOY_TRY(check_range(op, "dilations", dilations[i], 1, kMostExtent));
  }
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_range(op, "pads", pads[i], 0, kMostExtent));
  *window = {.kh = kh,
             .kw = kw,
             .stride_h = strides[0],
             .stride_w = strides[1],
             .top = pads[0],
             .left = pads[1],
             .dilation_h = dilations[0],
             .dilation_w = dilations[1],
             .H = X.extents[2],
             .W = X.extents[3],
             .Ho = 0,
             .Wo = 0};
  const int64_t padded[2] = {window->H + pads[0] + pads[2], window->W + pads[1] + pads[3]};
  const int64_t extent[2] = {dilations[0] * (kh - 1) + 1, dilations[1] * (kw - 1) + 1};
  for (int axis = 0; axis < 2; ++axis)
    if (padded[axis] < extent[axis])
      return bad_argument("%s: the dilated kernel (%lld) is larger than the padded input (%lld) along %c", op,
                          ll(extent[axis]), ll(padded[axis]), "HW"[axis]);
  window->Ho = (padded[0] - extent[0]) / strides[0] + 1;
  window->Wo = (padded[1] - extent[1]) / strides[1] + 1;
  return DYNDEPLOY_OK;
}

dyndeploy_status check_workspace(const char* op, const void* workspace, uint64_t bytes, uint64_t needed) {
  if (bytes < needed)
    return bad_argument("%s: the workspace has %llu bytes, the query says %llu", op,
                        static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(needed));
  if (needed && !workspace) return bad_argument("%s: the workspace is NULL", op);
  return DYNDEPLOY_OK;
}

}  // namespace dyndeploy

// ONNX's own DeformConv has offsets and masks in two tensors, and may leave the masks out; the kernels read one tensor.
#pragma once

#include "common/api.h"

namespace dyndeploy::dcnv2 {

// Writes offset [N, 2*G*K, Ho, Wo] and mask [N, G*K, Ho, Wo], or ones where it is NULL, to joined [N, 3*G*K, Ho, Wo],
// and 0 to the element `zero`. All tensors are dense, of one dtype, in device memory; their extents are right.
dyndeploy_status join_offset_and_mask(const dyndeploy_tensor& offset, const dyndeploy_tensor* mask,
                                      const dyndeploy_tensor& joined, void* zero, void* stream);

}  // namespace dyndeploy::dcnv2

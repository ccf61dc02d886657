/* Dynamic region-aware convolution (DRConv): the C ABI. common/api.h says what holds for all operators.
 *
 * y[n,:,u,v] = b + filters[n, M[n,u,v]] * patch(X[n], u, v),  M[n,u,v] = argmax over t of guide[n,t,u,v]
 * The first of equal logits wins; the first NaN wins over all numbers, as in torch.
 * Chen et al., "Dynamic Region-Aware Convolution", CVPR 2021.
 *
 * inputs: X [N,C,H,W]; filters [N,regions*O,C*K]; guide [N,regions,Ho,Wo]; B [O].   output: Y [N,O,Ho,Wo].
 */
#ifndef DYNDEPLOY_DRCONV_KERNELS_H
#define DYNDEPLOY_DRCONV_KERNELS_H

#include "common/api.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyndeploy_drconv {
  uint64_t size; /* sizeof(dyndeploy_drconv) */
  int64_t kernel_shape[2];
  int64_t strides[2];
  int64_t pads[4];
  int64_t dilations[2];
  int64_t regions;
  int64_t relu;
} dyndeploy_drconv;

/* Extents of Y; checks the attributes and all shapes. Data pointers are not looked at, here and in the queries. */
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_output(const dyndeploy_drconv* attributes, const dyndeploy_tensor inputs[4],
                                                      int64_t extents[4]);

/* Bytes of workspace of a `forward` with these tensors, and these threads. Nothing of this operator
 * can be packed beforehand: `packed` is NULL. */
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cpu_forward_workspace(const dyndeploy_drconv* attributes,
                                                                     const dyndeploy_tensor inputs[4],
                                                                     const dyndeploy_tensor* output,
                                                                     const dyndeploy_resources* resources,
                                                                     uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cpu_forward(const dyndeploy_drconv* attributes,
                                                           const dyndeploy_tensor inputs[4],
                                                           const dyndeploy_tensor* output,
                                                           const dyndeploy_resources* resources);

/* On GPUs. The regions stay there; regions <= 1024. `packed` is NULL. */
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cuda_forward_workspace(const dyndeploy_drconv* attributes,
                                                                     const dyndeploy_tensor inputs[4],
                                                                     const dyndeploy_tensor* output,
                                                                     const dyndeploy_cuda_resources* resources,
                                                                     uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cuda_forward(const dyndeploy_drconv* attributes,
                                                           const dyndeploy_tensor inputs[4],
                                                           const dyndeploy_tensor* output,
                                                           const dyndeploy_cuda_resources* resources);

/* All kernels, and how they are launched; returns their number. */
DYNDEPLOY_API int32_t dyndeploy_drconv_cuda_kernels(const dyndeploy_cuda_kernel** kernels);

#ifdef __cplusplus
}
#endif

#endif

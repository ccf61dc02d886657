/* Decoupled dynamic filter (DDF, DDF-Up): the C ABI. common/api.h says what holds for all operators.
 *
 * y[n, c, s*i + r/s, s*j + r%s] = sum over taps t of D[n,r,c,t,i,j] * X[n,c,h,v],  r = 0..s*s-1 the sub-pixel
 * D = channel[n,r,c,t] * spatial[n,r,g,t,i,j], or their sum (combine = 1), with head g = c / (C/heads);
 * channel = FN(channel_filter) * channel_gain, spatial = FN(spatial_filter) * spatial_gain;
 * FN(D) = (D - mean) / (std + 1e-10) over the K taps, std unbiased, or D without filter_norm.
 * Zhou et al., "Decoupled Dynamic Filter Networks", CVPR 2021, eq. 2 and 3; DDF-Up is section 3.4.
 *
 * inputs: X [N,C,H,W]; channel_filter [N,s*s*C*K]; spatial_filter [N,s*s*heads*K,Ho,Wo]; channel_gain [s*s*C*K].
 * output: Y [N,C,s*Ho,s*Wo].
 */
#ifndef DYNDEPLOY_DDF_KERNELS_H
#define DYNDEPLOY_DDF_KERNELS_H

#include "common/api.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyndeploy_ddf {
  uint64_t size; /* sizeof(dyndeploy_ddf) */
  int64_t kernel_shape[2];
  int64_t strides[2];
  int64_t pads[4];
  int64_t dilations[2];
  int64_t heads;
  int64_t scale;
  int64_t combine;
  int64_t filter_norm;
  float spatial_gain;
  int64_t relu;
} dyndeploy_ddf;

/* Extents of Y; checks the attributes and all shapes. Data pointers are not looked at, here and in the queries. */
DYNDEPLOY_API dyndeploy_status dyndeploy_ddf_output(const dyndeploy_ddf* attributes, const dyndeploy_tensor inputs[4],
                                                      int64_t extents[4]);

/* Bytes of workspace of a `forward` with these tensors, and these threads. Nothing of this operator
 * can be packed beforehand: `packed` is NULL. */
DYNDEPLOY_API dyndeploy_status dyndeploy_ddf_cpu_forward_workspace(const dyndeploy_ddf* attributes,
                                                                     const dyndeploy_tensor inputs[4],
                                                                     const dyndeploy_tensor* output,
                                                                     const dyndeploy_resources* resources,
                                                                     uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_ddf_cpu_forward(const dyndeploy_ddf* attributes,
                                                           const dyndeploy_tensor inputs[4],
                                                           const dyndeploy_tensor* output,
                                                           const dyndeploy_resources* resources);

/* Gradients of the inputs from `gradient`, that of Y before the ReLU. One whose data is NULL is not computed. */
DYNDEPLOY_API dyndeploy_status dyndeploy_ddf_cpu_backward_workspace(const dyndeploy_ddf* attributes,
                                                                      const dyndeploy_tensor* gradient,
                                                                      const dyndeploy_tensor inputs[4],
                                                                      const dyndeploy_tensor gradients[4],
                                                                      const dyndeploy_resources* resources,
                                                                      uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_ddf_cpu_backward(const dyndeploy_ddf* attributes,
                                                            const dyndeploy_tensor* gradient,
                                                            const dyndeploy_tensor inputs[4],
                                                            const dyndeploy_tensor gradients[4],
                                                            const dyndeploy_resources* resources);

#ifdef __cplusplus
}
#endif

#endif

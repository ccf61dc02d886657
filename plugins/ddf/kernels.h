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

/* --- on GPUs (libdyndeploy_cuda): tensors and workspace lie in device memory */

/* Bytes of workspace of a `forward` with these tensors: the channel filters in float, so that nothing matters but N, C
 * and the attributes. Nothing of this operator can be packed beforehand, and there are no products for `tf32`. */
DYNDEPLOY_API dyndeploy_status dyndeploy_ddf_cuda_forward_workspace(const dyndeploy_ddf* attributes,
                                                                      const dyndeploy_tensor inputs[4],
                                                                      const dyndeploy_tensor* output,
                                                                      const dyndeploy_cuda_resources* resources,
                                                                      uint64_t* bytes);
/* In any layout. Fastest with a 3 x 3 kernel, strides and dilations of 1, and X and Y channels last, with 16-byte aligned
 * pixels and whole vectors of 16 bytes of channels in each head, or with dense rows. */
DYNDEPLOY_API dyndeploy_status dyndeploy_ddf_cuda_forward(const dyndeploy_ddf* attributes,
                                                            const dyndeploy_tensor inputs[4],
                                                            const dyndeploy_tensor* output,
                                                            const dyndeploy_cuda_resources* resources);

/* Gradients as dyndeploy_ddf_cpu_backward computes them, in any layout; sums have one order, so that two runs give the same
 * bits. Bytes of workspace: the filters and what is summed up of their gradients, in float, of as many samples at a time as
 * fit 64 MiB each, but one always. */
DYNDEPLOY_API dyndeploy_status dyndeploy_ddf_cuda_backward_workspace(const dyndeploy_ddf* attributes,
                                                                     const dyndeploy_tensor* gradient,
                                                                     const dyndeploy_tensor inputs[4],
                                                                     const dyndeploy_tensor gradients[4],
                                                                     const dyndeploy_cuda_resources* resources,
                                                                     uint64_t* bytes);
/* Fastest with X, its gradient and that of Y channels last, with 16-byte aligned pixels and whole vectors of 16 bytes of
 * channels in each head, or with dense rows. */
DYNDEPLOY_API dyndeploy_status dyndeploy_ddf_cuda_backward(const dyndeploy_ddf* attributes,
                                                           const dyndeploy_tensor* gradient,
                                                           const dyndeploy_tensor inputs[4],
                                                           const dyndeploy_tensor gradients[4],
                                                           const dyndeploy_cuda_resources* resources);

/* Choose otherwise from now on, for tests and measurements. `kernel`: of the forward: 0 what is fastest, 1 not the one for dense
 * rows, 2 not the one for channels last, 3 the general one; one that cannot do a call is passed over. `blocks`: how many
 * there are to be before tiles are as large as they can be; `samples`: how many at a time the backward works on, at most;
 * 0: the default. Not to be called while others call. */
DYNDEPLOY_API dyndeploy_status dyndeploy_ddf_cuda_use(int32_t kernel, int32_t blocks, int32_t samples);

/* All kernels of this operator, for reports and tests, and how many there are. */
DYNDEPLOY_API int32_t dyndeploy_ddf_cuda_kernels(const dyndeploy_cuda_kernel** kernels);

#ifdef __cplusplus
}
#endif

#endif

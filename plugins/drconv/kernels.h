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

/* Gradients of the inputs from `gradient`, that of Y before the ReLU. One whose data is NULL is not computed.
 *
 * X and filters learn through the chosen region. The guide learns as if Y were the sum over the regions of share[t] * (what
 * region t would give), share = softmax of the guide: that takes the products of all regions at every pixel, `regions` times
 * a convolution. */
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cpu_backward_workspace(const dyndeploy_drconv* attributes,
                                                                      const dyndeploy_tensor* gradient,
                                                                      const dyndeploy_tensor inputs[4],
                                                                      const dyndeploy_tensor gradients[4],
                                                                      const dyndeploy_resources* resources,
                                                                      uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cpu_backward(const dyndeploy_drconv* attributes,
                                                            const dyndeploy_tensor* gradient,
                                                            const dyndeploy_tensor inputs[4],
                                                            const dyndeploy_tensor gradients[4],
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

/* Gradients as on CPUs, the same bits in every run. The workspace has room for copies of X, filters and the gradient of Y, for
 * the columns of X's gradient (C * kernel pixels floats per pixel of Y; of some samples at a time), and for a number per
 * region and pixel where the guide's gradient is wanted. */
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cuda_backward_workspace(const dyndeploy_drconv* attributes,
                                                                       const dyndeploy_tensor* gradient,
                                                                       const dyndeploy_tensor inputs[4],
                                                                       const dyndeploy_tensor gradients[4],
                                                                       const dyndeploy_cuda_resources* resources,
                                                                       uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cuda_backward(const dyndeploy_drconv* attributes,
                                                             const dyndeploy_tensor* gradient,
                                                             const dyndeploy_tensor inputs[4],
                                                             const dyndeploy_tensor gradients[4],
                                                             const dyndeploy_cuda_resources* resources);

/* Of gradients from now on, for tests and comparisons: tiles of so many rows, 64 or 128 (exact float32 has 64), parts of a
 * region with so many pixels, and at most so many samples at a time; 0: what the rules choose. The workspace depends on it. */
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cuda_use_backward(int32_t tile, int32_t part_pixels, int32_t samples);

/* The forward with filters that are mixed of banks in the call, and never stored for more than one sample:
 *
 * filters[n,t] = sum over j of share[n,t,j] * banks[j]
 *
 * inputs: X [N,C,H,W]; share [N,regions,bases]; banks [bases*O,C*K]; guide [N,regions,Ho,Wo]; B [O].   output: Y as above.
 */
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_output_mix(const dyndeploy_drconv* attributes,
                                                          const dyndeploy_tensor inputs[5], int64_t extents[4]);

/* Mixed in float32, without a rounding. */
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cpu_forward_mix_workspace(const dyndeploy_drconv* attributes,
                                                                         const dyndeploy_tensor inputs[5],
                                                                         const dyndeploy_tensor* output,
                                                                         const dyndeploy_resources* resources,
                                                                         uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cpu_forward_mix(const dyndeploy_drconv* attributes,
                                                               const dyndeploy_tensor inputs[5],
                                                               const dyndeploy_tensor* output,
                                                               const dyndeploy_resources* resources);

/* On GPUs; regions <= 1024. Of the factors of a product one is rounded to the element type once: share times a number of X
 * on small maps, a mixed filter on large ones (cuda_mix.cu). */
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cuda_forward_mix_workspace(const dyndeploy_drconv* attributes,
                                                                          const dyndeploy_tensor inputs[5],
                                                                          const dyndeploy_tensor* output,
                                                                          const dyndeploy_cuda_resources* resources,
                                                                          uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cuda_forward_mix(const dyndeploy_drconv* attributes,
                                                                const dyndeploy_tensor inputs[5],
                                                                const dyndeploy_tensor* output,
                                                                const dyndeploy_cuda_resources* resources);

/* How mixed filters are convolved with from now on, for tests and comparisons: scaled = 1, windows are scaled and multiplied
 * with the banks; 0, filters are made first, of at most so many samples at a time; -1 and 0: what the rules choose. */
DYNDEPLOY_API dyndeploy_status dyndeploy_drconv_cuda_use_mix(int32_t scaled, int32_t samples);

/* All kernels, and how they are launched; returns their number. */
DYNDEPLOY_API int32_t dyndeploy_drconv_cuda_kernels(const dyndeploy_cuda_kernel** kernels);

#ifdef __cplusplus
}
#endif

#endif

/* Modulated deformable convolution (DCNv2): the C ABI. common/api.h says what holds for all operators.
 *
 * y[n,o,i,j] = b[o] + sum over c, taps t of W[o,c,t] * bilinear(X[n,c], h, v) * mask[n,g,t,i,j]
 * h = i*stride - pad + row(t)*dilation + offset_y, v likewise; -1 < h < H and -1 < v < W, else the sample is 0.
 * Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results", CVPR 2019, eq. 1.
 *
 * inputs: X [N,C,H,W]; offset_mask [N,3*G*K,Ho,Wo]; W [O,C/group,kh,kw]; B [O].   output: Y [N,O,Ho,Wo].
 */
#ifndef DYNDEPLOY_DCNV2_KERNELS_H
#define DYNDEPLOY_DCNV2_KERNELS_H

#include "common/api.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyndeploy_dcnv2 {
  uint64_t size; /* sizeof(dyndeploy_dcnv2) */
  int64_t strides[2];
  int64_t pads[4];
  int64_t dilations[2];
  int64_t group;
  int64_t offset_group;
  int64_t sigmoid;
  float mask_scale;
  int64_t relu;
} dyndeploy_dcnv2;

/* Extents of Y; checks the attributes and all shapes. Data pointers are not looked at, here and in the queries. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_output(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor inputs[4],
                                                      int64_t extents[4]);

/* W, laid out for the instruction set in use; once for many calls of `forward`. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_cpu_packed_bytes(const dyndeploy_dcnv2* attributes,
                                                                const dyndeploy_tensor* W, uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_cpu_pack(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* W,
                                                        void* packed, uint64_t packed_bytes);

/* Bytes of workspace of a `forward` with these tensors, these threads, and packed weights or none. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_cpu_forward_workspace(const dyndeploy_dcnv2* attributes,
                                                                     const dyndeploy_tensor inputs[4],
                                                                     const dyndeploy_tensor* output,
                                                                     const dyndeploy_resources* resources,
                                                                     uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_cpu_forward(const dyndeploy_dcnv2* attributes,
                                                           const dyndeploy_tensor inputs[4],
                                                           const dyndeploy_tensor* output,
                                                           const dyndeploy_resources* resources);

/* Gradients of the inputs from `gradient`, that of Y before the ReLU. One whose data is NULL is not computed. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_cpu_backward_workspace(const dyndeploy_dcnv2* attributes,
                                                                      const dyndeploy_tensor* gradient,
                                                                      const dyndeploy_tensor inputs[4],
                                                                      const dyndeploy_tensor gradients[4],
                                                                      const dyndeploy_resources* resources,
                                                                      uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_cpu_backward(const dyndeploy_dcnv2* attributes,
                                                            const dyndeploy_tensor* gradient,
                                                            const dyndeploy_tensor inputs[4],
                                                            const dyndeploy_tensor gradients[4],
                                                            const dyndeploy_resources* resources);

/* --- on GPUs (libdyndeploy_cuda): tensors, workspace and packed weights lie in device memory */

/* W, laid out for the kernels by one on `stream`, in memory aligned to 16 bytes: once for many calls of `forward`. The
 * layout depends on W's extents and dtype, on group and offset_group. What is in it cannot be checked later: a forward
 * trusts it, and wants exactly this many bytes. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_cuda_packed_bytes(const dyndeploy_dcnv2* attributes,
                                                                 const dyndeploy_tensor* W, uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_cuda_pack(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* W,
                                                         void* packed, uint64_t packed_bytes, void* stream);

/* Bytes of workspace of a `forward` with tensors of these extents or smaller ones in any layout, with packed weights or
 * none. There is room for a copy of X in it. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_cuda_forward_workspace(const dyndeploy_dcnv2* attributes,
                                                                      const dyndeploy_tensor inputs[4],
                                                                      const dyndeploy_tensor* output,
                                                                      const dyndeploy_cuda_resources* resources,
                                                                      uint64_t* bytes);
/* In any layout. Fastest with X channels last, pixels that begin at multiples of 16 bytes, and a multiple of 16 bytes of
 * channels in each group and offset group: then X is read in place, otherwise it is copied first. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_cuda_forward(const dyndeploy_dcnv2* attributes,
                                                            const dyndeploy_tensor inputs[4],
                                                            const dyndeploy_tensor* output,
                                                            const dyndeploy_cuda_resources* resources);

/* Gradients as dyndeploy_dcnv2_cpu_backward computes them. Those of X are summed up by atomic additions in float, in an
 * order that may differ from run to run: their last bits may, too. All others have the same bits in every run. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_cuda_backward_workspace(const dyndeploy_dcnv2* attributes,
                                                                       const dyndeploy_tensor* gradient,
                                                                       const dyndeploy_tensor inputs[4],
                                                                       const dyndeploy_tensor gradients[4],
                                                                       const dyndeploy_cuda_resources* resources,
                                                                       uint64_t* bytes);
/* In any layout. Fastest with X and the gradient of Y dense and channels last, aligned to 16 bytes, with a multiple of 16
 * bytes of channels in each group and offset group: then they are read in place, otherwise they are copied first. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_cuda_backward(const dyndeploy_dcnv2* attributes,
                                                             const dyndeploy_tensor* gradient,
                                                             const dyndeploy_tensor inputs[4],
                                                             const dyndeploy_tensor gradients[4],
                                                             const dyndeploy_cuda_resources* resources);

/* Use tiles of `rows` pixels and `columns` outputs, and `parts` of the depth, from now on, for tests and comparisons; 0:
 * what the rule chooses. A tile that float32 does not have is passed over; parts are no more than a problem can have. A
 * backward takes the parts only. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dcnv2_cuda_use(int32_t rows, int32_t columns, int32_t parts);

/* The kernels that the functions above start, and how many there are. */
DYNDEPLOY_API int32_t dyndeploy_dcnv2_cuda_kernels(const dyndeploy_cuda_kernel** kernels);

#ifdef __cplusplus
}
#endif

#endif

/* Dynamic group convolution (DGC): the C ABI. common/api.h says what holds for all operators.
 *
 * row[i] = B[i] + W[i] * (gate[h] X),  gate[h,c] = saliency[h,c] if head h keeps channel c, else 0; h is the head of row i
 * A channel is dropped when its saliency is <= the inactive-th smallest of its head (inactive = 0 keeps all), or
 * <= threshold with inactive = -1. Output channel = row_in_head * heads + head with shuffle, else the row.
 * Su et al., "Dynamic Group Convolution for Accelerating Convolutional Neural Networks", ECCV 2020.
 *
 * inputs: X [N,C,H,W]; saliency [N,heads*C]; W [O,C,kh,kw]; B [O].   output: Y [N,O,Ho,Wo].
 */
#ifndef DYNDEPLOY_DGC_KERNELS_H
#define DYNDEPLOY_DGC_KERNELS_H

#include "common/api.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dyndeploy_dgc {
  uint64_t size; /* sizeof(dyndeploy_dgc) */
  int64_t strides[2];
  int64_t pads[4];
  int64_t dilations[2];
  int64_t heads;
  int64_t inactive;
  float threshold;
  int64_t shuffle;
  int64_t relu;
} dyndeploy_dgc;

/* Extents of Y; checks the attributes and all shapes. Data pointers are not looked at, here and in the queries. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_output(const dyndeploy_dgc* attributes, const dyndeploy_tensor inputs[4],
                                                      int64_t extents[4]);

/* W, laid out for the instruction set in use; once for many calls of `forward`. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_cpu_packed_bytes(const dyndeploy_dgc* attributes,
                                                                const dyndeploy_tensor* W, uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_cpu_pack(const dyndeploy_dgc* attributes, const dyndeploy_tensor* W,
                                                        void* packed, uint64_t packed_bytes);

/* Bytes of workspace of a `forward` with these tensors, these threads, and packed weights or none. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_cpu_forward_workspace(const dyndeploy_dgc* attributes,
                                                                     const dyndeploy_tensor inputs[4],
                                                                     const dyndeploy_tensor* output,
                                                                     const dyndeploy_resources* resources,
                                                                     uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_cpu_forward(const dyndeploy_dgc* attributes,
                                                           const dyndeploy_tensor inputs[4],
                                                           const dyndeploy_tensor* output,
                                                           const dyndeploy_resources* resources);

/* Gradients of the inputs from `gradient`, that of Y before the ReLU. One whose data is NULL is not computed. What a head
 * drops learns nothing: its saliency gets exactly 0, X and W nothing from there. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_cpu_backward_workspace(const dyndeploy_dgc* attributes,
                                                                      const dyndeploy_tensor* gradient,
                                                                      const dyndeploy_tensor inputs[4],
                                                                      const dyndeploy_tensor gradients[4],
                                                                      const dyndeploy_resources* resources,
                                                                      uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_cpu_backward(const dyndeploy_dgc* attributes,
                                                            const dyndeploy_tensor* gradient,
                                                            const dyndeploy_tensor inputs[4],
                                                            const dyndeploy_tensor gradients[4],
                                                            const dyndeploy_resources* resources);

/* On GPUs. W laid out for the kernels, once for many calls, aligned to 16 bytes: `pack` enqueues a kernel on the stream. What
 * the packed weights are of cannot be checked in a call, only that there are as many bytes as of this W. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_cuda_packed_bytes(const dyndeploy_dgc* attributes,
                                                                 const dyndeploy_tensor* W, uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_cuda_pack(const dyndeploy_dgc* attributes, const dyndeploy_tensor* W,
                                                         void* packed, uint64_t packed_bytes, void* stream);

/* The saliency stays on the GPU, and so do the channels that it keeps. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_cuda_forward_workspace(const dyndeploy_dgc* attributes,
                                                                      const dyndeploy_tensor inputs[4],
                                                                      const dyndeploy_tensor* output,
                                                                      const dyndeploy_cuda_resources* resources,
                                                                      uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_cuda_forward(const dyndeploy_dgc* attributes,
                                                            const dyndeploy_tensor inputs[4],
                                                            const dyndeploy_tensor* output,
                                                            const dyndeploy_cuda_resources* resources);

/* Gradients of the inputs, as on CPUs; the same bits in every run. Where the limit of a head is a NaN, so are all its
 * outputs: what then learns from it is not defined. Samples are taken some at a time, so that what the workspace holds of
 * them stays below a quarter of a GiB, unless one alone needs more. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_cuda_backward_workspace(const dyndeploy_dgc* attributes,
                                                                       const dyndeploy_tensor* gradient,
                                                                       const dyndeploy_tensor inputs[4],
                                                                       const dyndeploy_tensor gradients[4],
                                                                       const dyndeploy_cuda_resources* resources,
                                                                       uint64_t* bytes);
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_cuda_backward(const dyndeploy_dgc* attributes,
                                                             const dyndeploy_tensor* gradient,
                                                             const dyndeploy_tensor inputs[4],
                                                             const dyndeploy_tensor gradients[4],
                                                             const dyndeploy_cuda_resources* resources);

/* Use tiles of 64 or 128 `rows` for gradients from now on, and take as many samples at a time as fit into so many bytes,
 * for tests and comparisons; 0: what the rule chooses. Exact products of float32 have tiles of 64 rows for X. */
DYNDEPLOY_API dyndeploy_status dyndeploy_dgc_cuda_use(int32_t rows, int64_t pass_bytes);

/* All kernels, and how they are launched; returns their number. */
DYNDEPLOY_API int32_t dyndeploy_dgc_cuda_kernels(const dyndeploy_cuda_kernel** kernels);

#ifdef __cplusplus
}
#endif

#endif

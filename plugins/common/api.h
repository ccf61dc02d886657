/* The types of the C ABI. Every operator's kernels.h declares the same functions over them.
 *
 * Who calls owns all memory: outputs, workspace, packed weights. A forward or backward call allocates nothing, takes no
 * lock, keeps nothing, and throws nothing; several threads may call at once. What a call is given it checks before it
 * writes anything: on a status other than DYNDEPLOY_OK the outputs are untouched.
 */
#ifndef DYNDEPLOY_COMMON_API_H
#define DYNDEPLOY_COMMON_API_H

#include <stdint.h>

#if defined(__GNUC__)
#define DYNDEPLOY_API __attribute__((visibility("default")))
#else
#define DYNDEPLOY_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef int32_t dyndeploy_status;
enum {
  DYNDEPLOY_OK = 0,
  DYNDEPLOY_BAD_ARGUMENT = 1, /* what was given contradicts itself or the operator */
  DYNDEPLOY_UNSUPPORTED = 2,  /* right, but these kernels cannot do it (a dtype, a layout, a size) */
  DYNDEPLOY_FAILED = 3,       /* the CUDA runtime refused; what outputs hold is not defined */
};

/* What went wrong in the last call of this thread that did not return DYNDEPLOY_OK. */
DYNDEPLOY_API const char* dyndeploy_message(void);

/* ONNX's numbers of the element types. */
enum { DYNDEPLOY_FLOAT32 = 1, DYNDEPLOY_FLOAT16 = 10, DYNDEPLOY_BFLOAT16 = 16 };

/* A tensor of up to four dims.
 *
 * Strides count elements. Dims of a map are (N, C, H, W) in any memory layout: NCHW is a stride of 1 along W, channels
 * last a stride of 1 along C. An extent may be 0; a stride of a dim of extent 0 or 1 is not looked at.
 */
typedef struct dyndeploy_tensor {
  void* data; /* aligned to its element */
  int64_t extents[4];
  int64_t strides[4];
  int32_t rank;
  int32_t dtype;
} dyndeploy_tensor;

/* Threads of the host. `run` calls lane(work, 0) … lane(work, lanes - 1), once each, in any order and at the same time as
 * the pool can, and returns when all have returned. Results do not depend on the number of lanes, bit for bit but for the
 * sign of a NaN.
 */
typedef struct dyndeploy_threads {
  uint64_t size; /* sizeof(dyndeploy_threads) */
  int32_t lanes; /* most that can run at once, >= 1 */
  void* pool;    /* handed to run */
  void (*run)(void* pool, int32_t lanes, void (*lane)(void* work, int32_t index), void* work);
} dyndeploy_threads;

/* The library's own threads, one team per process, `lanes` of them at most (0: one per CPU of this process). Who calls
 * while the team is busy works alone, so that sessions side by side do not fight over the cores. */
DYNDEPLOY_API dyndeploy_status dyndeploy_own_threads(int32_t lanes, dyndeploy_threads* threads);

/* The threads of an OpenMP runtime that the process has already, by the address of its GOMP_parallel. */
DYNDEPLOY_API dyndeploy_status dyndeploy_openmp_threads(void* gomp_parallel, int32_t lanes, dyndeploy_threads* threads);

/* What a call may use besides its tensors. */
typedef struct dyndeploy_resources {
  uint64_t size;                    /* sizeof(dyndeploy_resources) */
  const dyndeploy_threads* threads; /* NULL: the calling thread alone */
  void* workspace;                  /* as many bytes as the operator's workspace query said; any alignment */
  uint64_t workspace_bytes;
  const void* packed; /* what the operator's pack function wrote, or NULL: weights are packed in the call */
  uint64_t packed_bytes;
} dyndeploy_resources;

/* What a call of a _cuda_ function may use besides its tensors, whose data lies in device memory.
 *
 * The calling thread's current device is that of the stream. A call enqueues its kernels there and returns: it allocates
 * nothing, waits for nothing, reads nothing back, and may be captured into a CUDA graph. Two runs give the same bits, unless
 * the operator says otherwise.
 */
typedef struct dyndeploy_cuda_resources {
  uint64_t size;            /* sizeof(dyndeploy_cuda_resources) */
  void* stream;             /* a cudaStream_t; NULL: the default stream */
  void* workspace;          /* device memory, as many bytes as the query said; any alignment */
  uint64_t workspace_bytes; /* grows with every extent: the query for the largest tensors serves all smaller ones */
  const void* packed;       /* what the operator's _cuda_pack wrote, or NULL: weights are packed in the call */
  uint64_t packed_bytes;
  int32_t tf32;             /* 1: factors of float32 products may be rounded to TF32's 10 bits of fraction */
} dyndeploy_cuda_resources;

/* The GPUs that the CUDA kernels are compiled for, in CMake's words: "80-real 90" has code for sm_80 and sm_90, and PTX of
 * the latter for newer ones. Only in libdyndeploy_cuda. */
DYNDEPLOY_API const char* dyndeploy_cuda_architectures(void);

/* A kernel as _cuda_ functions start it, for reports and tests: every operator's dyndeploy_<op>_cuda_kernels lists all of its own. */
typedef struct dyndeploy_cuda_kernel {
  const char* name;
  const void* function; /* the address of its host function: a symbol to look up */
  int32_t threads;      /* of a block */
  int32_t shared_bytes; /* dynamic shared memory of a block */
  int32_t blocks;       /* that are meant to share a multiprocessor; 1 where nothing hangs on it */
} dyndeploy_cuda_kernel;

/* The instruction set in use: "avx512", "avx2" or "portable". */
DYNDEPLOY_API const char* dyndeploy_instructions(void);

/* Use another one from now on, for tests and comparisons: one of the above, or NULL for the best. Weights that were
 * packed before are refused afterwards. Not to be called while kernels run. */
DYNDEPLOY_API dyndeploy_status dyndeploy_use_instructions(const char* name);

#ifdef __cplusplus
}
#endif

#endif

// What kernels know of the machine they run on: a GPU under nvcc, the emulator under a C++ compiler (emulator/cuda.h).
//
// A .cu file includes this header, dtype.cuh and mma.cuh, and no header of CUDA: what it uses of CUDA C++ beyond them is
// what emulator/cuda.h lists. Shared memory is one struct per kernel, fetched by shared_memory<Struct>(): its size is the
// launch's, its members bound their arrays, and nothing needs a macro.
#pragma once

#include <cstdint>

#ifdef DYNDEPLOY_EMULATOR
#include "emulator/cuda.h"
#else
#include <cuda_runtime.h>
#endif

#include "common/api.h"
#include "common/status.h"

namespace dyndeploy::cuda {

inline constexpr int kWarp = 32;
// Most that a block may have on every GPU from sm_80 on (sm_86, sm_89 and sm_120 have the least).
inline constexpr int kMostSharedBytes = 99 * 1024;

// The block's shared memory, as the struct that its launch named. Not initialised.
#ifdef DYNDEPLOY_EMULATOR
template <class Struct>
Struct& shared_memory(emulator::Where where = emulator::here()) {
  return *static_cast<Struct*>(emulator::shared_memory(sizeof(Struct), alignof(Struct), where));
}
#else
template <class Struct>
__device__ __forceinline__ Struct& shared_memory() {
  extern __shared__ __align__(128) unsigned char dyndeploy_shared_memory[];
  return *reinterpret_cast<Struct*>(dyndeploy_shared_memory);
}
#endif

// How a kernel is started: `shared_bytes` is sizeof the struct of shared_memory, or 0.
struct Launch {
  const char* name;  // of the kernel, for messages
  dim3 blocks;
  int threads;
  int shared_bytes;
  cudaStream_t stream;
};

namespace detail {

inline dyndeploy_status failed_launch(const Launch& launch, cudaError_t error) {
  return failed("kernel %s <<<(%u, %u, %u), %d, %d>>>: %s", launch.name, launch.blocks.x, launch.blocks.y,
                launch.blocks.z, launch.threads, launch.shared_bytes, cudaGetErrorString(error));
}

template <class T>
struct Same {
  using type = T;
};

}  // namespace detail

// Enqueue a kernel. Nothing is launched for an empty grid. Allowed while a stream is captured.
template <class... Parameters>
dyndeploy_status launch(const Launch& how, void (*kernel)(Parameters...),
                        typename detail::Same<Parameters>::type... arguments) {
  if (how.blocks.x == 0 || how.blocks.y == 0 || how.blocks.z == 0) return DYNDEPLOY_OK;
  cudaError_t error = cudaSuccess;
#ifdef DYNDEPLOY_EMULATOR
  error = emulator::launch(how.name, how.blocks, how.threads, how.shared_bytes, kernel, arguments...);
#else
  if (how.shared_bytes > 48 * 1024)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, how.shared_bytes);
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config{};
    config.gridDim = how.blocks;
    config.blockDim = dim3(static_cast<unsigned>(how.threads));
    config.dynamicSmemBytes = static_cast<size_t>(how.shared_bytes);
    config.stream = how.stream;
    error = cudaLaunchKernelEx(&config, kernel, arguments...);
  }
#endif
  return error == cudaSuccess ? DYNDEPLOY_OK : detail::failed_launch(how, error);
}

}  // namespace dyndeploy::cuda

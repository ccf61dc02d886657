// A GPU, or the emulator, as the machine of calls (call.h): its tensors, types and resources.
#pragma once

#include <cstdlib>
#include <vector>

#include "call.h"
#include "cuda/tensor.h"

namespace dyndeploy::test {

// The machine of these calls, see call.h.
struct Cuda {
  using Tensor = DeviceTensor;
  using Bytes = DeviceBytes;
  using Resources = dyndeploy_cuda_resources;

  // Of a map: those with a kernel of their own, and all others.
  static Layout some_map(Random& random) {
    return random.pick({Layout::nchw, Layout::channels_last, Layout::hwc8, Layout::hwc8, Layout::map, Layout::map});
  }
  template <class Op>
  static Layout layout(Random& random, size_t input) {
    return Op::is_map[input] ? some_map(random) : Layout::any;
  }
};

// The types of a call, and of its products.
struct Mode {
  int32_t dtype, tf32;
};
inline constexpr Mode kModes[] = {
    {DYNDEPLOY_FLOAT32, 0}, {DYNDEPLOY_FLOAT32, 1}, {DYNDEPLOY_FLOAT16, 0}, {DYNDEPLOY_BFLOAT16, 0}};

// Indices of the modes that the k-th of a list of shapes is tried with: every other one, the others two shapes later; all of
// them where DYNDEPLOY_THOROUGH is set.
inline std::vector<size_t> modes_of(size_t k) {
  if (std::getenv("DYNDEPLOY_THOROUGH")) return {0, 1, 2, 3};
  return k / 2 % 2 ? std::vector<size_t>{1, 3} : std::vector<size_t>{0, 2};
}

inline Mode some_mode(Random& random) { return kModes[random.integer(0, 3)]; }

// What factors in registers or shared memory are rounded to.
inline Rounding rounding_to(int32_t dtype) {
  return dtype == DYNDEPLOY_FLOAT32 ? Rounding{} : Rounding{rounding_unit(dtype), smallest(dtype) / 2};
}
inline Rounding rounding_to_tf32() { return {0x1p-11, 0x1p-126}; }

inline dyndeploy_cuda_resources cuda_resources(int32_t tf32) {
  return {sizeof(dyndeploy_cuda_resources), current_stream(), nullptr, 0, nullptr, 0, tf32};
}

// `count` bytes, or more, as from who asked for larger tensors. One byte after a line all that the query counted for
// alignment is needed.
inline DeviceBytes some_device_workspace(Random& random, uint64_t count) {
  const int64_t more = random.chance(0.2) ? random.integer(1, 999) : 0;
  const int64_t past = random.chance(0.5) ? 1 : random.integer(0, 63);
  return {count + static_cast<uint64_t>(more), static_cast<uint64_t>(past), random.pick({0x00, 0xff, 0x7f}), "workspace"};
}

// A call's memory besides its tensors.
struct Memory {
  Memory(Random& random, const dyndeploy_cuda_resources& without_workspace, uint64_t bytes)
      : resources(without_workspace), workspace(some_device_workspace(random, bytes)) {
    resources.workspace = workspace.data();
    resources.workspace_bytes = workspace.count();
  }

  dyndeploy_cuda_resources resources;
  DeviceBytes workspace;
};

}  // namespace dyndeploy::test

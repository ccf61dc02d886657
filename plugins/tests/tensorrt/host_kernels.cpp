// The kernels of the CPU under the names of those of a GPU, to run the plugins where neither a GPU nor the emulator is
// there: under ThreadSanitizer, which knows nothing of the emulator's threads.
#include <cstring>
#include <vector>

#include "common/status.h"
#include "dcnv2/join.h"
#include "dcnv2/kernels.h"
#include "ddf/kernels.h"
#include "dgc/kernels.h"
#include "drconv/kernels.h"
#include "emulator/emulator.h"
#include "storage.h"

// Workspace is asked for as it is of a GPU's kernels, but not used: that of the CPU's may be larger for smaller
// tensors.
#define ON_THE_CPU(op, forward)                                                                                      \
  dyndeploy_status dyndeploy_##op##_cuda_##forward##_workspace(const dyndeploy_##op* attributes,                     \
                                                           const dyndeploy_tensor* inputs,                           \
                                                           const dyndeploy_tensor* output,                           \
                                                           const dyndeploy_cuda_resources*, uint64_t* bytes) {       \
    dyndeploy_resources resources{};                                                                                 \
    resources.size = sizeof resources;                                                                               \
    return dyndeploy_##op##_cpu_##forward##_workspace(attributes, inputs, output, &resources, bytes);                \
  }                                                                                                                  \
  dyndeploy_status dyndeploy_##op##_cuda_##forward(const dyndeploy_##op* attributes, const dyndeploy_tensor* inputs, \
                                                 const dyndeploy_tensor* output,                                     \
                                                 const dyndeploy_cuda_resources* from_tensorrt) {                    \
    uint64_t bytes = 0;                                                                                              \
    DYNDEPLOY_TRY(dyndeploy_##op##_cuda_##forward##_workspace(attributes, inputs, output, from_tensorrt, &bytes));   \
    std::vector<unsigned char> memory(bytes);                                                                        \
    dyndeploy_resources resources{};                                                                                 \
    resources.size = sizeof resources;                                                                               \
    resources.workspace = memory.data();                                                                             \
    resources.workspace_bytes = bytes;                                                                               \
    return dyndeploy_##op##_cpu_##forward(attributes, inputs, output, &resources);                                   \
  }
ON_THE_CPU(dcnv2, forward)
ON_THE_CPU(ddf, forward)
ON_THE_CPU(drconv, forward)
ON_THE_CPU(drconv, forward_mix)
ON_THE_CPU(dgc, forward)

namespace dyndeploy::dcnv2 {

dyndeploy_status join_offset_and_mask(const dyndeploy_tensor& offset, const dyndeploy_tensor* mask,
                                      const dyndeploy_tensor& joined, void* zero, void*) {
  const int64_t bytes = test::element_bytes(joined.dtype), pixels = joined.extents[2] * joined.extents[3];
  const int64_t offsets = offset.extents[1] * pixels, masks = joined.extents[1] * pixels - offsets;
  auto* to = static_cast<unsigned char*>(joined.data);
  for (int64_t n = 0; n < joined.extents[0]; ++n)
    for (int64_t i = 0; i < offsets + masks; ++i, to += bytes) {
      if (i >= offsets && !mask) {
        test::store_element(joined.dtype, to, 1);
        continue;
      }
      const void* const from = i < offsets ? offset.data : mask->data;
      const int64_t at = i < offsets ? n * offsets + i : n * masks + i - offsets;
      std::memcpy(to, static_cast<const unsigned char*>(from) + at * bytes, static_cast<size_t>(bytes));
    }
  test::store_element(joined.dtype, zero, 0);
  return DYNDEPLOY_OK;
}

}  // namespace dyndeploy::dcnv2

// What the tests say to the emulator is said to nobody.
namespace dyndeploy::emulator {

void set_schedule(Schedule) {}
void on_error(void (*)()) {}
Buffer::Buffer(const void* data, size_t, const char*, Access, Contents) : data_(data) {}
Buffer::~Buffer() = default;

}  // namespace dyndeploy::emulator

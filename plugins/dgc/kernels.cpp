// The C ABI on CPUs: checks, then the kernels of the instruction set in use.
#include "dgc/kernels.h"

#include <algorithm>

#include "dgc/cpu.h"

namespace dyndeploy::dgc {
namespace {

dyndeploy_status resolve_forward(const dyndeploy_dgc* attributes, const dyndeploy_tensor* inputs,
                                 const dyndeploy_tensor* output, const dyndeploy_resources* resources,
                                 Problem* problem) {
  DYNDEPLOY_TRY(check_resources(kOp, resources));
  DYNDEPLOY_TRY(resolve(attributes, inputs, problem));
  return check_output(*problem, output);
}

// Far below the end of int64: of what the backward's buffers hold of one sample.
constexpr int64_t kMostElements = int64_t{1} << 44;

dyndeploy_status resolve_backward(const dyndeploy_dgc* attributes, const dyndeploy_tensor* gradient,
                                  const dyndeploy_tensor* inputs, const dyndeploy_tensor* gradients,
                                  const dyndeploy_resources* resources, Problem* problem) {
  DYNDEPLOY_TRY(check_resources(kOp, resources));
  DYNDEPLOY_TRY(resolve(attributes, inputs, problem));
  DYNDEPLOY_TRY(check_gradients(*problem, gradient, inputs, gradients));
  const Window& window = problem->window;
  const int64_t map = window.H * window.W + 1, pixels = window.Ho * window.Wo, rows = problem->heads * problem->C;
  if (map >= kMostExtent) return unsupported("%s: gradients of maps of 2^31 pixels or more", kOp);
  if (map > kMostElements / std::max<int64_t>(rows, 1) || pixels > kMostElements / window.taps())
    return unsupported("%s: gradients of a sample whose heads' channels, or taps, are more than 2^44", kOp);
  return DYNDEPLOY_OK;
}

dyndeploy_status check_packed(const Problem& problem, const dyndeploy_resources& resources) {
  if (!resources.packed) return DYNDEPLOY_OK;
  if (reinterpret_cast<uintptr_t>(resources.packed) % alignof(uint64_t))
    return bad_argument("%s: the packed weights are not aligned to 8 bytes", kOp);
  if (!DYNDEPLOY_PICK(dgc_is_packed)(problem, resources.packed, resources.packed_bytes))
    return bad_argument("%s: the packed weights are not those of this W, heads and instruction set (%s)", kOp,
                        dyndeploy_instructions());
  return DYNDEPLOY_OK;
}

}  // namespace
}  // namespace dyndeploy::dgc

using namespace dyndeploy;
using namespace dyndeploy::dgc;

dyndeploy_status dyndeploy_dgc_cpu_packed_bytes(const dyndeploy_dgc* attributes, const dyndeploy_tensor* W,
                                                uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(dgc_packed_bytes)(problem);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dgc_cpu_pack(const dyndeploy_dgc* attributes, const dyndeploy_tensor* W, void* packed,
                                        uint64_t packed_bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  DYNDEPLOY_TRY(check_data(kOp, "W", *W));
  const uint64_t needed = DYNDEPLOY_PICK(dgc_packed_bytes)(problem);
  if (!packed || reinterpret_cast<uintptr_t>(packed) % alignof(uint64_t) || packed_bytes < needed)
    return bad_argument("%s: packed weights need %llu bytes, aligned to 8; given are %llu at %p", kOp,
                        static_cast<unsigned long long>(needed), static_cast<unsigned long long>(packed_bytes), packed);
  DYNDEPLOY_PICK(dgc_pack)(problem, *W, packed);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dgc_cpu_forward_workspace(const dyndeploy_dgc* attributes, const dyndeploy_tensor inputs[4],
                                                     const dyndeploy_tensor* output,
                                                     const dyndeploy_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(dgc_forward_workspace)(problem, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dgc_cpu_forward(const dyndeploy_dgc* attributes, const dyndeploy_tensor inputs[4],
                                           const dyndeploy_tensor* output, const dyndeploy_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "Y", *output));
  DYNDEPLOY_TRY(check_packed(problem, *resources));
  DYNDEPLOY_TRY(check_workspace(kOp, *resources, DYNDEPLOY_PICK(dgc_forward_workspace)(problem, resources)));
  DYNDEPLOY_PICK(dgc_forward)(problem, inputs, *output, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dgc_cpu_backward_workspace(const dyndeploy_dgc* attributes, const dyndeploy_tensor* gradient,
                                                      const dyndeploy_tensor inputs[4],
                                                      const dyndeploy_tensor gradients[4],
                                                      const dyndeploy_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_backward(attributes, gradient, inputs, gradients, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(dgc_backward_workspace)(problem, gradients, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dgc_cpu_backward(const dyndeploy_dgc* attributes, const dyndeploy_tensor* gradient,
                                            const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                            const dyndeploy_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_backward(attributes, gradient, inputs, gradients, resources, &problem));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "the gradient of Y", *gradient));
  DYNDEPLOY_TRY(
      check_workspace(kOp, *resources, DYNDEPLOY_PICK(dgc_backward_workspace)(problem, gradients, resources)));
  DYNDEPLOY_PICK(dgc_backward)(problem, *gradient, inputs, gradients, resources);
  return DYNDEPLOY_OK;
}

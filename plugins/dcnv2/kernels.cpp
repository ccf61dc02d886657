// The C ABI on CPUs: checks, then the kernels of the instruction set in use.
#include "dcnv2/kernels.h"

#include "dcnv2/cpu.h"

namespace dyndeploy::dcnv2 {
namespace {

dyndeploy_status check_packed(const Problem& problem, const dyndeploy_resources& resources) {
  if (!resources.packed) return DYNDEPLOY_OK;
  if (reinterpret_cast<uintptr_t>(resources.packed) % alignof(uint64_t))
    return bad_argument("%s: the packed weights are not aligned to 8 bytes", kOp);
  if (!DYNDEPLOY_PICK(dcnv2_is_packed)(problem, resources.packed, resources.packed_bytes))
    return bad_argument("%s: the packed weights are not those of this W, group and instruction set (%s)", kOp,
                        dyndeploy_instructions());
  return DYNDEPLOY_OK;
}

dyndeploy_status resolve_forward(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* inputs,
                                 const dyndeploy_tensor* output, const dyndeploy_resources* resources,
                                 Problem* problem) {
  DYNDEPLOY_TRY(check_resources(kOp, resources));
  DYNDEPLOY_TRY(resolve(attributes, inputs, problem));
  return check_output("Y", *problem, output);
}

dyndeploy_status resolve_backward(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* gradient,
                                  const dyndeploy_tensor* inputs, const dyndeploy_tensor* gradients,
                                  const dyndeploy_resources* resources, Problem* problem) {
  DYNDEPLOY_TRY(check_resources(kOp, resources));
  DYNDEPLOY_TRY(resolve(attributes, inputs, problem));
  return check_gradients(*problem, gradient, inputs, gradients);
}

}  // namespace
}  // namespace dyndeploy::dcnv2

using namespace dyndeploy;
using namespace dyndeploy::dcnv2;

dyndeploy_status dyndeploy_dcnv2_cpu_packed_bytes(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* W,
                                                  uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(dcnv2_packed_bytes)(problem);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dcnv2_cpu_pack(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* W, void* packed,
                                          uint64_t packed_bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  DYNDEPLOY_TRY(check_data(kOp, "W", *W));
  const uint64_t needed = DYNDEPLOY_PICK(dcnv2_packed_bytes)(problem);
  if (!packed || reinterpret_cast<uintptr_t>(packed) % alignof(uint64_t) || packed_bytes < needed)
    return bad_argument("%s: packed weights need %llu bytes, aligned to 8; given are %llu at %p", kOp,
                        static_cast<unsigned long long>(needed), static_cast<unsigned long long>(packed_bytes), packed);
  DYNDEPLOY_PICK(dcnv2_pack)(problem, *W, packed);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dcnv2_cpu_forward_workspace(const dyndeploy_dcnv2* attributes,
                                                       const dyndeploy_tensor inputs[4], const dyndeploy_tensor* output,
                                                       const dyndeploy_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(dcnv2_forward_workspace)(problem, inputs, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dcnv2_cpu_forward(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor inputs[4],
                                             const dyndeploy_tensor* output, const dyndeploy_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  for (int i = 0; i < 4; ++i)
    if (i != kW || !resources->packed) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "Y", *output));
  DYNDEPLOY_TRY(check_packed(problem, *resources));
  DYNDEPLOY_TRY(
      check_workspace(kOp, *resources, DYNDEPLOY_PICK(dcnv2_forward_workspace)(problem, inputs, resources)));
  DYNDEPLOY_PICK(dcnv2_forward)(problem, inputs, *output, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dcnv2_cpu_backward_workspace(const dyndeploy_dcnv2* attributes,
                                                        const dyndeploy_tensor* gradient,
                                                        const dyndeploy_tensor inputs[4],
                                                        const dyndeploy_tensor gradients[4],
                                                        const dyndeploy_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_backward(attributes, gradient, inputs, gradients, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(dcnv2_backward_workspace)(problem, gradients, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dcnv2_cpu_backward(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* gradient,
                                              const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                              const dyndeploy_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_backward(attributes, gradient, inputs, gradients, resources, &problem));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "the gradient of Y", *gradient));
  DYNDEPLOY_TRY(check_workspace(kOp, *resources,
                                DYNDEPLOY_PICK(dcnv2_backward_workspace)(problem, gradients, resources)));
  DYNDEPLOY_PICK(dcnv2_backward)(problem, *gradient, inputs, gradients, resources);
  return DYNDEPLOY_OK;
}

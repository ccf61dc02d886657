// The C ABI on CPUs: checks, then the kernels of the instruction set in use.
#include "dcnv2/kernels.h"

#include "common/cpu/packed.h"
#include "common/entry.h"
#include "dcnv2/cpu.h"

namespace dyndeploy::dcnv2 {
namespace {

struct ForwardCall : ForwardArguments<dyndeploy_dcnv2, dyndeploy_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(check_resources(kOp, resources));
    return dcnv2::resolve(attributes, inputs, &problem);
  }
  bool reads(int input) const { return input != kW || !resources->packed; }
  dyndeploy_status check_packed() const {
    return dyndeploy::check_packed(kOp, *resources, "W, group", [&](const void* packed, uint64_t bytes) {
      return DYNDEPLOY_PICK(dcnv2_is_packed)(problem, packed, bytes);
    });
  }
  uint64_t workspace() const { return DYNDEPLOY_PICK(dcnv2_forward_workspace)(problem, inputs, resources); }
  dyndeploy_status run() const {
    DYNDEPLOY_PICK(dcnv2_forward)(problem, inputs, *output, resources);
    return DYNDEPLOY_OK;
  }
};

struct BackwardCall : BackwardArguments<dyndeploy_dcnv2, dyndeploy_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(check_resources(kOp, resources));
    return dcnv2::resolve(attributes, inputs, &problem);
  }
  uint64_t workspace() const { return DYNDEPLOY_PICK(dcnv2_backward_workspace)(problem, gradients, resources); }
  dyndeploy_status run() const {
    DYNDEPLOY_PICK(dcnv2_backward)(problem, *gradient, inputs, gradients, resources);
    return DYNDEPLOY_OK;
  }
};

}  // namespace
}  // namespace dyndeploy::dcnv2

using namespace dyndeploy;
using namespace dyndeploy::dcnv2;

dyndeploy_status dyndeploy_dcnv2_cpu_packed_bytes(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* W,
                                                  uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  return answer(kOp, DYNDEPLOY_PICK(dcnv2_packed_bytes)(problem), bytes);
}

dyndeploy_status dyndeploy_dcnv2_cpu_pack(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* W, void* packed,
                                          uint64_t packed_bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  DYNDEPLOY_TRY(check_data(kOp, "W", *W));
  DYNDEPLOY_TRY(check_room(kOp, packed, packed_bytes, DYNDEPLOY_PICK(dcnv2_packed_bytes)(problem)));
  DYNDEPLOY_PICK(dcnv2_pack)(problem, *W, packed);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dcnv2_cpu_forward_workspace(const dyndeploy_dcnv2* attributes,
                                                       const dyndeploy_tensor inputs[4], const dyndeploy_tensor* output,
                                                       const dyndeploy_resources* resources, uint64_t* bytes) {
  return query_forward(kOp, ForwardCall{{attributes, inputs, output, resources}}, bytes);
}

dyndeploy_status dyndeploy_dcnv2_cpu_forward(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor inputs[4],
                                             const dyndeploy_tensor* output, const dyndeploy_resources* resources) {
  return run_forward(kOp, kInputs, ForwardCall{{attributes, inputs, output, resources}});
}

dyndeploy_status dyndeploy_dcnv2_cpu_backward_workspace(const dyndeploy_dcnv2* attributes,
                                                        const dyndeploy_tensor* gradient,
                                                        const dyndeploy_tensor inputs[4],
                                                        const dyndeploy_tensor gradients[4],
                                                        const dyndeploy_resources* resources, uint64_t* bytes) {
  return query_backward(kOp, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}}, bytes);
}

dyndeploy_status dyndeploy_dcnv2_cpu_backward(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* gradient,
                                              const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                              const dyndeploy_resources* resources) {
  return run_backward(kOp, kInputs, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}});
}

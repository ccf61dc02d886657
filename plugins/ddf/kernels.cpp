// The C ABI on CPUs: checks, then the kernels of the instruction set in use.
#include "ddf/kernels.h"

#include "common/entry.h"
#include "ddf/cpu.h"

namespace dyndeploy::ddf {
namespace {

struct ForwardCall : ForwardArguments<dyndeploy_ddf, dyndeploy_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(check_resources(kOp, resources));
    return ddf::resolve(attributes, inputs, &problem);
  }
  uint64_t workspace() const { return DYNDEPLOY_PICK(ddf_forward_workspace)(problem, inputs, *output, resources); }
  dyndeploy_status run() const {
    DYNDEPLOY_PICK(ddf_forward)(problem, inputs, *output, resources);
    return DYNDEPLOY_OK;
  }
};

struct BackwardCall : BackwardArguments<dyndeploy_ddf, dyndeploy_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(check_resources(kOp, resources));
    return ddf::resolve(attributes, inputs, &problem);
  }
  uint64_t workspace() const { return DYNDEPLOY_PICK(ddf_backward_workspace)(problem, gradients, resources); }
  dyndeploy_status run() const {
    DYNDEPLOY_PICK(ddf_backward)(problem, *gradient, inputs, gradients, resources);
    return DYNDEPLOY_OK;
  }
};

}  // namespace
}  // namespace dyndeploy::ddf

using namespace dyndeploy;
using namespace dyndeploy::ddf;

dyndeploy_status dyndeploy_ddf_cpu_forward_workspace(const dyndeploy_ddf* attributes, const dyndeploy_tensor inputs[4],
                                                     const dyndeploy_tensor* output,
                                                     const dyndeploy_resources* resources, uint64_t* bytes) {
  return query_forward(kOp, ForwardCall{{attributes, inputs, output, resources}}, bytes);
}

dyndeploy_status dyndeploy_ddf_cpu_forward(const dyndeploy_ddf* attributes, const dyndeploy_tensor inputs[4],
                                           const dyndeploy_tensor* output, const dyndeploy_resources* resources) {
  return run_forward(kOp, kInputs, ForwardCall{{attributes, inputs, output, resources}});
}

dyndeploy_status dyndeploy_ddf_cpu_backward_workspace(const dyndeploy_ddf* attributes, const dyndeploy_tensor* gradient,
                                                      const dyndeploy_tensor inputs[4],
                                                      const dyndeploy_tensor gradients[4],
                                                      const dyndeploy_resources* resources, uint64_t* bytes) {
  return query_backward(kOp, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}}, bytes);
}

dyndeploy_status dyndeploy_ddf_cpu_backward(const dyndeploy_ddf* attributes, const dyndeploy_tensor* gradient,
                                            const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                            const dyndeploy_resources* resources) {
  return run_backward(kOp, kInputs, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}});
}

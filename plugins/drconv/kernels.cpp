// The C ABI on CPUs: checks, then the kernels of the instruction set in use.
#include "drconv/kernels.h"

#include "common/entry.h"
#include "drconv/cpu.h"

namespace dyndeploy::drconv {
namespace {

struct ForwardCall : ForwardArguments<dyndeploy_drconv, dyndeploy_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(drconv::resolve(attributes, inputs, &problem));
    DYNDEPLOY_TRY(check_resources(kOp, resources));
    return check_unpacked(kOp, resources->packed);
  }
  uint64_t workspace() const { return DYNDEPLOY_PICK(drconv_forward_workspace)(problem, inputs, *output, resources); }
  dyndeploy_status run() const {
    DYNDEPLOY_PICK(drconv_forward)(problem, inputs, *output, resources);
    return DYNDEPLOY_OK;
  }
};

struct BackwardCall : BackwardArguments<dyndeploy_drconv, dyndeploy_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(drconv::resolve(attributes, inputs, &problem));
    return check_resources(kOp, resources);
  }
  dyndeploy_status prepare() const {
    if (problem.window.H * problem.window.W >= INT32_MAX) return unsupported("%s: X has 2^31 pixels or more", kOp);
    return DYNDEPLOY_OK;
  }
  uint64_t workspace() const { return DYNDEPLOY_PICK(drconv_backward_workspace)(problem, gradients, resources); }
  dyndeploy_status run() const {
    DYNDEPLOY_PICK(drconv_backward)(problem, *gradient, inputs, gradients, resources);
    return DYNDEPLOY_OK;
  }
};

}  // namespace
}  // namespace dyndeploy::drconv

using namespace dyndeploy;
using namespace dyndeploy::drconv;

dyndeploy_status dyndeploy_drconv_cpu_forward_workspace(const dyndeploy_drconv* attributes,
                                                        const dyndeploy_tensor inputs[4],
                                                        const dyndeploy_tensor* output,
                                                        const dyndeploy_resources* resources, uint64_t* bytes) {
  return query_forward(kOp, ForwardCall{{attributes, inputs, output, resources}}, bytes);
}

dyndeploy_status dyndeploy_drconv_cpu_forward(const dyndeploy_drconv* attributes, const dyndeploy_tensor inputs[4],
                                              const dyndeploy_tensor* output, const dyndeploy_resources* resources) {
  return run_forward(kOp, kInputs, ForwardCall{{attributes, inputs, output, resources}});
}

dyndeploy_status dyndeploy_drconv_cpu_backward_workspace(const dyndeploy_drconv* attributes,
                                                         const dyndeploy_tensor* gradient,
                                                         const dyndeploy_tensor inputs[4],
                                                         const dyndeploy_tensor gradients[4],
                                                         const dyndeploy_resources* resources, uint64_t* bytes) {
  return query_backward(kOp, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}}, bytes);
}

dyndeploy_status dyndeploy_drconv_cpu_backward(const dyndeploy_drconv* attributes, const dyndeploy_tensor* gradient,
                                               const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                               const dyndeploy_resources* resources) {
  return run_backward(kOp, kInputs, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}});
}

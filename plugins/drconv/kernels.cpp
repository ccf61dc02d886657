// The C ABI on CPUs: checks, then the kernels of the instruction set in use.
#include "drconv/kernels.h"

#include "drconv/cpu.h"

namespace dyndeploy::drconv {
namespace {

// All that is known without data.
dyndeploy_status resolve_call(const dyndeploy_drconv* a, const dyndeploy_tensor* inputs, const dyndeploy_tensor* output,
                              const dyndeploy_resources* resources, Problem* problem) {
  DYNDEPLOY_TRY(resolve(a, inputs, problem));
  DYNDEPLOY_TRY(check_resources(kOp, resources));
  if (resources->packed) return bad_argument("%s: nothing of it can be packed, but packed is not NULL", kOp);
  return check_output(*problem, output);
}

dyndeploy_status resolve_backward(const dyndeploy_drconv* a, const dyndeploy_tensor* gradient,
                                  const dyndeploy_tensor* inputs, const dyndeploy_tensor* gradients,
                                  const dyndeploy_resources* resources, Problem* problem) {
  DYNDEPLOY_TRY(resolve(a, inputs, problem));
  DYNDEPLOY_TRY(check_resources(kOp, resources));
  DYNDEPLOY_TRY(check_output(*problem, gradient, "the gradient of Y"));
  DYNDEPLOY_TRY(check_gradients(*problem, inputs, gradients));
  if (problem->window.H * problem->window.W >= INT32_MAX) return unsupported("%s: X has 2^31 pixels or more", kOp);
  return DYNDEPLOY_OK;
}

}  // namespace
}  // namespace dyndeploy::drconv

using namespace dyndeploy;
using namespace dyndeploy::drconv;

dyndeploy_status dyndeploy_drconv_cpu_forward_workspace(const dyndeploy_drconv* attributes,
                                                        const dyndeploy_tensor inputs[4],
                                                        const dyndeploy_tensor* output,
                                                        const dyndeploy_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_call(attributes, inputs, output, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(drconv_forward_workspace)(problem, inputs, *output, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_drconv_cpu_forward(const dyndeploy_drconv* attributes, const dyndeploy_tensor inputs[4],
                                              const dyndeploy_tensor* output, const dyndeploy_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_call(attributes, inputs, output, resources, &problem));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "Y", *output));
  DYNDEPLOY_TRY(
      check_workspace(kOp, *resources, DYNDEPLOY_PICK(drconv_forward_workspace)(problem, inputs, *output, resources)));
  DYNDEPLOY_PICK(drconv_forward)(problem, inputs, *output, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_drconv_cpu_backward_workspace(const dyndeploy_drconv* attributes,
                                                         const dyndeploy_tensor* gradient,
                                                         const dyndeploy_tensor inputs[4],
                                                         const dyndeploy_tensor gradients[4],
                                                         const dyndeploy_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_backward(attributes, gradient, inputs, gradients, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(drconv_backward_workspace)(problem, gradients, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_drconv_cpu_backward(const dyndeploy_drconv* attributes, const dyndeploy_tensor* gradient,
                                               const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                               const dyndeploy_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_backward(attributes, gradient, inputs, gradients, resources, &problem));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "the gradient of Y", *gradient));
  DYNDEPLOY_TRY(check_gradients_data(gradients));
  DYNDEPLOY_TRY(check_workspace(kOp, *resources,
                                DYNDEPLOY_PICK(drconv_backward_workspace)(problem, gradients, resources)));
  DYNDEPLOY_PICK(drconv_backward)(problem, *gradient, inputs, gradients, resources);
  return DYNDEPLOY_OK;
}

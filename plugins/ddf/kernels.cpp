// The C ABI on CPUs: checks, then the kernels of the instruction set in use.
#include "ddf/kernels.h"

#include "ddf/cpu.h"

namespace dyndeploy::ddf {
namespace {

dyndeploy_status resolve_forward(const dyndeploy_ddf* attributes, const dyndeploy_tensor* inputs,
                                 const dyndeploy_tensor* output, const dyndeploy_resources* resources,
                                 Problem* problem) {
  DYNDEPLOY_TRY(check_resources(kOp, resources));
  DYNDEPLOY_TRY(resolve(attributes, inputs, problem));
  return check_output("Y", *problem, output);
}

dyndeploy_status resolve_backward(const dyndeploy_ddf* attributes, const dyndeploy_tensor* gradient,
                                  const dyndeploy_tensor* inputs, const dyndeploy_tensor* gradients,
                                  const dyndeploy_resources* resources, Problem* problem) {
  DYNDEPLOY_TRY(check_resources(kOp, resources));
  DYNDEPLOY_TRY(resolve(attributes, inputs, problem));
  return check_gradients(*problem, gradient, inputs, gradients);
}

}  // namespace
}  // namespace dyndeploy::ddf

using namespace dyndeploy;
using namespace dyndeploy::ddf;

dyndeploy_status dyndeploy_ddf_cpu_forward_workspace(const dyndeploy_ddf* attributes, const dyndeploy_tensor inputs[4],
                                                     const dyndeploy_tensor* output,
                                                     const dyndeploy_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(ddf_forward_workspace)(problem, inputs, *output, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_ddf_cpu_forward(const dyndeploy_ddf* attributes, const dyndeploy_tensor inputs[4],
                                           const dyndeploy_tensor* output, const dyndeploy_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "Y", *output));
  DYNDEPLOY_TRY(
      check_workspace(kOp, *resources, DYNDEPLOY_PICK(ddf_forward_workspace)(problem, inputs, *output, resources)));
  DYNDEPLOY_PICK(ddf_forward)(problem, inputs, *output, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_ddf_cpu_backward_workspace(const dyndeploy_ddf* attributes, const dyndeploy_tensor* gradient,
                                                      const dyndeploy_tensor inputs[4],
                                                      const dyndeploy_tensor gradients[4],
                                                      const dyndeploy_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_backward(attributes, gradient, inputs, gradients, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(ddf_backward_workspace)(problem, gradients, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_ddf_cpu_backward(const dyndeploy_ddf* attributes, const dyndeploy_tensor* gradient,
                                            const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                            const dyndeploy_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_backward(attributes, gradient, inputs, gradients, resources, &problem));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "the gradient of Y", *gradient));
  DYNDEPLOY_TRY(
      check_workspace(kOp, *resources, DYNDEPLOY_PICK(ddf_backward_workspace)(problem, gradients, resources)));
  DYNDEPLOY_PICK(ddf_backward)(problem, *gradient, inputs, gradients, resources);
  return DYNDEPLOY_OK;
}

// The C ABI on CPUs with filters that are mixed of banks: checks, then the kernels of the instruction set in use.
#include "drconv/cpu.h"

namespace dyndeploy::drconv::mix {
namespace {

// All that is known without data.
dyndeploy_status resolve_call(const dyndeploy_drconv* a, const dyndeploy_tensor* inputs, const dyndeploy_tensor* output,
                              const dyndeploy_resources* resources, Problem* problem) {
  DYNDEPLOY_TRY(resolve(a, inputs, problem));
  DYNDEPLOY_TRY(check_resources(kOp, resources));
  if (resources->packed) return bad_argument("%s: nothing of it can be packed, but packed is not NULL", kOp);
  return check_output(problem->convolution, output);
}

}  // namespace
}  // namespace dyndeploy::drconv::mix

using namespace dyndeploy;
using namespace dyndeploy::drconv;

dyndeploy_status dyndeploy_drconv_cpu_forward_mix_workspace(const dyndeploy_drconv* attributes,
                                                            const dyndeploy_tensor inputs[5],
                                                            const dyndeploy_tensor* output,
                                                            const dyndeploy_resources* resources, uint64_t* bytes) {
  mix::Problem problem;
  DYNDEPLOY_TRY(mix::resolve_call(attributes, inputs, output, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(drconv_forward_mix_workspace)(problem, inputs, *output, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_drconv_cpu_forward_mix(const dyndeploy_drconv* attributes, const dyndeploy_tensor inputs[5],
                                                  const dyndeploy_tensor* output,
                                                  const dyndeploy_resources* resources) {
  mix::Problem problem;
  DYNDEPLOY_TRY(mix::resolve_call(attributes, inputs, output, resources, &problem));
  for (int i = 0; i < mix::kCount; ++i) DYNDEPLOY_TRY(check_data(kOp, mix::kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "Y", *output));
  DYNDEPLOY_TRY(check_workspace(kOp, *resources,
                                DYNDEPLOY_PICK(drconv_forward_mix_workspace)(problem, inputs, *output, resources)));
  DYNDEPLOY_PICK(drconv_forward_mix)(problem, inputs, *output, resources);
  return DYNDEPLOY_OK;
}

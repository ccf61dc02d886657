// The C ABI on CPUs with filters that are mixed of banks: checks, then the kernels of the instruction set in use.
#include "common/entry.h"
#include "drconv/cpu.h"

namespace dyndeploy::drconv::mix {
namespace {

struct ForwardCall : ForwardArguments<dyndeploy_drconv, dyndeploy_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(mix::resolve(attributes, inputs, &problem));
    DYNDEPLOY_TRY(check_resources(kOp, resources));
    return check_unpacked(kOp, resources->packed);
  }
  uint64_t workspace() const {
    return DYNDEPLOY_PICK(drconv_forward_mix_workspace)(problem, inputs, *output, resources);
  }
  dyndeploy_status run() const {
    DYNDEPLOY_PICK(drconv_forward_mix)(problem, inputs, *output, resources);
    return DYNDEPLOY_OK;
  }
};

}  // namespace
}  // namespace dyndeploy::drconv::mix

using namespace dyndeploy;
using namespace dyndeploy::drconv;

dyndeploy_status dyndeploy_drconv_cpu_forward_mix_workspace(const dyndeploy_drconv* attributes,
                                                            const dyndeploy_tensor inputs[5],
                                                            const dyndeploy_tensor* output,
                                                            const dyndeploy_resources* resources, uint64_t* bytes) {
  return query_forward(kOp, mix::ForwardCall{{attributes, inputs, output, resources}}, bytes);
}

dyndeploy_status dyndeploy_drconv_cpu_forward_mix(const dyndeploy_drconv* attributes, const dyndeploy_tensor inputs[5],
                                                  const dyndeploy_tensor* output,
                                                  const dyndeploy_resources* resources) {
  return run_forward(kOp, mix::kInputs, mix::ForwardCall{{attributes, inputs, output, resources}});
}

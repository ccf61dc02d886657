// The C ABI on CPUs: checks, then the kernels of the instruction set in use.
#include "dgc/kernels.h"

#include <algorithm>

#include "common/cpu/packed.h"
#include "common/entry.h"
#include "dgc/cpu.h"

namespace dyndeploy::dgc {
namespace {

// Far below the end of int64: of what the backward's buffers hold of one sample.
constexpr int64_t kMostElements = int64_t{1} << 44;

struct ForwardCall : ForwardArguments<dyndeploy_dgc, dyndeploy_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(check_resources(kOp, resources));
    return dgc::resolve(attributes, inputs, &problem);
  }
  dyndeploy_status check_packed() const {
    return dyndeploy::check_packed(kOp, *resources, "W, heads", [&](const void* packed, uint64_t bytes) {
      return DYNDEPLOY_PICK(dgc_is_packed)(problem, packed, bytes);
    });
  }
  uint64_t workspace() const { return DYNDEPLOY_PICK(dgc_forward_workspace)(problem, resources); }
  dyndeploy_status run() const {
    DYNDEPLOY_PICK(dgc_forward)(problem, inputs, *output, resources);
    return DYNDEPLOY_OK;
  }
};

struct BackwardCall : BackwardArguments<dyndeploy_dgc, dyndeploy_resources> {
  Problem problem{};

  dyndeploy_status resolve() {
    DYNDEPLOY_TRY(check_resources(kOp, resources));
    return dgc::resolve(attributes, inputs, &problem);
  }
  dyndeploy_status prepare() const {
    const Window& window = problem.window;
    const int64_t map = window.H * window.W + 1, pixels = window.Ho * window.Wo, rows = problem.heads * problem.C;
    if (map >= kMostExtent) return unsupported("%s: gradients of maps of 2^31 pixels or more", kOp);
    if (map > kMostElements / std::max<int64_t>(rows, 1) || pixels > kMostElements / window.taps())
      return unsupported("%s: gradients of a sample whose heads' channels, or taps, are more than 2^44", kOp);
    return DYNDEPLOY_OK;
  }
  uint64_t workspace() const { return DYNDEPLOY_PICK(dgc_backward_workspace)(problem, gradients, resources); }
  dyndeploy_status run() const {
    DYNDEPLOY_PICK(dgc_backward)(problem, *gradient, inputs, gradients, resources);
    return DYNDEPLOY_OK;
  }
};

}  // namespace
}  // namespace dyndeploy::dgc

using namespace dyndeploy;
using namespace dyndeploy::dgc;

dyndeploy_status dyndeploy_dgc_cpu_packed_bytes(const dyndeploy_dgc* attributes, const dyndeploy_tensor* W,
                                                uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  return answer(kOp, DYNDEPLOY_PICK(dgc_packed_bytes)(problem), bytes);
}

dyndeploy_status dyndeploy_dgc_cpu_pack(const dyndeploy_dgc* attributes, const dyndeploy_tensor* W, void* packed,
                                        uint64_t packed_bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  DYNDEPLOY_TRY(check_data(kOp, "W", *W));
  DYNDEPLOY_TRY(check_room(kOp, packed, packed_bytes, DYNDEPLOY_PICK(dgc_packed_bytes)(problem)));
  DYNDEPLOY_PICK(dgc_pack)(problem, *W, packed);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dgc_cpu_forward_workspace(const dyndeploy_dgc* attributes, const dyndeploy_tensor inputs[4],
                                                     const dyndeploy_tensor* output,
                                                     const dyndeploy_resources* resources, uint64_t* bytes) {
  return query_forward(kOp, ForwardCall{{attributes, inputs, output, resources}}, bytes);
}

dyndeploy_status dyndeploy_dgc_cpu_forward(const dyndeploy_dgc* attributes, const dyndeploy_tensor inputs[4],
                                           const dyndeploy_tensor* output, const dyndeploy_resources* resources) {
  return run_forward(kOp, kInputs, ForwardCall{{attributes, inputs, output, resources}});
}

dyndeploy_status dyndeploy_dgc_cpu_backward_workspace(const dyndeploy_dgc* attributes, const dyndeploy_tensor* gradient,
                                                      const dyndeploy_tensor inputs[4],
                                                      const dyndeploy_tensor gradients[4],
                                                      const dyndeploy_resources* resources, uint64_t* bytes) {
  return query_backward(kOp, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}}, bytes);
}

dyndeploy_status dyndeploy_dgc_cpu_backward(const dyndeploy_dgc* attributes, const dyndeploy_tensor* gradient,
                                            const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                            const dyndeploy_resources* resources) {
  return run_backward(kOp, kInputs, kGradients, BackwardCall{{attributes, gradient, inputs, gradients, resources}});
}

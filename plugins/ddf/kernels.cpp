#include "ddf/kernels.h"

#include <algorithm>

#include "ddf/problem.h"

namespace dyndeploy {
namespace {

using ddf::kChannelFilter;
using ddf::kChannelGain;
using ddf::kSpatialFilter;
using ddf::kX;
using ddf::Problem;

constexpr const char* kOp = "ddf";
constexpr const char* kInputs[] = {"X", "channel_filter", "spatial_filter", "channel_gain"};
constexpr const char* kGradients[] = {"the gradient of X", "the gradient of channel_filter",
                                      "the gradient of spatial_filter", "the gradient of channel_gain"};

dyndeploy_status resolve(const dyndeploy_ddf* attributes, const dyndeploy_tensor* inputs, Problem* problem) {
  if (!attributes || !inputs) return bad_argument("%s: a pointer is NULL", kOp);
  DYNDEPLOY_TRY(check_struct(kOp, attributes->size, sizeof(dyndeploy_ddf)));
  const dyndeploy_tensor& X = inputs[kX];
  const int32_t dtype = X.dtype;
  DYNDEPLOY_TRY(check_tensor(kOp, "X", X, dtype, {-1, -1, -1, -1}));
  DYNDEPLOY_TRY(check_map(kOp, "X", X));
  const int64_t C = X.extents[1];
  DYNDEPLOY_TRY(check_range(kOp, "heads", attributes->heads, 1, kMostExtent));
  if (C % attributes->heads)
    return bad_argument("%s: heads = %lld does not divide the %lld channels of X", kOp,
                        static_cast<long long>(attributes->heads), static_cast<long long>(C));
  DYNDEPLOY_TRY(check_range(kOp, "combine", attributes->combine, 0, 1));
  DYNDEPLOY_TRY(check_range(kOp, "filter_norm", attributes->filter_norm, 0, 1));
  DYNDEPLOY_TRY(check_range(kOp, "relu", attributes->relu, 0, 1));
  const int64_t kh = attributes->kernel_shape[0], kw = attributes->kernel_shape[1];
  DYNDEPLOY_TRY(
      resolve_window(kOp, X, kh, kw, attributes->strides, attributes->pads, attributes->dilations, &problem->window));
  // Every product of the shapes below fits a dim before it is computed.
  const int64_t width = std::max(C, attributes->heads);
  DYNDEPLOY_TRY(check_range(kOp, "scale", attributes->scale, 1, int64_t{1} << 15));
  const int64_t branches = attributes->scale * attributes->scale, rest = kMostExtent / branches / width;
  if (kh > rest / kw)
    return unsupported("%s: scale^2 * channels * taps is more than 2^31", kOp);
  const int64_t taps = kh * kw;
  if (attributes->filter_norm && taps == 1)
    return bad_argument("%s: filter_norm with a kernel of one tap, which has no standard deviation", kOp);

  problem->N = X.extents[0];
  problem->C = C;
  problem->heads = attributes->heads;
  problem->scale = attributes->scale;
  problem->add = attributes->combine != 0;
  problem->filter_norm = attributes->filter_norm != 0;
  problem->relu = attributes->relu != 0;
  problem->spatial_gain = attributes->spatial_gain;
  problem->dtype = dtype;
  const Window& window = problem->window;
  DYNDEPLOY_TRY(check_tensor(kOp, "channel_filter", inputs[kChannelFilter], dtype, {problem->N, branches * C * taps}));
  DYNDEPLOY_TRY(check_tensor(kOp, "spatial_filter", inputs[kSpatialFilter], dtype,
                             {problem->N, branches * problem->heads * taps, window.Ho, window.Wo}));
  return check_tensor(kOp, "channel_gain", inputs[kChannelGain], dtype, {branches * C * taps});
}

// Y, or the gradient of it.
dyndeploy_status check_output(const char* name, const Problem& problem, const dyndeploy_tensor* output) {
  if (!output) return bad_argument("%s: %s is NULL", kOp, name);
  DYNDEPLOY_TRY(check_tensor(kOp, name, *output, problem.dtype,
                             {problem.N, problem.C, problem.scale * problem.window.Ho,
                              problem.scale * problem.window.Wo}));
  return check_map(kOp, name, *output);
}

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
  DYNDEPLOY_TRY(check_output("the gradient of Y", *problem, gradient));
  if (!gradients) return bad_argument("%s: gradients is NULL", kOp);
  for (int i = 0; i < 4; ++i) {
    if (!gradients[i].data) continue;
    const int64_t* e = inputs[i].extents;
    if (inputs[i].rank == 1)
      DYNDEPLOY_TRY(check_tensor(kOp, kGradients[i], gradients[i], problem->dtype, {e[0]}));
    else if (inputs[i].rank == 2)
      DYNDEPLOY_TRY(check_tensor(kOp, kGradients[i], gradients[i], problem->dtype, {e[0], e[1]}));
    else
      DYNDEPLOY_TRY(check_tensor(kOp, kGradients[i], gradients[i], problem->dtype, {e[0], e[1], e[2], e[3]}));
    DYNDEPLOY_TRY(check_data(kOp, kGradients[i], gradients[i]));
  }
  return gradients[kX].data ? check_map(kOp, kGradients[kX], gradients[kX]) : DYNDEPLOY_OK;
}

}  // namespace
}  // namespace dyndeploy

using namespace dyndeploy;

dyndeploy_status dyndeploy_ddf_output(const dyndeploy_ddf* attributes, const dyndeploy_tensor inputs[4],
                                      int64_t extents[4]) {
  Problem problem;
  DYNDEPLOY_TRY(resolve(attributes, inputs, &problem));
  if (!extents) return bad_argument("%s: extents is NULL", kOp);
  extents[0] = problem.N;
  extents[1] = problem.C;
  extents[2] = problem.scale * problem.window.Ho;
  extents[3] = problem.scale * problem.window.Wo;
  return DYNDEPLOY_OK;
}

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

#include "ddf/problem.h"

#include <algorithm>

namespace dyndeploy::ddf {

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

dyndeploy_status check_output(const char* name, const Problem& problem, const dyndeploy_tensor* output) {
  if (!output) return bad_argument("%s: %s is NULL", kOp, name);
  DYNDEPLOY_TRY(check_tensor(kOp, name, *output, problem.dtype,
                             {problem.N, problem.C, problem.scale * problem.window.Ho,
                              problem.scale * problem.window.Wo}));
  return check_map(kOp, name, *output);
}

dyndeploy_status check_gradients(const Problem& problem, const dyndeploy_tensor* gradient, const dyndeploy_tensor* inputs,
                                 const dyndeploy_tensor* gradients) {
  DYNDEPLOY_TRY(check_output("the gradient of Y", problem, gradient));
  if (!gradients) return bad_argument("%s: gradients is NULL", kOp);
  constexpr const char* kNames[] = {"the gradient of X", "the gradient of channel_filter",
                                    "the gradient of spatial_filter", "the gradient of channel_gain"};
  for (int i = 0; i < 4; ++i) {
    if (!gradients[i].data) continue;
    const int64_t* e = inputs[i].extents;
    if (inputs[i].rank == 1)
      DYNDEPLOY_TRY(check_tensor(kOp, kNames[i], gradients[i], problem.dtype, {e[0]}));
    else if (inputs[i].rank == 2)
      DYNDEPLOY_TRY(check_tensor(kOp, kNames[i], gradients[i], problem.dtype, {e[0], e[1]}));
    else
      DYNDEPLOY_TRY(check_tensor(kOp, kNames[i], gradients[i], problem.dtype, {e[0], e[1], e[2], e[3]}));
    DYNDEPLOY_TRY(check_data(kOp, kNames[i], gradients[i]));
  }
  return gradients[kX].data ? check_map(kOp, kNames[kX], gradients[kX]) : DYNDEPLOY_OK;
}

}  // namespace dyndeploy::ddf

using namespace dyndeploy;

dyndeploy_status dyndeploy_ddf_output(const dyndeploy_ddf* attributes, const dyndeploy_tensor inputs[4],
                                      int64_t extents[4]) {
  ddf::Problem problem;
  DYNDEPLOY_TRY(ddf::resolve(attributes, inputs, &problem));
  if (!extents) return bad_argument("%s: extents is NULL", ddf::kOp);
  extents[0] = problem.N;
  extents[1] = problem.C;
  extents[2] = problem.scale * problem.window.Ho;
  extents[3] = problem.scale * problem.window.Wo;
  return DYNDEPLOY_OK;
}

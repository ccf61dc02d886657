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

}  // namespace dyndeploy::ddf

using namespace dyndeploy;

dyndeploy_status dyndeploy_ddf_output(const dyndeploy_ddf* attributes, const dyndeploy_tensor inputs[4],
                                      int64_t extents[4]) {
  ddf::Problem problem;
  DYNDEPLOY_TRY(ddf::resolve(attributes, inputs, &problem));
  return answer(ddf::kOp, problem.of_output(), extents);
}

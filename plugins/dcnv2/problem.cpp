#include "dcnv2/problem.h"

#include <algorithm>

namespace dyndeploy::dcnv2 {
namespace {

// Samples of a call, taps and channels counted: sizes in bytes stay far below the end of int64.
constexpr int64_t kMostSamples = int64_t{1} << 52;

}  // namespace

dyndeploy_status resolve_weights(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* W, Problem* problem) {
  if (!attributes || !W) return bad_argument("%s: a pointer is NULL", kOp);
  DYNDEPLOY_TRY(check_struct(kOp, attributes->size, sizeof(dyndeploy_dcnv2)));
  DYNDEPLOY_TRY(check_tensor(kOp, "W", *W, W->dtype, {-1, -1, -1, -1}));
  const int64_t O = W->extents[0], kh = W->extents[2], kw = W->extents[3];
  DYNDEPLOY_TRY(check_range(kOp, "group", attributes->group, 1, std::max<int64_t>(O, 1)));
  if (O % attributes->group)
    return bad_argument("%s: group = %lld does not divide the %lld outputs of W", kOp,
                        static_cast<long long>(attributes->group), static_cast<long long>(O));
  DYNDEPLOY_TRY(check_range(kOp, "kernel height", kh, 1, kMostExtent));
  DYNDEPLOY_TRY(check_range(kOp, "kernel width", kw, 1, kMostExtent));
  DYNDEPLOY_TRY(check_range(kOp, "channels", W->extents[1], 0, kMostExtent / attributes->group));
  *problem = {};
  problem->window.kh = kh;
  problem->window.kw = kw;
  problem->O = O;
  problem->C = W->extents[1] * attributes->group;
  problem->group = attributes->group;
  problem->dtype = W->dtype;
  return DYNDEPLOY_OK;
}

dyndeploy_status resolve(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* inputs, Problem* problem) {
  if (!inputs) return bad_argument("%s: inputs is NULL", kOp);
  DYNDEPLOY_TRY(resolve_weights(attributes, &inputs[kW], problem));
  const dyndeploy_tensor& X = inputs[kX];
  const int32_t dtype = X.dtype;
  DYNDEPLOY_TRY(check_tensor(kOp, "X", X, dtype, {-1, problem->C, -1, -1}));
  DYNDEPLOY_TRY(check_tensor(kOp, "W", inputs[kW], dtype, {-1, -1, -1, -1}));
  DYNDEPLOY_TRY(check_map(kOp, "X", X));
  const int64_t taps = problem->window.taps();
  DYNDEPLOY_TRY(check_range(kOp, "taps", taps, 1, kMostExtent / 3));
  DYNDEPLOY_TRY(check_range(kOp, "offset_group", attributes->offset_group, 1,
                            std::min(std::max<int64_t>(problem->C, 1), kMostExtent / (3 * taps))));
  if (problem->C % attributes->offset_group)
    return bad_argument("%s: offset_group = %lld does not divide the %lld channels of X", kOp,
                        static_cast<long long>(attributes->offset_group), static_cast<long long>(problem->C));
  DYNDEPLOY_TRY(check_range(kOp, "sigmoid", attributes->sigmoid, 0, 1));
  DYNDEPLOY_TRY(check_range(kOp, "relu", attributes->relu, 0, 1));
  DYNDEPLOY_TRY(resolve_window(kOp, X, problem->window.kh, problem->window.kw, attributes->strides, attributes->pads,
                               attributes->dilations, &problem->window));
  problem->N = X.extents[0];
  problem->offset_group = attributes->offset_group;
  problem->sigmoid = attributes->sigmoid != 0;
  problem->relu = attributes->relu != 0;
  problem->mask_scale = attributes->mask_scale;
  const Window& window = problem->window;
  DYNDEPLOY_TRY(check_tensor(kOp, "offset_mask", inputs[kOffsetMask], dtype,
                             {problem->N, 3 * problem->offset_group * taps, window.Ho, window.Wo}));
  if (problem->C * taps > kMostSamples / (std::max<int64_t>(problem->N, 1) * problem->pixels()))
    return unsupported("%s: more than 2^52 samples", kOp);
  return check_tensor(kOp, "B", inputs[kB], dtype, {problem->O});
}

}  // namespace dyndeploy::dcnv2

using namespace dyndeploy;

dyndeploy_status dyndeploy_dcnv2_output(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor inputs[4],
                                        int64_t extents[4]) {
  dcnv2::Problem problem;
  DYNDEPLOY_TRY(dcnv2::resolve(attributes, inputs, &problem));
  return answer(dcnv2::kOp, problem.of_output(), extents);
}

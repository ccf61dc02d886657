#include "dgc/problem.h"

namespace dyndeploy::dgc {

dyndeploy_status resolve_weights(const dyndeploy_dgc* attributes, const dyndeploy_tensor* W, Problem* problem) {
  if (!attributes || !W) return bad_argument("%s: a pointer is NULL", kOp);
  DYNDEPLOY_TRY(check_struct(kOp, attributes->size, sizeof(dyndeploy_dgc)));
  DYNDEPLOY_TRY(check_tensor(kOp, "W", *W, W->dtype, {-1, -1, -1, -1}));
  const int64_t O = W->extents[0], C = W->extents[1], kh = W->extents[2], kw = W->extents[3];
  DYNDEPLOY_TRY(check_range(kOp, "heads", attributes->heads, 1, O > 0 ? O : 1));
  if (O % attributes->heads)
    return bad_argument("%s: heads = %lld does not divide the %lld outputs of W", kOp,
                        static_cast<long long>(attributes->heads), static_cast<long long>(O));
  DYNDEPLOY_TRY(check_range(kOp, "inactive", attributes->inactive, -1, C));
  DYNDEPLOY_TRY(check_range(kOp, "kernel height", kh, 1, kMostExtent));
  DYNDEPLOY_TRY(check_range(kOp, "kernel width", kw, 1, kMostExtent));
  // Rows of packed weights are picked by indices of 32 bits.
  if (C >= kMostExtent / kw / kh) return unsupported("%s: an output of W has 2^31 elements or more", kOp);
  *problem = {};
  problem->window.kh = kh;
  problem->window.kw = kw;
  problem->O = O;
  problem->C = C;
  problem->heads = attributes->heads;
  problem->dtype = W->dtype;
  return DYNDEPLOY_OK;
}

dyndeploy_status resolve(const dyndeploy_dgc* attributes, const dyndeploy_tensor* inputs, Problem* problem) {
  if (!inputs) return bad_argument("%s: inputs is NULL", kOp);
  DYNDEPLOY_TRY(resolve_weights(attributes, &inputs[kW], problem));
  const dyndeploy_tensor& X = inputs[kX];
  const int32_t dtype = X.dtype;
  DYNDEPLOY_TRY(check_tensor(kOp, "X", X, dtype, {-1, problem->C, -1, -1}));
  DYNDEPLOY_TRY(check_tensor(kOp, "W", inputs[kW], dtype, {-1, -1, -1, -1}));
  DYNDEPLOY_TRY(check_map(kOp, "X", X));
  DYNDEPLOY_TRY(check_range(kOp, "shuffle", attributes->shuffle, 0, 1));
  DYNDEPLOY_TRY(check_range(kOp, "relu", attributes->relu, 0, 1));
  DYNDEPLOY_TRY(resolve_window(kOp, X, problem->window.kh, problem->window.kw, attributes->strides, attributes->pads,
                               attributes->dilations, &problem->window));
  problem->N = X.extents[0];
  problem->inactive = attributes->inactive;
  problem->threshold = attributes->threshold;
  problem->shuffle = attributes->shuffle != 0;
  problem->relu = attributes->relu != 0;
  DYNDEPLOY_TRY(check_tensor(kOp, "saliency", inputs[kSaliency], dtype, {problem->N, problem->heads * problem->C}));
  return check_tensor(kOp, "B", inputs[kB], dtype, {problem->O});
}

}  // namespace dyndeploy::dgc

using namespace dyndeploy;

dyndeploy_status dyndeploy_dgc_output(const dyndeploy_dgc* attributes, const dyndeploy_tensor inputs[4],
                                      int64_t extents[4]) {
  dgc::Problem problem;
  DYNDEPLOY_TRY(dgc::resolve(attributes, inputs, &problem));
  return answer(dgc::kOp, problem.of_output(), extents);
}

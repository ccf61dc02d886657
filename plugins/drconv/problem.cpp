#include "drconv/problem.h"

namespace dyndeploy::drconv {

dyndeploy_status resolve_maps(const dyndeploy_drconv* a, const dyndeploy_tensor& X, const dyndeploy_tensor& guide,
                              const dyndeploy_tensor& B, Problem* problem) {
  DYNDEPLOY_TRY(check_struct(kOp, a->size, sizeof *a));
  DYNDEPLOY_TRY(check_tensor(kOp, "X", X, X.dtype, {-1, -1, -1, -1}));
  DYNDEPLOY_TRY(check_tensor(kOp, "B", B, X.dtype, {-1}));
  DYNDEPLOY_TRY(check_map(kOp, "X", X));
  DYNDEPLOY_TRY(check_range(kOp, "regions", a->regions, 1, kMostExtent));
  DYNDEPLOY_TRY(check_range(kOp, "relu", a->relu, 0, 1));
  *problem = {.window = {},
              .N = X.extents[0],
              .C = X.extents[1],
              .O = B.extents[0],
              .regions = a->regions,
              .relu = a->relu != 0,
              .dtype = X.dtype};
  Window& window = problem->window;
  DYNDEPLOY_TRY(
      resolve_window(kOp, X, a->kernel_shape[0], a->kernel_shape[1], a->strides, a->pads, a->dilations, &window));
  // No product of these overflows: their factors are at most 2^31.
  DYNDEPLOY_TRY(check_range(kOp, "kernel height * width", window.taps(), 1, kMostExtent));
  DYNDEPLOY_TRY(check_tensor(kOp, "guide", guide, X.dtype, {problem->N, problem->regions, window.Ho, window.Wo}));
  if (problem->pixels() > INT32_MAX) return unsupported("%s: Y has 2^31 pixels or more", kOp);
  return DYNDEPLOY_OK;
}

dyndeploy_status resolve(const dyndeploy_drconv* a, const dyndeploy_tensor* inputs, Problem* problem) {
  if (!a) return bad_argument("%s: attributes is NULL", kOp);
  if (!inputs) return bad_argument("%s: inputs is NULL", kOp);
  DYNDEPLOY_TRY(resolve_maps(a, inputs[kX], inputs[kGuide], inputs[kB], problem));
  return check_tensor(kOp, "filters", inputs[kFilters], problem->dtype,
                      {problem->N, problem->regions * problem->O, problem->depth()});
}

}  // namespace dyndeploy::drconv

using namespace dyndeploy;

dyndeploy_status dyndeploy_drconv_output(const dyndeploy_drconv* attributes, const dyndeploy_tensor inputs[4],
                                         int64_t extents[4]) {
  drconv::Problem problem;
  DYNDEPLOY_TRY(drconv::resolve(attributes, inputs, &problem));
  return answer(drconv::kOp, problem.of_output(), extents);
}

#include "drconv/kernels.h"

#include <cstdint>

#include "drconv/problem.h"

namespace dyndeploy {
namespace {

using drconv::Problem;

constexpr const char* kOp = "drconv";
constexpr const char* kInputs[] = {"X", "filters", "guide", "B"};

dyndeploy_status resolve(const dyndeploy_drconv* a, const dyndeploy_tensor* inputs, Problem* problem) {
  if (!a) return bad_argument("%s: attributes is NULL", kOp);
  if (!inputs) return bad_argument("%s: inputs is NULL", kOp);
  DYNDEPLOY_TRY(check_struct(kOp, a->size, sizeof *a));
  const dyndeploy_tensor &X = inputs[drconv::kX], &B = inputs[drconv::kB];
  DYNDEPLOY_TRY(check_tensor(kOp, "X", X, X.dtype, {-1, -1, -1, -1}));
  DYNDEPLOY_TRY(check_tensor(kOp, "B", B, X.dtype, {-1}));
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
  DYNDEPLOY_TRY(check_tensor(kOp, "filters", inputs[drconv::kFilters], X.dtype,
                             {problem->N, problem->regions * problem->O, problem->depth()}));
  DYNDEPLOY_TRY(check_tensor(kOp, "guide", inputs[drconv::kGuide], X.dtype,
                             {problem->N, problem->regions, window.Ho, window.Wo}));
  if (problem->pixels() > INT32_MAX) return unsupported("%s: Y has 2^31 pixels or more", kOp);
  return DYNDEPLOY_OK;
}

// All that is known without data.
dyndeploy_status resolve_call(const dyndeploy_drconv* a, const dyndeploy_tensor* inputs, const dyndeploy_tensor* output,
                              const dyndeploy_resources* resources, Problem* problem) {
  DYNDEPLOY_TRY(resolve(a, inputs, problem));
  DYNDEPLOY_TRY(check_resources(kOp, resources));
  if (resources->packed) return bad_argument("%s: nothing of it can be packed, but packed is not NULL", kOp);
  if (!output) return bad_argument("%s: output is NULL", kOp);
  const Window& window = problem->window;
  DYNDEPLOY_TRY(check_tensor(kOp, "Y", *output, problem->dtype, {problem->N, problem->O, window.Ho, window.Wo}));
  DYNDEPLOY_TRY(check_map(kOp, "X", inputs[drconv::kX]));
  return check_map(kOp, "Y", *output);
}

}  // namespace
}  // namespace dyndeploy

using namespace dyndeploy;

dyndeploy_status dyndeploy_drconv_output(const dyndeploy_drconv* attributes, const dyndeploy_tensor inputs[4],
                                         int64_t extents[4]) {
  Problem problem;
  DYNDEPLOY_TRY(resolve(attributes, inputs, &problem));
  if (!extents) return bad_argument("%s: extents is NULL", kOp);
  extents[0] = problem.N;
  extents[1] = problem.O;
  extents[2] = problem.window.Ho;
  extents[3] = problem.window.Wo;
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_drconv_cpu_forward_workspace(const dyndeploy_drconv* attributes,
                                                        const dyndeploy_tensor inputs[4],
                                                        const dyndeploy_tensor* output,
                                                        const dyndeploy_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_call(attributes, inputs, output, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(drconv_forward_workspace)(problem, inputs, *output, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_drconv_cpu_forward(const dyndeploy_drconv* attributes, const dyndeploy_tensor inputs[4],
                                              const dyndeploy_tensor* output, const dyndeploy_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_call(attributes, inputs, output, resources, &problem));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "Y", *output));
  DYNDEPLOY_TRY(
      check_workspace(kOp, *resources, DYNDEPLOY_PICK(drconv_forward_workspace)(problem, inputs, *output, resources)));
  DYNDEPLOY_PICK(drconv_forward)(problem, inputs, *output, resources);
  return DYNDEPLOY_OK;
}

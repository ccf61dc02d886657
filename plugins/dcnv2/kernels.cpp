#include "dcnv2/kernels.h"

#include <algorithm>

#include "dcnv2/problem.h"

namespace dyndeploy {
namespace {

using dcnv2::kB;
using dcnv2::kOffsetMask;
using dcnv2::kW;
using dcnv2::kX;
using dcnv2::Problem;

constexpr const char* kOp = "dcnv2";
constexpr const char* kInputs[] = {"X", "offset_mask", "W", "B"};
// Samples of a call, taps and channels counted: sizes in bytes stay far below the end of int64.
constexpr int64_t kMostSamples = int64_t{1} << 52;

// What follows from the attributes and W alone, and is all that packing needs.
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

// Y, or the gradient of it.
dyndeploy_status check_output(const char* name, const Problem& problem, const dyndeploy_tensor* output) {
  if (!output) return bad_argument("%s: %s is NULL", kOp, name);
  DYNDEPLOY_TRY(check_tensor(kOp, name, *output, problem.dtype,
                             {problem.N, problem.O, problem.window.Ho, problem.window.Wo}));
  return check_map(kOp, name, *output);
}

dyndeploy_status check_packed(const Problem& problem, const dyndeploy_resources& resources) {
  if (!resources.packed) return DYNDEPLOY_OK;
  if (reinterpret_cast<uintptr_t>(resources.packed) % alignof(uint64_t))
    return bad_argument("%s: the packed weights are not aligned to 8 bytes", kOp);
  if (!DYNDEPLOY_PICK(dcnv2_is_packed)(problem, resources.packed, resources.packed_bytes))
    return bad_argument("%s: the packed weights are not those of this W, group and instruction set (%s)", kOp,
                        dyndeploy_instructions());
  return DYNDEPLOY_OK;
}

dyndeploy_status resolve_forward(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* inputs,
                                 const dyndeploy_tensor* output, const dyndeploy_resources* resources,
                                 Problem* problem) {
  DYNDEPLOY_TRY(check_resources(kOp, resources));
  DYNDEPLOY_TRY(resolve(attributes, inputs, problem));
  return check_output("Y", *problem, output);
}

dyndeploy_status resolve_backward(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* gradient,
                                  const dyndeploy_tensor* inputs, const dyndeploy_tensor* gradients,
                                  const dyndeploy_resources* resources, Problem* problem) {
  DYNDEPLOY_TRY(check_resources(kOp, resources));
  DYNDEPLOY_TRY(resolve(attributes, inputs, problem));
  DYNDEPLOY_TRY(check_output("the gradient of Y", *problem, gradient));
  if (!gradients) return bad_argument("%s: gradients is NULL", kOp);
  constexpr const char* kNames[] = {"the gradient of X", "the gradient of offset_mask", "the gradient of W",
                                    "the gradient of B"};
  for (int i = 0; i < 4; ++i) {
    if (!gradients[i].data) continue;
    const int64_t* e = inputs[i].extents;
    if (inputs[i].rank == 1)
      DYNDEPLOY_TRY(check_tensor(kOp, kNames[i], gradients[i], problem->dtype, {e[0]}));
    else
      DYNDEPLOY_TRY(check_tensor(kOp, kNames[i], gradients[i], problem->dtype, {e[0], e[1], e[2], e[3]}));
    DYNDEPLOY_TRY(check_data(kOp, kNames[i], gradients[i]));
  }
  return gradients[kX].data ? check_map(kOp, kNames[kX], gradients[kX]) : DYNDEPLOY_OK;
}

}  // namespace
}  // namespace dyndeploy

using namespace dyndeploy;

dyndeploy_status dyndeploy_dcnv2_output(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor inputs[4],
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

dyndeploy_status dyndeploy_dcnv2_cpu_packed_bytes(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* W,
                                                  uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(dcnv2_packed_bytes)(problem);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dcnv2_cpu_pack(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* W, void* packed,
                                          uint64_t packed_bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  DYNDEPLOY_TRY(check_data(kOp, "W", *W));
  const uint64_t needed = DYNDEPLOY_PICK(dcnv2_packed_bytes)(problem);
  if (!packed || reinterpret_cast<uintptr_t>(packed) % alignof(uint64_t) || packed_bytes < needed)
    return bad_argument("%s: packed weights need %llu bytes, aligned to 8; given are %llu at %p", kOp,
                        static_cast<unsigned long long>(needed), static_cast<unsigned long long>(packed_bytes), packed);
  DYNDEPLOY_PICK(dcnv2_pack)(problem, *W, packed);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dcnv2_cpu_forward_workspace(const dyndeploy_dcnv2* attributes,
                                                       const dyndeploy_tensor inputs[4], const dyndeploy_tensor* output,
                                                       const dyndeploy_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(dcnv2_forward_workspace)(problem, inputs, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dcnv2_cpu_forward(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor inputs[4],
                                             const dyndeploy_tensor* output, const dyndeploy_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  for (int i = 0; i < 4; ++i)
    if (i != kW || !resources->packed) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "Y", *output));
  DYNDEPLOY_TRY(check_packed(problem, *resources));
  DYNDEPLOY_TRY(
      check_workspace(kOp, *resources, DYNDEPLOY_PICK(dcnv2_forward_workspace)(problem, inputs, resources)));
  DYNDEPLOY_PICK(dcnv2_forward)(problem, inputs, *output, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dcnv2_cpu_backward_workspace(const dyndeploy_dcnv2* attributes,
                                                        const dyndeploy_tensor* gradient,
                                                        const dyndeploy_tensor inputs[4],
                                                        const dyndeploy_tensor gradients[4],
                                                        const dyndeploy_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_backward(attributes, gradient, inputs, gradients, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(dcnv2_backward_workspace)(problem, gradients, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dcnv2_cpu_backward(const dyndeploy_dcnv2* attributes, const dyndeploy_tensor* gradient,
                                              const dyndeploy_tensor inputs[4], const dyndeploy_tensor gradients[4],
                                              const dyndeploy_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_backward(attributes, gradient, inputs, gradients, resources, &problem));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "the gradient of Y", *gradient));
  DYNDEPLOY_TRY(check_workspace(kOp, *resources,
                                DYNDEPLOY_PICK(dcnv2_backward_workspace)(problem, gradients, resources)));
  DYNDEPLOY_PICK(dcnv2_backward)(problem, *gradient, inputs, gradients, resources);
  return DYNDEPLOY_OK;
}

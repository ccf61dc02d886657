#include "dgc/kernels.h"

#include "dgc/problem.h"

namespace dyndeploy {
namespace {

using dgc::kB;
using dgc::kSaliency;
using dgc::kW;
using dgc::kX;
using dgc::Problem;

constexpr const char* kOp = "dgc";
constexpr const char* kInputs[] = {"X", "saliency", "W", "B"};

// What follows from the attributes and W alone, and is all that packing needs.
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

dyndeploy_status resolve_forward(const dyndeploy_dgc* attributes, const dyndeploy_tensor* inputs,
                                 const dyndeploy_tensor* output, const dyndeploy_resources* resources,
                                 Problem* problem) {
  DYNDEPLOY_TRY(check_resources(kOp, resources));
  DYNDEPLOY_TRY(resolve(attributes, inputs, problem));
  if (!output) return bad_argument("%s: Y is NULL", kOp);
  DYNDEPLOY_TRY(check_tensor(kOp, "Y", *output, problem->dtype,
                             {problem->N, problem->O, problem->window.Ho, problem->window.Wo}));
  return check_map(kOp, "Y", *output);
}

dyndeploy_status check_packed(const Problem& problem, const dyndeploy_resources& resources) {
  if (!resources.packed) return DYNDEPLOY_OK;
  if (reinterpret_cast<uintptr_t>(resources.packed) % alignof(uint64_t))
    return bad_argument("%s: the packed weights are not aligned to 8 bytes", kOp);
  if (!DYNDEPLOY_PICK(dgc_is_packed)(problem, resources.packed, resources.packed_bytes))
    return bad_argument("%s: the packed weights are not those of this W, heads and instruction set (%s)", kOp,
                        dyndeploy_instructions());
  return DYNDEPLOY_OK;
}

}  // namespace
}  // namespace dyndeploy

using namespace dyndeploy;

dyndeploy_status dyndeploy_dgc_output(const dyndeploy_dgc* attributes, const dyndeploy_tensor inputs[4],
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

dyndeploy_status dyndeploy_dgc_cpu_packed_bytes(const dyndeploy_dgc* attributes, const dyndeploy_tensor* W,
                                                uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(dgc_packed_bytes)(problem);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dgc_cpu_pack(const dyndeploy_dgc* attributes, const dyndeploy_tensor* W, void* packed,
                                        uint64_t packed_bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_weights(attributes, W, &problem));
  DYNDEPLOY_TRY(check_data(kOp, "W", *W));
  const uint64_t needed = DYNDEPLOY_PICK(dgc_packed_bytes)(problem);
  if (!packed || reinterpret_cast<uintptr_t>(packed) % alignof(uint64_t) || packed_bytes < needed)
    return bad_argument("%s: packed weights need %llu bytes, aligned to 8; given are %llu at %p", kOp,
                        static_cast<unsigned long long>(needed), static_cast<unsigned long long>(packed_bytes), packed);
  DYNDEPLOY_PICK(dgc_pack)(problem, *W, packed);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dgc_cpu_forward_workspace(const dyndeploy_dgc* attributes, const dyndeploy_tensor inputs[4],
                                                     const dyndeploy_tensor* output,
                                                     const dyndeploy_resources* resources, uint64_t* bytes) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  if (!bytes) return bad_argument("%s: bytes is NULL", kOp);
  *bytes = DYNDEPLOY_PICK(dgc_forward_workspace)(problem, resources);
  return DYNDEPLOY_OK;
}

dyndeploy_status dyndeploy_dgc_cpu_forward(const dyndeploy_dgc* attributes, const dyndeploy_tensor inputs[4],
                                           const dyndeploy_tensor* output, const dyndeploy_resources* resources) {
  Problem problem;
  DYNDEPLOY_TRY(resolve_forward(attributes, inputs, output, resources, &problem));
  for (int i = 0; i < 4; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i], inputs[i]));
  DYNDEPLOY_TRY(check_data(kOp, "Y", *output));
  DYNDEPLOY_TRY(check_packed(problem, *resources));
  DYNDEPLOY_TRY(check_workspace(kOp, *resources, DYNDEPLOY_PICK(dgc_forward_workspace)(problem, resources)));
  DYNDEPLOY_PICK(dgc_forward)(problem, inputs, *output, resources);
  return DYNDEPLOY_OK;
}

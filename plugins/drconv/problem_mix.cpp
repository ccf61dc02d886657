#include "drconv/problem_mix.h"

namespace dyndeploy::drconv::mix {

dyndeploy_status resolve(const dyndeploy_drconv* a, const dyndeploy_tensor* inputs, Problem* problem) {
  if (!a) return bad_argument("%s: attributes is NULL", kOp);
  if (!inputs) return bad_argument("%s: inputs is NULL", kOp);
  drconv::Problem& convolution = problem->convolution;
  DYNDEPLOY_TRY(resolve_maps(a, inputs[kX], inputs[kGuide], inputs[kB], &convolution));
  const dyndeploy_tensor& share = inputs[kShare];
  DYNDEPLOY_TRY(check_tensor(kOp, "share", share, convolution.dtype, {convolution.N, convolution.regions, -1}));
  problem->bases = share.extents[2];
  DYNDEPLOY_TRY(check_tensor(kOp, "banks", inputs[kBanks], convolution.dtype,
                             {problem->bases * convolution.O, convolution.depth()}));
  return check_tensor(kOp, "the filters of a sample", filters_of(*problem, 1, convolution.O, convolution.dtype, nullptr),
                      convolution.dtype, {1, convolution.regions * convolution.O, convolution.depth()});
}

dyndeploy_tensor filters_of(const Problem& problem, int64_t samples, int64_t outputs, int32_t dtype, void* data) {
  const int64_t rows = problem.convolution.regions * outputs, depth = problem.convolution.depth();
  dyndeploy_tensor filters{};
  filters.data = data;
  filters.rank = 3;
  filters.dtype = dtype;
  filters.extents[0] = samples;
  filters.extents[1] = rows;
  filters.extents[2] = depth;
  filters.strides[2] = 1;
  filters.strides[1] = depth;
  filters.strides[0] = samples > 1 ? rows * depth : 0;  // of one sample it is nobody's business, and may not fit
  return filters;
}

dyndeploy_tensor samples_of(const dyndeploy_tensor& tensor, int64_t first, int64_t count) {
  dyndeploy_tensor some = tensor;
  some.extents[0] = count;
  const int64_t bytes = tensor.dtype == DYNDEPLOY_FLOAT32 ? 4 : 2;
  if (tensor.data && first > 0) some.data = static_cast<char*>(tensor.data) + first * tensor.strides[0] * bytes;
  return some;
}

}  // namespace dyndeploy::drconv::mix

using namespace dyndeploy;

dyndeploy_status dyndeploy_drconv_output_mix(const dyndeploy_drconv* attributes, const dyndeploy_tensor inputs[5],
                                             int64_t extents[4]) {
  drconv::mix::Problem problem;
  DYNDEPLOY_TRY(drconv::mix::resolve(attributes, inputs, &problem));
  return answer(drconv::kOp, problem.of_output(), extents);
}

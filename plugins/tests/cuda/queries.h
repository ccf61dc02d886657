// An operator's workspace queries, with sizes that nobody has memory for.
#pragma once

#include <array>

#include "cuda/machine.h"

namespace dyndeploy::test {

// A tensor without data. Of more than one layout only with four dims.
inline dyndeploy_tensor tensor_of(const std::vector<int64_t>& extents, int32_t dtype, Layout layout) {
  dyndeploy_tensor tensor{};
  tensor.rank = static_cast<int32_t>(extents.size());
  tensor.dtype = dtype;
  std::copy(extents.begin(), extents.end(), tensor.extents);
  std::vector<int> order;
  for (int axis = tensor.rank - 1; axis >= 0; --axis) order.push_back(axis);
  if (tensor.rank == 4 && layout != Layout::nchw) order = {1, 3, 2, 0};
  int64_t stride = 1;
  for (const int axis : order) {
    tensor.strides[axis] = stride;
    const int64_t extent = extents[static_cast<size_t>(axis)];
    stride *= layout == Layout::hwc8 && axis == 1 ? (extent + 7) / 8 * 8 : std::max<int64_t>(extent, 1);
  }
  return tensor;
}

template <class Op>
std::string text_of(typename Op::Attributes attributes, const Extents& extents) {
  std::ostringstream text;
  for (const Number& number : Op::numbers(attributes)) text << number.name << '=' << *number.value << ' ';
  for (const std::vector<int64_t>& e : extents) text << ' ' << e;
  return text.str();
}

// For data of which a query only has to know that it is there: aligned to its element and to nothing more.
inline void* somewhere() {
  alignas(16) static float numbers[2];
  return numbers + 1;
}

// The same tensors as gradients, some of them wanted.
inline std::array<dyndeploy_tensor, 4> gradients_of(const dyndeploy_tensor* inputs, const std::array<bool, 4>& wanted) {
  std::array<dyndeploy_tensor, 4> gradients;
  for (size_t i = 0; i < 4; ++i) (gradients[i] = inputs[i]).data = wanted[i] ? somewhere() : nullptr;
  return gradients;
}

// The workspace never shrinks with a tensor: who asked for the largest ones has enough for all.
template <class Op>
void check_growth(Random& random, const typename Op::Attributes& attributes, const Extents& small,
                  const Extents& large) {
  const Mode mode = some_mode(random);
  const auto of_map = [&] { return random.pick({Layout::nchw, Layout::channels_last, Layout::hwc8}); };
  std::array<Layout, kInputCount<Op>> of_inputs;
  for (Layout& layout : of_inputs) layout = of_map();
  const Layout of_y = of_map();
  const Note note("growth: ", text_of<Op>(attributes, small), " to ", text_of<Op>(attributes, large), ", ",
                  dtype_name(mode.dtype), mode.tf32 ? ", TF32" : "");
  const auto query_with = [&](const Extents& extents, auto query) {
    dyndeploy_tensor inputs[kInputCount<Op>];
    for (size_t i = 0; i < kInputCount<Op>; ++i)
      inputs[i] = tensor_of(extents[i], mode.dtype, Op::is_map[i] ? of_inputs[i] : Layout::nchw);
    std::vector<int64_t> of_output(4);
    CHECK_OK(Op::output(&attributes, inputs, of_output.data()));
    const dyndeploy_tensor Y = tensor_of(of_output, mode.dtype, of_y);
    const dyndeploy_cuda_resources resources = cuda_resources(mode.tf32);
    const Note which("X ", test::text_of(inputs[0]), ", Y ", test::text_of(Y));
    uint64_t bytes = 0;
    const dyndeploy_status status = query(inputs, Y, resources, &bytes);
    // It may be too large for the kernels.
    if (status == DYNDEPLOY_UNSUPPORTED) return UINT64_MAX;
    CHECK_OK(status);
    return bytes;
  };
  const auto check = [&](auto query) {
    const uint64_t of_small = query_with(small, query), of_large = query_with(large, query);
    CHECK(of_small != UINT64_MAX);
    if (of_small > of_large) CHECK_EQ(of_small, of_large);
  };
  check([&](const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y, const dyndeploy_cuda_resources& resources,
            uint64_t* bytes) { return Op::forward_workspace(&attributes, inputs, &Y, &resources, bytes); });
  if constexpr (Learns<Op>) {
    const std::array<bool, 4> wanted{random.chance(0.6), random.chance(0.6), random.chance(0.6), random.chance(0.6)};
    const Note backward("backward, wanted ", wanted[0], wanted[1], wanted[2], wanted[3]);
    check([&](const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y, const dyndeploy_cuda_resources& resources,
              uint64_t* bytes) {
      const auto gradients = gradients_of(inputs, wanted);
      return Op::backward_workspace(&attributes, &Y, inputs, gradients.data(), &resources, bytes);
    });
  }
}

// A size, or a larger one.
inline int64_t grown(Random& random, int64_t size) {
  return size + (random.chance(0.5) ? 0 : random.integer(1, random.pick<int64_t>({1, 8, 100, 300})));
}

// The queries with tensors that no memory holds: refused, or answered without an overflow, which a sanitizer sees.
template <class Op>
void check_queries(Random& random, const typename Op::Attributes& attributes, const Extents& extents) {
  const Note note("queries: ", text_of<Op>(attributes, extents));
  const auto strided = [&](const std::vector<int64_t>& e) {
    dyndeploy_tensor tensor{};
    tensor.rank = static_cast<int32_t>(e.size());
    tensor.dtype = DYNDEPLOY_BFLOAT16;
    std::copy(e.begin(), e.end(), tensor.extents);
    // All along the other dims is the same.
    tensor.strides[tensor.rank == 4 && random.chance(0.5) ? 1 : tensor.rank - 1] = 1;
    return tensor;
  };
  dyndeploy_tensor inputs[kInputCount<Op>];
  for (size_t i = 0; i < kInputCount<Op>; ++i) inputs[i] = strided(extents[i]);
  std::vector<int64_t> of_y(4, -1);
  uint64_t bytes = 0;
  if constexpr (Packs<Op>)
    if (Op::packed_bytes(&attributes, &inputs[2], &bytes) == DYNDEPLOY_OK) CHECK(bytes < uint64_t{1} << 62);
  if (Op::output(&attributes, inputs, of_y.data()) != DYNDEPLOY_OK) return;
  const dyndeploy_tensor Y = strided(of_y);
  const dyndeploy_cuda_resources resources = cuda_resources(0);
  const auto check = [&](dyndeploy_status status) {
    if (status == DYNDEPLOY_OK)
      CHECK(bytes < uint64_t{1} << 62);
    else
      CHECK_REFUSED(status, Op::name);
  };
  check(Op::forward_workspace(&attributes, inputs, &Y, &resources, &bytes));
  if constexpr (Learns<Op>) {
    const auto gradients = gradients_of(inputs, {true, true, true, true});
    check(Op::backward_workspace(&attributes, &Y, inputs, gradients.data(), &resources, &bytes));
  }
}

}  // namespace dyndeploy::test

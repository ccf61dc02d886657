// Calls of an operator's CUDA kernels through the C ABI, in all the ways that must not matter to its result.
//
// An operator (call.h) has besides: is_map[], which inputs are maps, and make_reference(attributes, values, dtype, tf32),
// which knows what this machine rounds. One whose gradient of X is summed in any order says so: kScatters.
#pragma once

#include <array>
#include <functional>

#include "cuda/machine.h"
#include "cuda/queries.h"

namespace dyndeploy::test {

// The same for all addresses, since who asks may have none yet.
template <class Op>
uint64_t workspace_bytes(const Call<Op>& call, const dyndeploy_tensor& Y, const dyndeploy_cuda_resources& resources) {
  uint64_t bytes = 0, without_data = 0;
  CHECK_OK(Op::forward_workspace(&call.attributes, call.inputs, &Y, &resources, &bytes));
  constexpr size_t kY = kInputCount<Op>;
  dyndeploy_tensor tensors[kY + 1];
  std::copy(call.inputs, call.inputs + kY, tensors);
  tensors[kY] = Y;
  for (dyndeploy_tensor& tensor : tensors) tensor.data = nullptr;
  CHECK_OK(Op::forward_workspace(&call.attributes, tensors, &tensors[kY], &resources, &without_data));
  CHECK_EQ(bytes, without_data);
  CHECK(bytes < uint64_t{1} << 32);
  return bytes;
}

template <Packs Op>
DeviceBytes packed_weights(const Call<Op>& call) {
  uint64_t bytes = 0;
  CHECK_OK(Op::packed_bytes(&call.attributes, &call.inputs[2], &bytes));
  DeviceBytes packed(bytes, 0, 0xff, "packed weights");
  CHECK_OK(Op::pack(&call.attributes, &call.inputs[2], packed.data(), bytes));
  return packed;
}

template <class Op>
Memory forward_memory(Random& random, const Call<Op>& call, const DeviceTensor& Y, int32_t tf32,
                      const DeviceBytes* packed) {
  dyndeploy_cuda_resources resources = cuda_resources(tf32);
  if (packed) {
    resources.packed = packed->data();
    resources.packed_bytes = packed->count();
  }
  return {random, resources, workspace_bytes(call, Y.view(), resources)};
}

template <class Op>
void forward(Random& random, const Call<Op>& call, const DeviceTensor& Y, int32_t tf32, const DeviceBytes* packed) {
  const Memory memory = forward_memory(random, call, Y, tf32, packed);
  const std::vector<unsigned char> before = packed ? packed->bytes() : std::vector<unsigned char>();
  CHECK_OK(Op::forward(&call.attributes, call.inputs, &Y.view(), &memory.resources));
  Y.check_gaps();
  if (packed) CHECK(packed->bytes() == before);
}

#ifndef DYNDEPLOY_EMULATOR
// What enqueue(stream) does, captured, on other values in the same memory: the bits of a direct call.
inline void check_graph(Random& random, const std::vector<DeviceTensor*>& inputs,
                        const std::vector<DeviceTensor*>& outputs, const std::function<void(void* stream)>& enqueue) {
  const Note note("as a graph");
  const auto clear = [&] {
    for (DeviceTensor* output : outputs) output->clear();
  };
  clear();
  const Graph graph([&] { enqueue(current_stream()); });
  for (const DeviceTensor* output : outputs) output->check_untouched();
  for (int replay = 0; replay < 2; ++replay) {
    for (DeviceTensor* input : inputs) input->shuffle(random);
    clear();
    graph.run();
    std::vector<std::vector<unsigned char>> bits;
    for (const DeviceTensor* output : outputs) {
      output->check_gaps();
      bits.push_back(output->elements());
    }
    clear();
    enqueue(current_stream());
    for (size_t i = 0; i < outputs.size(); ++i) outputs[i]->check_same_bits(bits[i]);
  }
}
#endif

template <class Op>
std::vector<DeviceTensor*> inputs_of(Call<Op>& call) {
  std::vector<DeviceTensor*> inputs;
  for (DeviceTensor& tensor : call.tensors) inputs.push_back(&tensor);
  return inputs;
}

// `of_y`: the layout of Y. The inputs' values are others afterwards.
template <class Op>
void check_forward(Random& random, Call<Op>& call, int32_t tf32, Layout of_y) {
  const auto reference = Op::make_reference(call.attributes, call.values, call.dtype, tf32);
  std::vector<int64_t> extents(4, -1);
  CHECK_OK(Op::output(&call.attributes, call.inputs, extents.data()));
  CHECK_EQ(extents, reference.extents());
  DeviceTensor Y = DeviceTensor::output(random, call.dtype, of_y, extents);
  const Note note(tf32 ? "TF32, " : "", "Y ", text_of(Y.view()));
  forward(random, call, Y, tf32, nullptr);
  Y.check_close(reference.forward());
  const std::vector<unsigned char> bits = Y.elements();
  bool with_packed = random.chance(0.5);
  for_each_run(random, [&](const char* what) {
    const Note how(what, with_packed ? ", packed" : "");
    Y.clear();
    if constexpr (Packs<Op>) {
      std::unique_ptr<DeviceBytes> packed;
      if (with_packed) packed = std::make_unique<DeviceBytes>(packed_weights(call));
      forward(random, call, Y, tf32, packed.get());
    } else {
      forward(random, call, Y, tf32, nullptr);
    }
    Y.check_same_bits(bits);
    with_packed = !with_packed;
  });
  for (const DeviceTensor& tensor : call.tensors) tensor.check_unchanged();
#ifndef DYNDEPLOY_EMULATOR
  const Memory memory = forward_memory(random, call, Y, tf32, nullptr);
  check_graph(random, inputs_of(call), {&Y}, [&](void* stream) {
    dyndeploy_cuda_resources resources = memory.resources;
    resources.stream = stream;
    CHECK_OK(Op::forward(&call.attributes, call.inputs, &Y.view(), &resources));
  });
#endif
}

// --- gradients

using Wanted = std::array<bool, 4>;
inline constexpr Wanted kAll{true, true, true, true};

// Whether another run may give other bits of the gradient of this input.
template <class Op>
constexpr bool scatters(size_t input) {
  if constexpr (requires { Op::kScatters; }) return Op::kScatters && input == 0;
  return false;
}

// The gradients of a call: of Y, which is given, and of the inputs.
template <Learns Op>
class Gradients {
 public:
  // `of_inputs`: their layouts; empty: drawn.
  Gradients(Random& random, const Call<Op>& call, const Doubles& gradient, Layout of_y,
            const std::vector<Layout>& of_inputs = {})
      : call_(call), of_y_(DeviceTensor::input(random, call.dtype, of_y, gradient)) {
    for (size_t i = 0; i < 4; ++i) {
      const Layout layout = of_inputs.empty() ? Cuda::layout<Op>(random, i) : of_inputs[i];
      outputs_.push_back(DeviceTensor::output(random, call.dtype, layout, call.values[i].extents()));
    }
  }

  DeviceTensor& of_y() { return of_y_; }
  std::vector<DeviceTensor>& outputs() { return outputs_; }

  Memory memory(Random& random, int32_t tf32, const Wanted& wanted) const {
    const dyndeploy_cuda_resources resources = cuda_resources(tf32);
    return {random, resources, workspace_bytes(resources, wanted)};
  }

  dyndeploy_status enqueue(const dyndeploy_cuda_resources& resources, const Wanted& wanted) const {
    const auto gradients = chosen(wanted);
    return Op::backward(&call_.attributes, &of_y_.view(), call_.inputs, gradients.data(), &resources);
  }

  void compute(Random& random, int32_t tf32, const Wanted& wanted) {
    for (DeviceTensor& output : outputs_) output.clear();
    const Memory with_workspace = memory(random, tf32, wanted);
    CHECK_OK(enqueue(with_workspace.resources, wanted));
    for (size_t i = 0; i < 4; ++i)
      if (wanted[i])
        outputs_[i].check_gaps();
      else
        outputs_[i].check_untouched();
  }

 private:
  std::array<dyndeploy_tensor, 4> chosen(const Wanted& wanted) const {
    std::array<dyndeploy_tensor, 4> gradients;
    for (size_t i = 0; i < 4; ++i) {
      gradients[i] = outputs_[i].view();
      if (!wanted[i]) gradients[i].data = nullptr;
    }
    return gradients;
  }

  // Of all addresses only those of the gradients matter, and only whether they are there.
  uint64_t workspace_bytes(const dyndeploy_cuda_resources& resources, const Wanted& wanted) const {
    uint64_t bytes = 0, without_data = 0;
    auto gradients = chosen(wanted);
    const auto query = [&](const dyndeploy_tensor& of_y, const dyndeploy_tensor* inputs, uint64_t* answer) {
      return Op::backward_workspace(&call_.attributes, &of_y, inputs, gradients.data(), &resources, answer);
    };
    CHECK_OK(query(of_y_.view(), call_.inputs, &bytes));
    dyndeploy_tensor tensors[5] = {call_.inputs[0], call_.inputs[1], call_.inputs[2], call_.inputs[3], of_y_.view()};
    for (dyndeploy_tensor& tensor : tensors) tensor.data = nullptr;
    for (dyndeploy_tensor& gradient : gradients)
      if (gradient.data) gradient.data = somewhere();
    CHECK_OK(query(tensors[4], tensors, &without_data));
    CHECK_EQ(bytes, without_data);
    CHECK(bytes < uint64_t{1} << 32);
    return bytes;
  }

  const Call<Op>& call_;
  DeviceTensor of_y_;
  std::vector<DeviceTensor> outputs_;
};

// All gradients, in every order of threads, and some of them. `of_y`: the layout of the gradient of Y; `of_inputs`: those
// of the gradients of the inputs, drawn if there are none. The inputs' values are others afterwards.
template <Learns Op>
void check_backward(Random& random, Call<Op>& call, int32_t tf32, Layout of_y,
                    const std::vector<Layout>& of_inputs = {}) {
  const auto reference = Op::make_reference(call.attributes, call.values, call.dtype, tf32);
  Gradients<Op> gradients(random, call, normal_values(random, reference.extents()), of_y, of_inputs);
  const std::vector<Reals> expected = reference.backward(gradients.of_y().values());
  const Note note("backward, ", tf32 ? "TF32, " : "", "gradient ", text_of(gradients.of_y().view()));
  std::vector<DeviceTensor>& outputs = gradients.outputs();
  std::vector<std::vector<unsigned char>> bits(4);
  const auto run = [&](const Wanted& wanted, bool again) {
    gradients.compute(random, tf32, wanted);
    for (size_t i = 0; i < 4; ++i) {
      const Note which("gradient of ", Op::inputs[i], ", ", text_of(outputs[i].view()));
      if (!wanted[i]) continue;
      if (again && !scatters<Op>(i))
        outputs[i].check_same_bits(bits[i]);
      else
        outputs[i].check_close(expected[i]);
      bits[i] = outputs[i].elements();
    }
  };
  run(kAll, false);
  for_each_run(random, [&](const char* what) {
    const Note how(what);
    run(kAll, true);
  });
  {
    const Wanted some{random.chance(0.5), random.chance(0.5), random.chance(0.5), random.chance(0.5)};
    const Note how("without the gradients of some");
    run(some, false);
  }
  for (const DeviceTensor& tensor : call.tensors) tensor.check_unchanged();
  gradients.of_y().check_unchanged();
#ifndef DYNDEPLOY_EMULATOR
  const Memory memory = gradients.memory(random, tf32, kAll);
  std::vector<DeviceTensor*> inputs = inputs_of(call), same;
  inputs.push_back(&gradients.of_y());
  for (size_t i = 0; i < 4; ++i)
    if (!scatters<Op>(i)) same.push_back(&outputs[i]);
  check_graph(random, inputs, same, [&](void* stream) {
    dyndeploy_cuda_resources resources = memory.resources;
    resources.stream = stream;
    CHECK_OK(gradients.enqueue(resources, kAll));
  });
#endif
}

}  // namespace dyndeploy::test

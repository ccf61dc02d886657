// Calls of an operator's CUDA kernels through the C ABI, in all the ways that must not matter to its result.
//
// An operator (call.h) has besides: is_map[], which inputs are maps, and make_reference(attributes, values, dtype, tf32),
// which knows what this machine rounds.
#pragma once

#include "call.h"
#include "cuda/tensor.h"

namespace dyndeploy::test {

// The machine of these calls, see call.h.
struct Cuda {
  using Tensor = DeviceTensor;
  using Bytes = DeviceBytes;
  using Resources = dyndeploy_cuda_resources;

  // Of a map: those with a kernel of their own, and all others.
  static Layout some_map(Random& random) {
    return random.pick({Layout::nchw, Layout::channels_last, Layout::hwc8, Layout::hwc8, Layout::map, Layout::map});
  }
  template <class Op>
  static Layout layout(Random& random, size_t input) {
    return Op::is_map[input] ? some_map(random) : Layout::any;
  }
};

// The types of a call, and of its products.
struct Mode {
  int32_t dtype, tf32;
};
inline constexpr Mode kModes[] = {
    {DYNDEPLOY_FLOAT32, 0}, {DYNDEPLOY_FLOAT32, 1}, {DYNDEPLOY_FLOAT16, 0}, {DYNDEPLOY_BFLOAT16, 0}};

inline Mode some_mode(Random& random) { return kModes[random.integer(0, 3)]; }

// What factors in registers or shared memory are rounded to.
inline Rounding rounding_to(int32_t dtype) {
  return dtype == DYNDEPLOY_FLOAT32 ? Rounding{} : Rounding{rounding_unit(dtype), smallest(dtype) / 2};
}
inline Rounding rounding_to_tf32() { return {0x1p-11, 0x1p-126}; }

inline dyndeploy_cuda_resources cuda_resources(int32_t tf32) {
  return {sizeof(dyndeploy_cuda_resources), current_stream(), nullptr, 0, nullptr, 0, tf32};
}

// The same for all addresses, since who asks may have none yet.
template <class Op>
uint64_t workspace_bytes(const Call<Op>& call, const dyndeploy_tensor& Y, const dyndeploy_cuda_resources& resources) {
  uint64_t bytes = 0, without_data = 0;
  CHECK_OK(Op::forward_workspace(&call.attributes, call.inputs, &Y, &resources, &bytes));
  dyndeploy_tensor tensors[5] = {call.inputs[0], call.inputs[1], call.inputs[2], call.inputs[3], Y};
  for (dyndeploy_tensor& tensor : tensors) tensor.data = nullptr;
  CHECK_OK(Op::forward_workspace(&call.attributes, tensors, &tensors[4], &resources, &without_data));
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

// `count` bytes, or more, as from who asked for larger tensors. One byte after a line all that the query counted for
// alignment is needed.
inline DeviceBytes some_device_workspace(Random& random, uint64_t count) {
  const int64_t more = random.chance(0.2) ? random.integer(1, 999) : 0;
  const int64_t past = random.chance(0.5) ? 1 : random.integer(0, 63);
  return {count + static_cast<uint64_t>(more), static_cast<uint64_t>(past), random.pick({0x00, 0xff, 0x7f}), "workspace"};
}

// A call's memory besides its tensors.
template <class Op>
struct Memory {
  Memory(Random& random, const Call<Op>& call, const DeviceTensor& Y, int32_t tf32, const DeviceBytes* packed)
      : resources(with_packed(cuda_resources(tf32), packed)),
        workspace(some_device_workspace(random, workspace_bytes(call, Y.view(), resources))) {
    resources.workspace = workspace.data();
    resources.workspace_bytes = workspace.count();
  }

  static dyndeploy_cuda_resources with_packed(dyndeploy_cuda_resources resources, const DeviceBytes* packed) {
    if (packed) {
      resources.packed = packed->data();
      resources.packed_bytes = packed->count();
    }
    return resources;
  }

  dyndeploy_cuda_resources resources;
  DeviceBytes workspace;
};

template <class Op>
void forward(Random& random, const Call<Op>& call, const DeviceTensor& Y, int32_t tf32, const DeviceBytes* packed) {
  const Memory<Op> memory(random, call, Y, tf32, packed);
  const std::vector<unsigned char> before = packed ? packed->bytes() : std::vector<unsigned char>();
  CHECK_OK(Op::forward(&call.attributes, call.inputs, &Y.view(), &memory.resources));
  Y.check_gaps();
  if (packed) CHECK(packed->bytes() == before);
}

#ifndef DYNDEPLOY_EMULATOR
// A captured forward on other values in the same memory: the bits of a direct call.
template <class Op>
void check_graph(Random& random, Call<Op>& call, DeviceTensor& Y, int32_t tf32) {
  const Note note("as a graph");
  const Memory<Op> memory(random, call, Y, tf32, nullptr);
  const auto enqueue = [&] {
    dyndeploy_cuda_resources resources = memory.resources;
    resources.stream = current_stream();
    CHECK_OK(Op::forward(&call.attributes, call.inputs, &Y.view(), &resources));
  };
  Y.clear();
  const Graph graph(enqueue);
  Y.check_untouched();
  for (int replay = 0; replay < 2; ++replay) {
    for (DeviceTensor& tensor : call.tensors) tensor.shuffle(random);
    Y.clear();
    graph.run();
    Y.check_gaps();
    const std::vector<unsigned char> bits = Y.elements();
    Y.clear();
    enqueue();
    Y.check_same_bits(bits);
  }
}
#endif

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
  check_graph(random, call, Y, tf32);
#endif
}

// --- queries

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

// The workspace never shrinks with a tensor: who asked for the largest ones has enough for all.
template <class Op>
void check_growth(Random& random, const typename Op::Attributes& attributes, const Extents& small,
                  const Extents& large) {
  const Mode mode = some_mode(random);
  const auto of_map = [&] { return random.pick({Layout::nchw, Layout::channels_last, Layout::hwc8}); };
  const Layout of_inputs[] = {of_map(), of_map(), of_map(), of_map()}, of_y = of_map();
  const Note note("growth: ", text_of<Op>(attributes, small), " to ", text_of<Op>(attributes, large), ", ",
                  dtype_name(mode.dtype), mode.tf32 ? ", TF32" : "");
  const auto bytes_for = [&](const Extents& extents) {
    dyndeploy_tensor inputs[4];
    for (size_t i = 0; i < 4; ++i)
      inputs[i] = tensor_of(extents[i], mode.dtype, Op::is_map[i] ? of_inputs[i] : Layout::nchw);
    std::vector<int64_t> of_output(4);
    CHECK_OK(Op::output(&attributes, inputs, of_output.data()));
    const dyndeploy_tensor Y = tensor_of(of_output, mode.dtype, of_y);
    const dyndeploy_cuda_resources resources = cuda_resources(mode.tf32);
    const Note which("X ", test::text_of(inputs[0]), ", Y ", test::text_of(Y));
    uint64_t bytes = 0;
    const dyndeploy_status status = Op::forward_workspace(&attributes, inputs, &Y, &resources, &bytes);
    // It may be too large for the kernels.
    if (status == DYNDEPLOY_UNSUPPORTED) return UINT64_MAX;
    CHECK_OK(status);
    return bytes;
  };
  const uint64_t of_small = bytes_for(small), of_large = bytes_for(large);
  CHECK(of_small != UINT64_MAX);
  if (of_small > of_large) CHECK_EQ(of_small, of_large);
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
  dyndeploy_tensor inputs[4];
  for (size_t i = 0; i < 4; ++i) inputs[i] = strided(extents[i]);
  std::vector<int64_t> of_y(4, -1);
  uint64_t bytes = 0;
  if constexpr (Packs<Op>)
    if (Op::packed_bytes(&attributes, &inputs[2], &bytes) == DYNDEPLOY_OK) CHECK(bytes < uint64_t{1} << 62);
  if (Op::output(&attributes, inputs, of_y.data()) != DYNDEPLOY_OK) return;
  const dyndeploy_tensor Y = strided(of_y);
  const dyndeploy_cuda_resources resources = cuda_resources(0);
  const dyndeploy_status status = Op::forward_workspace(&attributes, inputs, &Y, &resources, &bytes);
  if (status == DYNDEPLOY_OK)
    CHECK(bytes < uint64_t{1} << 62);
  else
    CHECK_REFUSED(status, Op::name);
}

}  // namespace dyndeploy::test

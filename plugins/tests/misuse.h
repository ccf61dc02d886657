// What an operator has to refuse: with a status, a message that names it and the tensor, and untouched outputs. What
// only one machine has to refuse is in cpu/misuse.h and cuda/misuse.h.
#pragma once

#include "call.h"

namespace dyndeploy::test {

// A call that is right, to be spoiled in one place.
template <class Op>
struct Given {
  typename Op::Attributes attributes;
  dyndeploy_tensor tensors[kInputCount<Op> + 1];  // the inputs and Y
  typename Op::Machine::Resources resources;
};

template <class Op>
class Misuse {
 public:
  using Words = std::vector<std::string>;
  using Tensor = typename Op::Machine::Tensor;
  using Bytes = typename Op::Machine::Bytes;

  // `resources`: without workspace or packed weights.
  Misuse(Random& random, Call<Op>& call, const typename Op::Machine::Resources& resources)
      : Y_(Tensor::output(random, call.dtype, Layout::map, typename Op::Reference(call.attributes, call.values).extents())),
        workspace_(1 << 20, 0, 0),
        misaligned_(64) {
    given_.attributes = call.attributes;
    std::copy(call.inputs, call.inputs + kY, given_.tensors);
    given_.tensors[kY] = Y_.view();
    given_.resources = resources;
    given_.resources.workspace = workspace_.data();
    CHECK_OK(query(given_, &given_.resources.workspace_bytes));
    CHECK(given_.resources.workspace_bytes <= workspace_.count());
    CHECK_OK(forward(given_));
    Y_.clear();
  }

  // All operators and machines, all that is wrong in the same way.
  void run() {
    pointers();
    structs();
    for (int i = 0; i <= kY; ++i) tensor(i);
    maps();
    attributes();
    memory();
    if constexpr (Packs<Op>) packed();
  }

  // The forward refuses what `spoil(given)` leaves, and so does the query when it can see it.
  template <class Spoil>
  void refuse(const std::string& what, Spoil spoil, Words words, bool query_sees = true) {
    const Note note("misuse: ", what);
    Given<Op> given = given_;
    spoil(given);
    words.push_back(Op::name);
    CHECK_REFUSED(forward(given), words);
    Y_.check_untouched();
    if (!query_sees) return;
    uint64_t bytes = 0;
    CHECK_REFUSED(query(given, &bytes), words);
  }

 protected:
  void refuse_packed(const std::string& what, const void* data, uint64_t count) {
    refuse("packed weights: " + what,
           [&](Given<Op>& g) {
             g.resources.packed = data;
             g.resources.packed_bytes = count;
           },
           {"packed"}, false);
  }

  Given<Op> given_;

 private:
  static constexpr int kY = static_cast<int>(kInputCount<Op>);  // of tensors

  static const char* name_of(int i) { return i < kY ? Op::inputs[i] : "Y"; }

  static dyndeploy_status forward(const Given<Op>& given) {
    return Op::forward(&given.attributes, given.tensors, &given.tensors[kY], &given.resources);
  }
  static dyndeploy_status query(const Given<Op>& given, uint64_t* bytes) {
    return Op::forward_workspace(&given.attributes, given.tensors, &given.tensors[kY], &given.resources, bytes);
  }

  void pointers() {
    const Note note("misuse: a NULL pointer");
    const Given<Op>& g = given_;
    uint64_t bytes = 0;
    int64_t extents[4];
    CHECK_REFUSED(Op::output(nullptr, g.tensors, extents), Op::name);
    CHECK_REFUSED(Op::output(&g.attributes, nullptr, extents), Op::name);
    CHECK_REFUSED(Op::output(&g.attributes, g.tensors, nullptr), Op::name);
    CHECK_REFUSED(Op::forward_workspace(nullptr, g.tensors, &g.tensors[kY], &g.resources, &bytes), Op::name);
    CHECK_REFUSED(Op::forward_workspace(&g.attributes, nullptr, &g.tensors[kY], &g.resources, &bytes), Op::name);
    CHECK_REFUSED(Op::forward_workspace(&g.attributes, g.tensors, nullptr, &g.resources, &bytes), Op::name);
    CHECK_REFUSED(Op::forward_workspace(&g.attributes, g.tensors, &g.tensors[kY], nullptr, &bytes), Op::name);
    CHECK_REFUSED(Op::forward_workspace(&g.attributes, g.tensors, &g.tensors[kY], &g.resources, nullptr), Op::name);
    CHECK_REFUSED(Op::forward(nullptr, g.tensors, &g.tensors[kY], &g.resources), Op::name);
    CHECK_REFUSED(Op::forward(&g.attributes, nullptr, &g.tensors[kY], &g.resources), Op::name);
    CHECK_REFUSED(Op::forward(&g.attributes, g.tensors, nullptr, &g.resources), Op::name);
    CHECK_REFUSED(Op::forward(&g.attributes, g.tensors, &g.tensors[kY], nullptr), Op::name);
    Y_.check_untouched();
  }

  void structs() {
    for (const uint64_t size : {uint64_t{0}, uint64_t{sizeof(typename Op::Attributes)} - 8,
                                uint64_t{sizeof(typename Op::Attributes)} + 8, UINT64_MAX})
      refuse("size of the attributes", [&](Given<Op>& g) { g.attributes.size = size; }, {"attributes"});
    constexpr uint64_t kSize = sizeof(typename Op::Machine::Resources);
    for (const uint64_t size : {uint64_t{0}, kSize - 8, kSize + 8})
      refuse("size of resources", [&](Given<Op>& g) { g.resources.size = size; }, {"resources"});
  }

  void tensor(int i) {
    const std::string name = name_of(i);
    const auto refused = [&](const std::string& what, auto spoil, bool query_sees = true, bool named = true) {
      refuse(name + ": " + what, [&](Given<Op>& g) { spoil(g.tensors[i]); }, named ? Words{name} : Words{}, query_sees);
    };
    refused("no data", [](dyndeploy_tensor& t) { t.data = nullptr; }, false);
    // Elsewhere: what is there would be overwritten if it were not refused.
    refused("unaligned data", [&](dyndeploy_tensor& t) { t.data = misaligned_.data() + 1; }, false);
    for (const int32_t rank : {-1, 0, given_.tensors[i].rank - 1, given_.tensors[i].rank + 1, INT32_MAX})
      refused("rank " + std::to_string(rank), [&](dyndeploy_tensor& t) { t.rank = rank; });
    for (const int32_t dtype : {0, -1, 7, 11, INT32_MAX})
      refused("dtype " + std::to_string(dtype), [&](dyndeploy_tensor& t) { t.dtype = dtype; });
    for (const int32_t dtype : kDtypes)
      if (dtype != given_.tensors[i].dtype)
        refused("another dtype", [&](dyndeploy_tensor& t) { t.dtype = dtype; }, true, false);
    for (int axis = 0; axis < given_.tensors[i].rank; ++axis) {
      const std::string dim = "dim " + std::to_string(axis);
      for (const int64_t extent : {INT64_MIN, int64_t{-1}, (int64_t{1} << 31) + 1, int64_t{1} << 44, INT64_MAX})
        refused(dim + " is " + std::to_string(extent), [&](dyndeploy_tensor& t) { t.extents[axis] = extent; }, true, false);
      // One pixel more of X may change nothing.
      if (i != 0 || axis < 2)
        for (const int64_t more : {-1, 1})
          refused(dim + " + " + std::to_string(more), [&](dyndeploy_tensor& t) { t.extents[axis] += more; }, true, false);
      for (const int64_t stride : {INT64_MIN, -(int64_t{1} << 45), int64_t{1} << 45, INT64_MAX})
        refused(dim + " with stride " + std::to_string(stride), [&](dyndeploy_tensor& t) { t.strides[axis] = stride; });
    }
  }

  // Neither along C nor along W is the stride 1.
  void maps() {
    for (const int i : {0, kY})
      refuse(std::string("layout of ") + name_of(i), [&](Given<Op>& g) { g.tensors[i].strides[1] = g.tensors[i].strides[3] = 2; },
             {name_of(i)});
  }

  void attributes() {
    typename Op::Attributes attributes = given_.attributes;
    for (size_t k = 0; k < Op::numbers(attributes).size(); ++k)
      for (const int64_t value : {INT64_MIN, int64_t{-2}, int64_t{1} << 32, int64_t{1} << 62, INT64_MAX})
        refuse(Op::numbers(attributes)[k].name + ("=" + std::to_string(value)),
               [&](Given<Op>& g) { *Op::numbers(g.attributes)[k].value = value; }, {Op::numbers(attributes)[k].name});
  }

  void memory() {
    if (given_.resources.workspace_bytes) {
      refuse("workspace one byte too small", [](Given<Op>& g) { --g.resources.workspace_bytes; }, {"workspace"}, false);
      refuse("workspace of 0 bytes", [](Given<Op>& g) { g.resources.workspace_bytes = 0; }, {"workspace"}, false);
      refuse("no workspace", [](Given<Op>& g) { g.resources.workspace = nullptr; }, {"workspace"}, false);
    }
  }

  void packed() {
    const dyndeploy_tensor& W = given_.tensors[2];
    const typename Op::Attributes& a = given_.attributes;
    uint64_t needed = 0, bytes = 0;
    CHECK_OK(Op::packed_bytes(&a, &W, &needed));
    const Bytes good(needed, 0, 0xff);
    CHECK_OK(Op::pack(&a, &W, good.data(), needed));
    refuse_packed("one byte less", good.data(), needed - 1);
    refuse_packed("0 bytes", good.data(), 0);

    const Note note("misuse of pack");
    const Bytes to(needed + 8, 0, 0xa5);
    CHECK_REFUSED(Op::packed_bytes(nullptr, &W, &bytes), Op::name);
    CHECK_REFUSED(Op::packed_bytes(&a, nullptr, &bytes), Op::name);
    CHECK_REFUSED(Op::packed_bytes(&a, &W, nullptr), Op::name);
    CHECK_REFUSED(Op::pack(nullptr, &W, to.data(), needed), Op::name);
    CHECK_REFUSED(Op::pack(&a, nullptr, to.data(), needed), Op::name);
    CHECK_REFUSED(Op::pack(&a, &W, nullptr, needed), Op::name);
    CHECK_REFUSED(Op::pack(&a, &W, to.data(), needed - 1), Op::name);
    dyndeploy_tensor nothing = W;
    nothing.data = nullptr;
    CHECK_REFUSED(Op::pack(&a, &nothing, to.data(), needed), Op::name, "W");
    to.check_all(0xa5);
  }

  Tensor Y_;
  Bytes workspace_;
  std::vector<unsigned char> misaligned_;
};

// The backward's own tensors. `resources`: without workspace.
template <Learns Op>
void refuse_backward(Random& random, const Call<Op>& call, typename Op::Machine::Resources resources) {
  using Tensor = typename Op::Machine::Tensor;
  using Bytes = typename Op::Machine::Bytes;
  const typename Op::Reference reference(call.attributes, call.values);
  const Tensor gradient = Tensor::input(random, call.dtype, Layout::map, normal_values(random, reference.extents()));
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < 4; ++i)
    outputs.push_back(Tensor::output(random, call.dtype, i == 0 ? Layout::map : Layout::any, call.values[i].extents()));
  struct Tensors {
    dyndeploy_tensor inputs[4], gradients[4], gradient;
  } good;
  for (size_t i = 0; i < 4; ++i) good.inputs[i] = call.inputs[i], good.gradients[i] = outputs[i].view();
  good.gradient = gradient.view();
  CHECK_OK(Op::backward_workspace(&call.attributes, &good.gradient, good.inputs, good.gradients, &resources,
                                  &resources.workspace_bytes));
  const Bytes workspace(resources.workspace_bytes, 0, 0);
  resources.workspace = workspace.data();

  const auto refuse = [&](const std::string& what, auto spoil, std::vector<std::string> words, bool query_sees) {
    const Note note("misuse of backward: ", what);
    Tensors t = good;
    spoil(t);
    words.push_back(Op::name);
    CHECK_REFUSED(Op::backward(&call.attributes, &t.gradient, t.inputs, t.gradients, &resources), words);
    for (const Tensor& output : outputs) output.check_untouched();
    uint64_t bytes = 0;
    if (query_sees)
      CHECK_REFUSED(Op::backward_workspace(&call.attributes, &t.gradient, t.inputs, t.gradients, &resources, &bytes), words);
  };
  const auto refuse_tensor = [&](const std::string& name, auto tensor_of, bool map) {
    const dyndeploy_tensor& right = tensor_of(good);
    refuse(name + ", dtype", [&](Tensors& t) { tensor_of(t).dtype = 7; }, {name}, true);
    refuse(name + ", rank", [&](Tensors& t) { ++tensor_of(t).rank; }, {name}, true);
    for (int axis = 0; axis < right.rank; ++axis)
      for (const int64_t extent : {int64_t{-1}, right.extents[axis] + 1, INT64_MAX})
        refuse(name + ", extent", [&](Tensors& t) { tensor_of(t).extents[axis] = extent; }, {name}, true);
    if (map) refuse(name + ", layout", [&](Tensors& t) { tensor_of(t).strides[1] = tensor_of(t).strides[3] = 2; }, {name}, true);
    refuse(name + ", unaligned", [&](Tensors& t) { tensor_of(t).data = workspace.data() + 1; }, {name}, false);
  };
  refuse_tensor("Y", [](Tensors& t) -> dyndeploy_tensor& { return t.gradient; }, true);
  refuse("no gradient of Y", [](Tensors& t) { t.gradient.data = nullptr; }, {"Y"}, false);
  for (int i = 0; i < 4; ++i) {
    refuse_tensor(Op::inputs[i], [i](Tensors& t) -> dyndeploy_tensor& { return t.gradients[i]; }, i == 0);
    refuse("no data of an input", [i](Tensors& t) { t.inputs[i].data = nullptr; }, {Op::inputs[i]}, false);
  }

  const Note note("misuse of backward: a NULL pointer, or a small workspace");
  const auto refuse_call = [&](const typename Op::Attributes* a, const dyndeploy_tensor* dY, const dyndeploy_tensor* inputs,
                               const dyndeploy_tensor* gradients, const typename Op::Machine::Resources* r) {
    CHECK_REFUSED(Op::backward(a, dY, inputs, gradients, r), Op::name);
    for (const Tensor& output : outputs) output.check_untouched();
  };
  refuse_call(nullptr, &good.gradient, good.inputs, good.gradients, &resources);
  refuse_call(&call.attributes, nullptr, good.inputs, good.gradients, &resources);
  refuse_call(&call.attributes, &good.gradient, nullptr, good.gradients, &resources);
  refuse_call(&call.attributes, &good.gradient, good.inputs, nullptr, &resources);
  refuse_call(&call.attributes, &good.gradient, good.inputs, good.gradients, nullptr);
  CHECK_REFUSED(Op::backward_workspace(&call.attributes, &good.gradient, good.inputs, good.gradients, &resources, nullptr),
                Op::name);
  --resources.workspace_bytes;
  refuse_call(&call.attributes, &good.gradient, good.inputs, good.gradients, &resources);
}

}  // namespace dyndeploy::test

// What the CPU kernels have to refuse besides what all have: threads, weights packed for another call, gradients.
#pragma once

#include "cpu/operator.h"
#include "tests/misuse.h"

namespace dyndeploy::test {

template <class Op>
class CpuMisuse : public Misuse<Op> {
 public:
  using Base = Misuse<Op>;

  CpuMisuse(Random& random, Call<Op>& call, const dyndeploy_threads* threads)
      : Base(random, call, resources_of(threads)), threads_(*threads) {}

  void run() {
    Base::run();
    for (const uint64_t size : {uint64_t{0}, uint64_t{sizeof(dyndeploy_threads)} + 8})
      refuse_threads("size of threads", [&](dyndeploy_threads& t) { t.size = size; });
    for (const int32_t lanes : {0, -1, INT32_MIN})
      refuse_threads("no lanes", [&](dyndeploy_threads& t) { t.lanes = lanes; });
    refuse_threads("no run", [&](dyndeploy_threads& t) { t.run = nullptr; });
    if constexpr (Packs<Op>) packed();
  }

 private:
  template <class Spoil>
  void refuse_threads(const std::string& what, Spoil spoil) {
    dyndeploy_threads threads = threads_;
    spoil(threads);
    Base::refuse(what, [&](Given<Op>& g) { g.resources.threads = &threads; }, {"threads"});
  }

  void packed() {
    const dyndeploy_tensor& W = Base::given_.tensors[2];
    const typename Op::Attributes& a = Base::given_.attributes;
    uint64_t needed = 0, bytes = 0;
    CHECK_OK(Op::packed_bytes(&a, &W, &needed));
    const Bytes good(needed, 0, 0xff);
    CHECK_OK(Op::pack(&a, &W, good.data(), needed));
    Base::refuse_packed("unaligned", good.data() + 1, needed);
    for (const int rubbish : {0x00, 0xff, 0x41}) Base::refuse_packed("rubbish", Bytes(needed, 0, rubbish).data(), needed);
    // Of a W with other extents: two swapped, or one smaller.
    for (int one = 0; one < 4; ++one)
      for (int other = 0; other <= one; ++other) {
        dyndeploy_tensor changed = W;
        if (one == other) --changed.extents[one];
        std::swap(changed.extents[one], changed.extents[other]);
        std::swap(changed.strides[one], changed.strides[other]);
        const bool same = std::equal(changed.extents, changed.extents + 4, W.extents);
        if (same || Op::packed_bytes(&a, &changed, &bytes) != DYNDEPLOY_OK) continue;
        const Bytes foreign(std::max(bytes, needed), 0, 0xff);
        CHECK_OK(Op::pack(&a, &changed, foreign.data(), bytes));
        Base::refuse_packed("of other extents", foreign.data(), foreign.count());
      }
    // For another instruction set.
    const std::string isa = dyndeploy_instructions();
    for (const char* another : {"portable", "avx2", "avx512"})
      if (another != isa && dyndeploy_use_instructions(another) == DYNDEPLOY_OK) {
        CHECK_OK(Op::packed_bytes(&a, &W, &bytes));
        const Bytes foreign(std::max(bytes, needed), 0, 0xff);
        CHECK_OK(Op::pack(&a, &W, foreign.data(), bytes));
        CHECK_OK(dyndeploy_use_instructions(isa.c_str()));
        Base::refuse_packed(std::string("for ") + another, foreign.data(), foreign.count());
      }
  }

  dyndeploy_threads threads_;
};

// The backward's own tensors.
template <Learns Op>
void refuse_backward(Random& random, const Call<Op>& call) {
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
  dyndeploy_resources resources = resources_of(nullptr);
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
                               const dyndeploy_tensor* gradients, const dyndeploy_resources* r) {
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

template <class Op>
void check_misuse(Random& random, Case<typename Op::Attributes> (*usual)(Random&)) {
  for (const int32_t dtype : kDtypes) {
    Call<Op> call(random, usual(random), dtype);
    const Note note(call.text());
    for_each_isa([&] {
      dyndeploy_threads threads;
      CHECK_OK(dyndeploy_own_threads(2, &threads));
      CpuMisuse<Op>(random, call, &threads).run();
      if constexpr (Learns<Op>) refuse_backward(random, call);
    });
  }
}

}  // namespace dyndeploy::test

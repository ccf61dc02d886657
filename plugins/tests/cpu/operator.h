// Calls of an operator's CPU kernels through the C ABI, in all the ways that must not matter to its result.
#pragma once

#include <memory>
#include <thread>

#include "call.h"

namespace dyndeploy::test {

// Exactly so many bytes of rubbish, `past` bytes after a multiple of 64.
class Bytes {
 public:
  Bytes(uint64_t count, uint64_t past, int rubbish) : past_(past), count_(count) {
    void* memory = nullptr;
    CHECK_EQ(posix_memalign(&memory, 64, past + count), 0);
    memory_.reset(static_cast<unsigned char*>(memory));
    std::memset(data(), rubbish, count);
  }
  unsigned char* data() const { return memory_.get() + past_; }
  uint64_t count() const { return count_; }

  void check_all(unsigned char value) const {
    for (uint64_t i = 0; i < count_; ++i) CHECK_EQ(int{data()[i]}, int{value});
  }

 private:
  struct Free {
    void operator()(unsigned char* memory) const { std::free(memory); }
  };
  std::unique_ptr<unsigned char, Free> memory_;
  uint64_t past_, count_;
};

// The machine of these calls, see call.h.
struct Cpu {
  using Tensor = test::Tensor;
  using Bytes = test::Bytes;
  using Resources = dyndeploy_resources;

  template <class Op>
  static Layout layout(Random&, size_t input) {
    return input == 0 ? Layout::map : Layout::any;
  }
};

// body() with every instruction set of this machine in use.
template <class Body>
void for_each_isa(Body body) {
  for (const char* isa : {"portable", "avx2", "avx512"})
    if (dyndeploy_use_instructions(isa) == DYNDEPLOY_OK) {
      const Note note(isa);
      body();
    }
  CHECK_OK(dyndeploy_use_instructions(nullptr));
}

// A host that runs the lanes one after the other, the last one first: no lane may wait for another.
inline void run_backwards(void*, int32_t lanes, void (*lane)(void*, int32_t), void* work) {
  for (int32_t i = lanes - 1; i >= 0; --i) lane(work, i);
}

inline dyndeploy_threads some_threads(Random& random) {
  const int32_t lanes = static_cast<int32_t>(random.integer(1, 5));
  dyndeploy_threads threads{sizeof(dyndeploy_threads), lanes, nullptr, run_backwards};
  if (random.chance(0.6)) CHECK_OK(dyndeploy_own_threads(lanes, &threads));
  return threads;
}

// One byte after a cache line all that the query counted for alignment is needed.
inline Bytes some_workspace(Random& random, uint64_t count) {
  CHECK(count < uint64_t{1} << 32);
  return {count, random.chance(0.5) ? 1 : static_cast<uint64_t>(random.integer(0, 63)), random.pick({0x00, 0xff, 0x7f})};
}

inline dyndeploy_resources resources_of(const dyndeploy_threads* threads) {
  return {sizeof(dyndeploy_resources), threads, nullptr, 0, nullptr, 0};
}

template <Packs Op>
Bytes packed_weights(const Call<Op>& call) {
  uint64_t bytes = 0;
  CHECK_OK(Op::packed_bytes(&call.attributes, &call.inputs[2], &bytes));
  Bytes packed(bytes, 0, 0xff);
  CHECK_OK(Op::pack(&call.attributes, &call.inputs[2], packed.data(), bytes));
  return packed;
}

template <class Op>
void forward(Random& random, const Call<Op>& call, const Tensor& Y, const dyndeploy_threads* threads, const Bytes* packed) {
  dyndeploy_resources resources = resources_of(threads);
  if (packed) {
    resources.packed = packed->data();
    resources.packed_bytes = packed->count();
  }
  uint64_t bytes = 0;
  CHECK_OK(Op::forward_workspace(&call.attributes, call.inputs, &Y.view(), &resources, &bytes));
  const Bytes workspace = some_workspace(random, bytes);
  resources.workspace = workspace.data();
  resources.workspace_bytes = bytes;
  CHECK_OK(Op::forward(&call.attributes, call.inputs, &Y.view(), &resources));
  Y.check_gaps();
}

template <class Op>
void check_forward(Random& random, const Call<Op>& call) {
  const typename Op::Reference reference(call.attributes, call.values);
  std::vector<int64_t> extents(4, -1);
  CHECK_OK(Op::output(&call.attributes, call.inputs, extents.data()));
  CHECK_EQ(extents, reference.extents());
  const Reals expected = reference.forward();
  for_each_isa([&] {
    Tensor Y = Tensor::output(random, call.dtype, Layout::map, extents);
    const Note note("Y ", text_of(Y.view()));
    forward(random, call, Y, nullptr, nullptr);
    Y.check_close(expected);
    const std::vector<unsigned char> bits = Y.elements();
    for (int again = 0; again < 2; ++again) {
      const dyndeploy_threads threads = some_threads(random);
      const Note how(threads.lanes, " lanes", threads.run == run_backwards ? " backwards" : "", again ? ", packed" : "");
      Y.clear();
      if constexpr (Packs<Op>) {
        const Bytes packed = packed_weights(call);
        forward(random, call, Y, &threads, again ? &packed : nullptr);
      } else {
        forward(random, call, Y, &threads, nullptr);
      }
      Y.check_same_bits(bits);
    }
  });
}

template <Learns Op>
void backward(Random& random, const Call<Op>& call, const Tensor& gradient, const std::vector<Tensor>& outputs,
              const std::vector<bool>& wanted, const dyndeploy_threads* threads) {
  dyndeploy_tensor gradients[4];
  for (size_t i = 0; i < 4; ++i) {
    gradients[i] = outputs[i].view();
    if (!wanted[i]) gradients[i].data = nullptr;
  }
  dyndeploy_resources resources = resources_of(threads);
  uint64_t bytes = 0;
  CHECK_OK(Op::backward_workspace(&call.attributes, &gradient.view(), call.inputs, gradients, &resources, &bytes));
  const Bytes workspace = some_workspace(random, bytes);
  resources.workspace = workspace.data();
  resources.workspace_bytes = bytes;
  CHECK_OK(Op::backward(&call.attributes, &gradient.view(), call.inputs, gradients, &resources));
  for (size_t i = 0; i < 4; ++i)
    if (gradients[i].data)
      outputs[i].check_gaps();
    else
      outputs[i].check_untouched();
}

template <Learns Op>
void check_backward(Random& random, const Call<Op>& call) {
  const typename Op::Reference reference(call.attributes, call.values);
  const Tensor gradient =
      Tensor::input(random, call.dtype, Layout::map, normal_values(random, reference.extents()));
  const std::vector<Reals> expected = reference.backward(gradient.values());
  for_each_isa([&] {
    std::vector<Tensor> outputs;
    for (size_t i = 0; i < 4; ++i)
      outputs.push_back(Tensor::output(random, call.dtype, i == 0 ? Layout::map : Layout::any, expected[i].extents()));
    std::vector<std::vector<unsigned char>> bits(4);
    const auto check = [&](const std::vector<bool>& wanted, const dyndeploy_threads* threads, bool same) {
      const Note how("backward, ", threads ? threads->lanes : 1, " lanes",
                     threads && threads->run == run_backwards ? " backwards" : "", ", gradient ", text_of(gradient.view()));
      for (Tensor& output : outputs) output.clear();
      backward(random, call, gradient, outputs, wanted, threads);
      for (size_t i = 0; i < 4; ++i) {
        const Note which("gradient of ", Op::inputs[i], ", ", text_of(outputs[i].view()));
        if (!wanted[i]) continue;
        outputs[i].check_close(expected[i]);
        if (same) outputs[i].check_same_bits(bits[i]);
        bits[i] = outputs[i].elements();
      }
    };
    const dyndeploy_threads threads = some_threads(random), others = some_threads(random);
    check({true, true, true, true}, nullptr, false);
    check({true, true, true, true}, &threads, true);
    check({random.chance(0.5), random.chance(0.5), random.chance(0.5), random.chance(0.5)}, &others, false);
  });
}

// The reference's gradients, of the inputs `which`, against differences of its forward. A case without kinks, without ReLU.
template <Learns Op>
void check_reference(Random& random, Case<typename Op::Attributes> drawn,
                     std::initializer_list<size_t> which = {0, 1, 2, 3}) {
  drawn.attributes.relu = 0;
  const typename Op::Reference reference(drawn.attributes, drawn.inputs);
  const Doubles of_y = normal_values(random, reference.extents());
  const std::vector<Reals> gradients = reference.backward(of_y);
  for (const size_t i : which)
    for (int again = 0; again < 4 && drawn.inputs[i].count(); ++again) {
      const int64_t k = random.integer(0, drawn.inputs[i].count() - 1);
      const auto loss = [&](double step) {
        std::vector<Doubles> inputs = drawn.inputs;
        inputs[i].flat(k) += step;
        const Reals Y = typename Op::Reference(drawn.attributes, inputs).forward();
        double sum = 0;
        for (int64_t e = 0; e < Y.count(); ++e) sum += of_y.flat(e) * Y.flat(e).v;
        return sum;
      };
      constexpr double kStep = 1e-5;
      const double difference = (loss(kStep) - loss(-kStep)) / (2 * kStep), gradient = gradients[i].flat(k).v;
      const Note note("gradient of ", Op::inputs[i], ", element ", k);
      if (!(std::fabs(difference - gradient) <= 1e-5 * (1 + std::fabs(gradient)))) CHECK_EQ(difference, gradient);
    }
}

// Several threads at once, with the same inputs, packed weights and team.
template <class Op>
void check_concurrent(Random& random, const Call<Op>& call) {
  const Note note("several callers");
  dyndeploy_threads threads;
  CHECK_OK(dyndeploy_own_threads(3, &threads));
  for_each_isa([&] {
    std::unique_ptr<Bytes> packed;
    if constexpr (Packs<Op>) packed = std::make_unique<Bytes>(packed_weights(call));
    std::vector<int64_t> extents(4);
    CHECK_OK(Op::output(&call.attributes, call.inputs, extents.data()));
    Tensor first = Tensor::output(random, call.dtype, Layout::map, extents);
    forward(random, call, first, nullptr, nullptr);
    const std::vector<unsigned char> bits = first.elements();
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller)
      callers.emplace_back([&, caller, seed = random.next()] {
        Random own(seed);
        // Outputs in the layout of the first one: there the bits are the same.
        Tensor Y = first.another();
        for (int round = 0; round < 3; ++round) {
          Y.clear();
          forward(own, call, Y, caller == 0 ? nullptr : &threads, caller % 2 ? packed.get() : nullptr);
          Y.check_same_bits(bits);
        }
      });
    for (std::thread& caller : callers) caller.join();
  });
}

// The queries with tensors that no memory holds: refused, or answered without an overflow, which a sanitizer sees.
template <class Op>
void check_queries(const typename Op::Attributes& attributes, const Extents& extents) {
  const auto tensor_of = [](const std::vector<int64_t>& e) {
    dyndeploy_tensor tensor{};
    tensor.rank = static_cast<int32_t>(e.size());
    tensor.dtype = DYNDEPLOY_BFLOAT16;
    std::copy(e.begin(), e.end(), tensor.extents);
    tensor.strides[tensor.rank - 1] = 1;  // all along the other dims is the same
    return tensor;
  };
  dyndeploy_tensor inputs[kInputCount<Op>];
  for (size_t i = 0; i < kInputCount<Op>; ++i) inputs[i] = tensor_of(extents[i]);
  typename Op::Attributes a = attributes;
  std::ostringstream text;
  for (const Number& number : Op::numbers(a)) text << number.name << '=' << *number.value << ' ';
  for (const std::vector<int64_t>& e : extents) text << ' ' << e;
  const Note note("queries: ", text.str());

  std::vector<int64_t> of_y(4, -1);
  if (Op::output(&attributes, inputs, of_y.data()) != DYNDEPLOY_OK) return;
  for (const int64_t extent : of_y) CHECK(extent >= 0);
  const dyndeploy_tensor Y = tensor_of(of_y);
  const dyndeploy_threads threads{sizeof(dyndeploy_threads), 64, nullptr, run_backwards};
  for (const dyndeploy_threads* some : {static_cast<const dyndeploy_threads*>(nullptr), &threads}) {
    const dyndeploy_resources resources = resources_of(some);
    uint64_t bytes = 0;
    if (Op::forward_workspace(&attributes, inputs, &Y, &resources, &bytes) == DYNDEPLOY_OK)
      CHECK(bytes < uint64_t{1} << 62);
    if constexpr (Packs<Op>)
      if (Op::packed_bytes(&attributes, &inputs[2], &bytes) == DYNDEPLOY_OK) CHECK(bytes < uint64_t{1} << 62);
    if constexpr (Learns<Op>) {
      float wanted;
      dyndeploy_tensor gradients[4];
      for (int i = 0; i < 4; ++i) (gradients[i] = inputs[i]).data = &wanted;
      // The query of a backward may take time in proportion to the channels.
      if (inputs[0].extents[1] < 1 << 20 &&
          Op::backward_workspace(&attributes, &Y, inputs, gradients, &resources, &bytes) == DYNDEPLOY_OK)
        CHECK(bytes < uint64_t{1} << 62);
    }
  }
}

}  // namespace dyndeploy::test

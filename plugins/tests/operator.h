// Calls of an operator through the C ABI, in all the ways that must not matter to its result.
//
// An operator is a struct, as Dcnv2 in test_dcnv2.cpp: attributes, names, functions, its reference, and how to draw a
// case. `pack` and `backward` are there or not.
#pragma once

#include <memory>
#include <thread>

#include "tensor.h"

namespace dyndeploy::test {

template <class Op>
concept Packs = requires { Op::pack; };
template <class Op>
concept Learns = requires { Op::backward; };

// An integer of an attribute struct.
struct Number {
  const char* name;
  int64_t* value;
};

// Attributes and the values of the inputs.
template <class Op>
struct Case {
  typename Op::Attributes attributes;
  std::vector<Doubles> inputs;
};

// The same as tensors.
template <class Op>
class Call {
 public:
  Call(Random& random, const Case<Op>& drawn, int32_t dtype) : attributes(drawn.attributes), dtype(dtype) {
    for (size_t i = 0; i < 4; ++i) {
      tensors.push_back(Tensor::input(random, dtype, i == 0 ? Layout::map : Layout::any, drawn.inputs[i]));
      inputs[i] = tensors[i].view();
      values.push_back(tensors[i].values());  // rounded to the dtype
    }
  }

  std::string text() {
    std::ostringstream out;
    for (const Number& number : Op::numbers(attributes)) out << number.name << '=' << *number.value << ' ';
    out << Op::floats(attributes);
    for (int i = 0; i < 4; ++i) out << "; " << Op::inputs[i] << ' ' << text_of(inputs[i]);
    return out.str();
  }

  typename Op::Attributes attributes;
  int32_t dtype;
  std::vector<Tensor> tensors;
  dyndeploy_tensor inputs[4];
  std::vector<Doubles> values;
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

 private:
  struct Free {
    void operator()(unsigned char* memory) const { std::free(memory); }
  };
  std::unique_ptr<unsigned char, Free> memory_;
  uint64_t past_, count_;
};

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

inline Doubles normal_values(Random& random, const std::vector<int64_t>& extents) {
  Doubles values(extents);
  for (int64_t i = 0; i < values.count(); ++i) values.flat(i) = random.normal();
  return values;
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

// The reference's gradients against differences of its forward. A case without kinks, without ReLU.
template <Learns Op>
void check_reference(Random& random, Case<Op> drawn) {
  drawn.attributes.relu = 0;
  const typename Op::Reference reference(drawn.attributes, drawn.inputs);
  const Doubles of_y = normal_values(random, reference.extents());
  const std::vector<Reals> gradients = reference.backward(of_y);
  for (size_t i = 0; i < 4; ++i)
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

using Extents = std::vector<std::vector<int64_t>>;

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
  dyndeploy_tensor inputs[4];
  for (size_t i = 0; i < 4; ++i) inputs[i] = tensor_of(extents[i]);
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

// --- drawing cases

inline int32_t some_dtype(Random& random) {
  return random.pick({DYNDEPLOY_FLOAT32, DYNDEPLOY_FLOAT32, DYNDEPLOY_FLOAT16, DYNDEPLOY_BFLOAT16});
}

// A few of the values are not a number, or infinite.
inline void spoil(Random& random, Doubles& values) {
  for (int i = 0; i < 3 && values.count(); ++i)
    values.flat(random.integer(0, values.count() - 1)) = random.pick<double>({NAN, HUGE_VAL, -HUGE_VAL});
}

// A divisor of n.
inline int64_t divisor(Random& random, int64_t n) {
  if (n == 0 || random.chance(0.4)) return 1;
  std::vector<int64_t> divisors;
  for (int64_t d = 1; d <= n; ++d)
    if (n % d == 0) divisors.push_back(d);
  return divisors[static_cast<size_t>(random.integer(0, static_cast<int64_t>(divisors.size()) - 1))];
}

// Halves the largest of the sizes until `fixed` times their product is at most `budget`.
inline void fit(int64_t budget, int64_t fixed, std::initializer_list<int64_t*> sizes) {
  for (;;) {
    int64_t product = fixed, *largest = *sizes.begin();
    for (int64_t* size : sizes) {
      product *= *size;
      if (*size > *largest) largest = size;
    }
    if (product <= budget || *largest <= 1) return;
    *largest /= 2;
  }
}

// About a power of two, up to 2^31; mostly small, so that products of several of them are let through, too.
inline int64_t huge_number(Random& random) {
  const int64_t bits = random.integer(0, random.pick<int64_t>({0, 2, 4, 8, 16, 31}));
  return std::max<int64_t>(1, (int64_t{1} << bits) - random.integer(0, 1));
}

// At most INT64_MAX.
inline int64_t product(std::initializer_list<int64_t> factors) {
  int64_t result = 1;
  for (const int64_t factor : factors) result = factor && result > INT64_MAX / factor ? INT64_MAX : result * factor;
  return result;
}

// A window, and a map on which it has a place.
struct WindowCase {
  int64_t N = 2, H = 5, W = 6, Ho = 5, Wo = 7;
  int64_t kernel[2] = {3, 2}, strides[2] = {1, 1}, pads[4] = {1, 1, 1, 1}, dilations[2] = {1, 1};

  WindowCase() = default;
  explicit WindowCase(Random& random) {
    const int64_t most = random.pick<int64_t>({1, 4, 9, 9, 24, 40});
    const bool usual = random.chance(0.3), square = random.chance(0.4);
    const int64_t strip = random.chance(0.1) ? random.integer(0, 1) : -1;  // the axis along which the map is long
    N = random.chance(0.03) ? 0 : random.pick<int64_t>({1, 1, 1, 2, 3});
    int64_t size[2], output[2];
    for (int axis = 0; axis < 2; ++axis) {
      const bool same = axis == 1 && square;
      kernel[axis] = usual ? 3 : same ? kernel[0] : random.pick<int64_t>({1, 1, 2, 3, 3, 4, 5, 7});
      strides[axis] = same ? strides[0] : random.pick<int64_t>({1, 1, 1, 2, 3});
      dilations[axis] = same ? dilations[0] : random.pick<int64_t>({1, 1, 1, 2, 3});
      for (const int side : {axis, axis + 2}) pads[side] = usual ? 1 : random.pick<int64_t>({0, 0, 1, 1, 2, 3});
      size[axis] = random.chance(0.02) ? 0 : random.size(most);
      if (strip >= 0) size[axis] = axis == strip ? random.integer(100, 700) : random.integer(1, 3);
      // Where the window has no place yet, more padding, on a map smaller than the kernel, or a larger map.
      const int64_t lack = dilations[axis] * (kernel[axis] - 1) + 1 - size[axis] - pads[axis] - pads[axis + 2];
      if (lack > 0) (random.chance(0.5) ? pads[axis] : size[axis]) += lack;
      output[axis] = output_size(size[axis], pads[axis], pads[axis + 2], kernel[axis], dilations[axis], strides[axis]);
    }
    H = size[0];
    W = size[1];
    Ho = output[0];
    Wo = output[1];
  }

  // Sizes up to the largest that are let through. Ho and Wo are right, but may be too large for a tensor.
  static WindowCase huge(Random& random) {
    WindowCase window;
    window.N = huge_number(random);
    int64_t size[2], output[2];
    for (int axis = 0; axis < 2; ++axis) {
      size[axis] = huge_number(random);
      window.kernel[axis] = random.chance(0.5) ? 1 : huge_number(random);
      window.strides[axis] = huge_number(random);
      window.dilations[axis] = huge_number(random);
      for (const int side : {axis, axis + 2}) window.pads[side] = random.chance(0.5) ? 0 : huge_number(random);
      const int64_t reach = window.dilations[axis] * (window.kernel[axis] - 1) + 1;
      if (size[axis] + window.pads[axis] + window.pads[axis + 2] < reach) window.pads[axis] = reach;
      output[axis] = output_size(size[axis], window.pads[axis], window.pads[axis + 2], window.kernel[axis],
                                 window.dilations[axis], window.strides[axis]);
    }
    window.H = size[0];
    window.W = size[1];
    window.Ho = output[0];
    window.Wo = output[1];
    return window;
  }

  int64_t taps() const { return kernel[0] * kernel[1]; }
  int64_t pixels() const { return Ho * Wo; }

  template <class Attributes>
  void write(Attributes& attributes) const {
    std::copy(strides, strides + 2, attributes.strides);
    std::copy(pads, pads + 4, attributes.pads);
    std::copy(dilations, dilations + 2, attributes.dilations);
  }
};

// The numbers of a window in an attribute struct.
template <class Attributes>
std::vector<Number> window_numbers(Attributes& a) {
  return {{"strides", &a.strides[0]},     {"strides", &a.strides[1]},    {"pads", &a.pads[0]},
          {"pads", &a.pads[1]},           {"pads", &a.pads[2]},          {"pads", &a.pads[3]},
          {"dilations", &a.dilations[0]}, {"dilations", &a.dilations[1]}};
}

}  // namespace dyndeploy::test

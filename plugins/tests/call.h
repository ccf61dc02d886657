// A case as tensors of one dtype, in layouts that the machine (cpu/operator.h, cuda/operator.h) can take.
//
// An operator is a struct, as Dcnv2 in cases/dcnv2.h, and, derived from it in the test program, with the functions of a
// machine: `Machine`, `forward_workspace`, `forward`, `packed_bytes` and `pack` where there are weights to pack, and
// `backward_workspace` and `backward` where it has gradients.
#pragma once

#include "cases/draw.h"
#include "tensor.h"

namespace dyndeploy::test {

template <class Op>
concept Packs = requires { Op::pack; };
template <class Op>
concept Learns = requires { Op::backward; };

template <class Op>
inline constexpr size_t kInputCount = std::size(Op::inputs);

template <class Op>
class Call {
 public:
  using Machine = typename Op::Machine;

  // `layouts`: of the inputs; empty: drawn, from all that the machine can take.
  Call(Random& random, const Case<typename Op::Attributes>& drawn, int32_t dtype,
       const std::vector<Layout>& layouts = {})
      : attributes(drawn.attributes), dtype(dtype) {
    for (size_t i = 0; i < kInputCount<Op>; ++i) {
      const Layout layout = layouts.empty() ? Machine::template layout<Op>(random, i) : layouts[i];
      tensors.push_back(Machine::Tensor::input(random, dtype, layout, drawn.inputs[i]));
      inputs[i] = tensors[i].view();
      values.push_back(tensors[i].values());  // rounded to the dtype
    }
  }

  std::string text() {
    std::ostringstream out;
    for (const Number& number : Op::numbers(attributes)) out << number.name << '=' << *number.value << ' ';
    out << Op::floats(attributes);
    for (size_t i = 0; i < kInputCount<Op>; ++i) out << "; " << Op::inputs[i] << ' ' << text_of(inputs[i]);
    return out.str();
  }

  typename Op::Attributes attributes;
  int32_t dtype;
  std::vector<typename Machine::Tensor> tensors;
  dyndeploy_tensor inputs[kInputCount<Op>];
  std::vector<Doubles> values;
};

}  // namespace dyndeploy::test

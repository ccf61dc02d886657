// What the test programs of all operators do with shapes that they list, and with cases that they draw.
#pragma once

#include "cuda/operator.h"

namespace dyndeploy::test {

// The layouts of maps that kernels tell apart, in turn.
inline Layout map_layout(size_t turn) {
  constexpr Layout kLayouts[] = {Layout::nchw, Layout::channels_last, Layout::hwc8, Layout::map};
  return kLayouts[turn % std::size(kLayouts)];
}

inline void set(int64_t (&to)[2], int64_t first, int64_t second) { to[0] = first, to[1] = second; }

// Shapes, each of them changed in a few things from a Shape that is otherwise as it is declared: it has a `window`.
template <class Shape>
class Shapes : public std::vector<Shape> {
 public:
  template <class Change>
  void add(Change change) {
    Shape shape;
    change(shape);
    shape.window.resolve();
    this->push_back(shape);
  }

  // One sample, and a window of 3 x 3.
  template <class Change>
  void add_small(Change change) {
    add([&](Shape& shape) {
      shape.window.N = 1;
      shape.window.kernel[1] = 3;
      change(shape);
    });
  }
};

// run(random, shape, k, m) of the k-th shape with each mode m of modes(k).
template <class Shape, class Run>
void for_each_shape(const char* what, const Shapes<Shape>& shapes, Run run,
                    std::vector<size_t> (*modes)(size_t k) = modes_of) {
  for (size_t k = 0; k < shapes.size(); ++k)
    for (const size_t m : modes(k)) {
      const Note note(what, ", shape ", k);
      Random random(k);
      run(random, shapes[k], k, m);
    }
  std::printf("%s: %zu shapes\n", what, shapes.size());
}

template <class Op>
using CaseOf = Case<typename Op::Attributes>;

// Nothing else is drawn for a call, or set while it runs.
struct Nothing {
  Nothing operator()(Random&) const { return {}; }
};

// `use(random)` sets how the kernels go about it, for as long as its result lives.
template <class Op, class Use = Nothing>
void check_drawn_forward(Random& random, const char* what, const CaseOf<Op>& drawn, Use use = {}) {
  const Mode mode = some_mode(random);
  Call<Op> call(random, drawn, mode.dtype);
  const Note note(what, ": ", call.text());
  [[maybe_unused]] const auto used = use(random);
  check_forward(random, call, mode.tf32, Cuda::some_map(random));
}

template <Learns Op, class Use = Nothing>
void check_drawn_backward(Random& random, const CaseOf<Op>& drawn, Use use = {}) {
  const Mode mode = some_mode(random);
  Call<Op> call(random, drawn, mode.dtype);
  const Note note("backward: ", call.text());
  [[maybe_unused]] const auto used = use(random);
  check_backward(random, call, mode.tf32, Cuda::some_map(random));
}

// A window on a larger map, or on the same, of as many samples or more.
inline WindowCase grown(Random& random, const WindowCase& small) {
  WindowCase large = small;
  for (int64_t* size : {&large.N, &large.H, &large.W}) *size = grown(random, *size);
  large.resolve();
  return large;
}

}  // namespace dyndeploy::test

// DDF and DDF-Up on CUDA: forward and backward in all layouts and types, with tails along every dim; constant filters; misuse.
#include "cases/ddf.h"
#include "cuda/misuse.h"
#include "cuda/runs.h"

namespace dyndeploy::test {
namespace {

struct DdfCuda : Ddf {
  using Machine = Cuda;
  static constexpr bool is_map[] = {true, false, true, false};
  static constexpr auto forward_workspace = dyndeploy_ddf_cuda_forward_workspace;
  static constexpr auto forward = dyndeploy_ddf_cuda_forward;
  static constexpr auto backward_workspace = dyndeploy_ddf_cuda_backward_workspace;
  static constexpr auto backward = dyndeploy_ddf_cuda_backward;

  // In float throughout, TF32 or not.
  static Reference make_reference(const Attributes& attributes, const std::vector<Doubles>& values, int32_t, int32_t) {
    return {attributes, values};
  }
};

using DdfCall = Call<DdfCuda>;

// In its scope: how many blocks are enough, and how many samples at a time a backward takes; 0: the rule's.
class Using {
 public:
  Using(int32_t blocks, int32_t samples) : note_(blocks, " blocks, ", samples, " samples at a time") {
    CHECK_OK(dyndeploy_ddf_cuda_use(0, blocks, samples));
  }
  ~Using() { CHECK_OK(dyndeploy_ddf_cuda_use(0, 0, 0)); }
  Using(const Using&) = delete;

 private:
  Note note_;
};

struct Shape {
  WindowCase window;
  int64_t heads = 1, scale = 1, c = 16;  // c: channels of a head
};

// One thing after the other is changed, to sizes below, at and above multiples of the tiles' and vectors'.
Shapes<Shape> shapes() {
  Shapes<Shape> all;
  const auto add = [&](auto change) { all.add_small(change); };

  // Pixels.
  for (const int64_t W : {1, 2, 3, 4, 7, 8, 9, 15, 17, 31, 33, 63, 65, 130}) add([&](Shape& s) { s.window.W = W; });
  for (const int64_t H : {1, 2, 3, 7, 9, 17, 33, 70}) add([&](Shape& s) { s.window.H = H; });
  add([&](Shape& s) { s.window.N = 3, s.window.H = s.window.W = 7; });
  // Channels, also of several heads.
  for (const int64_t c : {1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 17, 31, 33, 63, 64, 65, 100, 257})
    add([&](Shape& s) { s.c = c; });
  const auto heads_of = [&](int64_t heads, int64_t c) {
    add([&](Shape& s) { s.heads = heads, s.c = c; });
  };
  heads_of(2, 8), heads_of(3, 5), heads_of(4, 4), heads_of(8, 1), heads_of(2, 33), heads_of(2, 20), heads_of(4, 16),
      heads_of(16, 8), heads_of(33, 2);
  // Sub-pixels.
  const auto sub_pixels = [&](int64_t scale, int64_t heads, int64_t c) {
    add([&](Shape& s) { s.scale = scale, s.heads = heads, s.c = c; });
  };
  sub_pixels(2, 1, 16), sub_pixels(2, 1, 3), sub_pixels(2, 1, 8), sub_pixels(2, 1, 33), sub_pixels(2, 2, 8),
      sub_pixels(2, 3, 5), sub_pixels(2, 1, 70), sub_pixels(3, 1, 8), sub_pixels(3, 1, 5), sub_pixels(4, 1, 9);
  for (const int64_t W : {1, 17, 33, 65}) add([&](Shape& s) { s.scale = 2, s.window.W = W; });
  add([&](Shape& s) { s.scale = 2, set(s.window.kernel, 5, 5), s.window.H = s.window.W = 6; });
  // Several tiles along every dim at once.
  const auto large = [&](int64_t scale, int64_t heads, int64_t c, int64_t H, int64_t W) {
    add([&](Shape& s) { s.window.N = 2, s.scale = scale, s.heads = heads, s.c = c, s.window.H = H, s.window.W = W; });
  };
  large(1, 1, 72, 37, 41), large(1, 2, 136, 10, 70), large(1, 3, 40, 19, 35), large(2, 1, 72, 19, 35), large(3, 2, 20, 9, 35);
  // Windows.
  const auto kernel = [&](int64_t kh, int64_t kw) {
    add([&](Shape& s) { set(s.window.kernel, kh, kw), s.window.H = 7, s.window.W = 19; });
  };
  kernel(1, 1), kernel(1, 3), kernel(3, 1), kernel(2, 2), kernel(5, 5), kernel(4, 3), kernel(7, 7), kernel(1, 9);
  for (const int64_t pad : {0, 2, 3}) add([&](Shape& s) { std::fill_n(s.window.pads, 4, pad); });
  add([&](Shape& s) { s.window.pads[0] = 4, s.window.pads[1] = 0, s.window.pads[2] = 0, s.window.pads[3] = 6; });
  add([&](Shape& s) { set(s.window.strides, 2, 2), s.window.H = 11, s.window.W = 37; });
  add([&](Shape& s) { set(s.window.strides, 1, 3), s.window.W = 30; });
  add([&](Shape& s) { set(s.window.dilations, 2, 2), s.window.H = s.window.W = 9; });
  add([&](Shape& s) { set(s.window.dilations, 3, 1), set(s.window.kernel, 3, 5), s.window.W = s.window.H = 12; });
  return all;
}

void run_shapes() {
  const auto run = [](Random& random, const Shape& s, size_t k, size_t m) {
    DdfCase drawn = case_of(random, s.window, s.heads, s.scale, s.heads * s.c);
    // Every X comes with every type, every Y, and with products and sums, normed or not.
    drawn.attributes.combine = (m / 2 + k) % 2;
    drawn.attributes.filter_norm = s.window.taps() > 1 && (m + k / 2) % 2;
    DdfCall call(random, drawn, kDtypes[(k + m) % 3], {map_layout(m), Layout::any, map_layout(k / 4 + m), Layout::any});
    const Note what(call.text());
    check_forward(random, call, 0, map_layout(k + m));
  };
  for_each_shape("forward", shapes(), run, [](size_t) { return std::vector<size_t>{0, 1, 2, 3}; });
}

// As shapes() for the gradients: tails of a thread's pixels, of a warp's and a part's, of units and taps.
Shapes<Shape> gradient_shapes() {
  Shapes<Shape> all;
  const auto add = [&](int64_t H, int64_t W, int64_t heads, int64_t c, auto change) {
    all.add_small([&](Shape& s) {
      s.window.H = H, s.window.W = W, s.heads = heads, s.c = c;
      change(s);
    });
  };
  const auto usual = [](Shape&) {};
  add(1, 1, 1, 1, usual);
  add(5, 13, 1, 8, usual);
  add(9, 15, 1, 5, usual);
  add(3, 43, 2, 3, usual);
  add(23, 25, 1, 16, usual);
  add(4, 7, 1, 72, usual);
  add(3, 5, 1, 129, usual);
  add(3, 6, 3, 24, usual);
  add(2, 5, 2, 264, usual);
  add(6, 9, 17, 1, usual);
  add(7, 7, 1, 8, [&](Shape& s) { s.window.N = 5; });
  add(5, 9, 1, 24, [&](Shape& s) { s.scale = 2; });
  add(3, 5, 2, 5, [&](Shape& s) { s.scale = 3; });
  add(11, 9, 1, 16, [&](Shape& s) { set(s.window.strides, 2, 2); });
  add(10, 11, 2, 8, [&](Shape& s) { set(s.window.strides, 3, 1), set(s.window.dilations, 1, 2); });
  add(9, 9, 1, 8, [&](Shape& s) { set(s.window.kernel, 5, 5); });
  add(5, 7, 1, 3, [&](Shape& s) { set(s.window.kernel, 4, 5), s.scale = 2; });
  add(6, 8, 1, 16, [&](Shape& s) { set(s.window.kernel, 1, 1); });
  add(4, 5, 1, 8, [&](Shape& s) { s.window.pads[0] = 4, s.window.pads[1] = 0, s.window.pads[2] = 0, s.window.pads[3] = 6; });
  return all;
}

Using some_use(Random& random) { return {random.pick({0, 0, 1, 7, 40}), random.pick({0, 0, 1, 2})}; }

void run_gradient_shapes() {
  const auto run = [](Random& random, const Shape& s, size_t k, size_t m) {
    DdfCase drawn = case_of(random, s.window, s.heads, s.scale, s.heads * s.c);
    drawn.attributes.combine = (m + k) % 2;
    drawn.attributes.filter_norm = s.window.taps() > 1 && (m + k / 2) % 2;
    // Dense rows, vectors, and now and then maps of different layouts.
    const auto layout = [&](size_t of) { return map_layout(m == 2 ? k + of : m); };
    DdfCall call(random, drawn, kDtypes[(k + m) % 3], {layout(0), Layout::any, layout(1), Layout::any});
    const Note what(call.text());
    const Using use = some_use(random);
    check_backward(random, call, 0, layout(2), {layout(3), Layout::any, layout(1), Layout::any});
  };
  for_each_shape("gradients", gradient_shapes(), run, [](size_t) { return std::vector<size_t>{0, 1, 2}; });
}

void run_backward(Random& random) { check_drawn_backward<DdfCuda>(random, some_case(random, 12000), some_use); }

void run_forward(Random& random) { check_drawn_forward<DdfCuda>(random, "forward", some_case(random, 60000)); }

// What is no number in a pixel is in all results whose window has it, and in no others.
void run_special(Random& random) {
  DdfCase drawn = some_case(random, 30000);
  spoil(random, drawn.inputs[0]);
  check_drawn_forward<DdfCuda>(random, "special", drawn);
}

void run_growth(Random& random) {
  const WindowCase small(random);
  const int64_t heads = random.pick<int64_t>({1, 1, 2, 5}), c = random.size(600);
  const dyndeploy_ddf a = attributes_of(random, small, heads, random.pick<int64_t>({1, 2, 3}));
  const WindowCase large = grown(random, small);
  check_growth<DdfCuda>(random, a, extents_of(a, small, heads * c), extents_of(a, large, heads * grown(random, c)));
}

void run_huge(Random& random) {
  const WindowCase window = WindowCase::huge(random);
  const int64_t heads = huge_number(random);
  const dyndeploy_ddf a = attributes_of(random, window, heads, huge_number(random));
  check_queries<DdfCuda>(random, a, extents_of(a, window, product({heads, huge_number(random)})));
}

void test_constant_filters() {
  Random random(2);
  for (const float constant : kConstants) {
    DdfCall call(random, constant_case(random, constant), DYNDEPLOY_FLOAT32);
    const Note note("constant filters of ", constant, ": ", call.text());
    check_forward(random, call, 0, Cuda::some_map(random));
    // What rounding leaves of the mean, and what is near the smallest numbers.
    if (constant == -0.1f || constant == 1e-30f) check_backward(random, call, 0, Cuda::some_map(random));
  }
}

}  // namespace
}  // namespace dyndeploy::test

int main(int argc, char** argv) {
  using namespace dyndeploy::test;
  fuzz(argc, argv, 3000, run_huge);
  fuzz(argc, argv, 3000, run_growth);
  Random random(1);
  check_misuse<DdfCuda>(random, usual_case);
  test_constant_filters();
  fuzz(argc, argv, 200, run_forward);
  fuzz(argc, argv, 20, run_backward);
  fuzz(argc, argv, 60, run_special);
  run_gradient_shapes();
  run_shapes();
}

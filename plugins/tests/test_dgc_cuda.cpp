// DGC on CUDA: forward and backward in all layouts and types, with tails along every dim; saliencies that tie, or are no
// numbers; misuse.
#include "cases/dgc.h"
#include "cuda/misuse.h"
#include "cuda/runs.h"

namespace dyndeploy::test {
namespace {

struct DgcCuda : Dgc {
  using Machine = Cuda;
  static constexpr bool is_map[] = {true, false, false, false};
  static constexpr auto packed_bytes = dyndeploy_dgc_cuda_packed_bytes;
  static constexpr auto forward_workspace = dyndeploy_dgc_cuda_forward_workspace;
  static constexpr auto forward = dyndeploy_dgc_cuda_forward;
  static constexpr auto backward_workspace = dyndeploy_dgc_cuda_backward_workspace;
  static constexpr auto backward = dyndeploy_dgc_cuda_backward;
  static dyndeploy_status pack(const Attributes* attributes, const dyndeploy_tensor* W, void* packed, uint64_t bytes) {
    return dyndeploy_dgc_cuda_pack(attributes, W, packed, bytes, current_stream());
  }

  // A channel times its gate is rounded to the type of the tensors, in which W is already; or both to TF32.
  static Reference make_reference(const Attributes& attributes, const std::vector<Doubles>& values, int32_t dtype,
                                  int32_t tf32) {
    if (dtype == DYNDEPLOY_FLOAT32 && tf32) return {attributes, values, rounding_to_tf32(), rounding_to_tf32()};
    return {attributes, values, rounding_to(dtype)};
  }
};

using DgcCall = Call<DgcCuda>;

struct Shape {
  WindowCase window;
  int64_t heads = 2, c = 24, o = 16;  // o: outputs of a head
  int64_t inactive = 8;
  Saliency saliency = Saliency::signs;
};

// One thing after the other is changed, to sizes below, at and above multiples of the tiles' and vectors'.
Shapes<Shape> shapes() {
  Shapes<Shape> all;
  const auto add = [&](auto change) { all.add_small(change); };

  const auto maps = [&](int64_t N, int64_t H, int64_t W) {
    add([&](Shape& s) { s.window.N = N, s.window.H = H, s.window.W = W; });
  };
  maps(1, 1, 1), maps(1, 1, 7), maps(1, 3, 11), maps(1, 7, 9), maps(3, 5, 5), maps(1, 1, 127), maps(2, 8, 8), maps(1, 3, 43);
  for (const int64_t o : {1, 7, 8, 9, 31, 33, 63, 64, 65, 129}) add([&](Shape& s) { s.o = o; });
  // Channels, of which so many are dropped that what is left is around multiples of vectors and stages.
  for (const int64_t c : {1, 8, 9, 17, 31, 33, 64, 72, 130})
    for (const int64_t inactive : {int64_t{0}, c / 2, c})
      add([&](Shape& s) { s.c = c, s.inactive = inactive, s.window.H = s.window.W = 3; });
  // More channels than a block has threads.
  for (const int64_t inactive : {0, 1, 200, 299, 511})
    add([&](Shape& s) { s.c = 515, s.o = 3, s.inactive = inactive, s.window.H = s.window.W = 1, set(s.window.kernel, 1, 1); });
  for (const int64_t heads : {1, 3, 4, 16}) add([&](Shape& s) { s.heads = heads, s.o = 8; });
  for (const Saliency kind : {Saliency::relu, Saliency::ties, Saliency::special})
    for (const int64_t inactive : {-1, 0, 6, 18, 23, 24}) add([&](Shape& s) { s.saliency = kind, s.inactive = inactive; });
  const auto kernel = [&](int64_t kh, int64_t kw) {
    add([&](Shape& s) { set(s.window.kernel, kh, kw), s.window.H = s.window.W = 7; });
  };
  kernel(1, 1), kernel(1, 2), kernel(2, 2), kernel(1, 9), kernel(5, 5), kernel(7, 7);
  add([&](Shape& s) { set(s.window.strides, 2, 2), s.window.H = 11; });
  add([&](Shape& s) { set(s.window.strides, 1, 3), s.window.W = 30; });
  add([&](Shape& s) { set(s.window.dilations, 2, 3), s.window.W = s.window.H = 9; });
  add([&](Shape& s) { std::fill_n(s.window.pads, 4, 0); });
  add([&](Shape& s) { s.window.pads[0] = 4, s.window.pads[1] = 0, s.window.pads[2] = 0, s.window.pads[3] = 6; });
  return all;
}

// Of the k-th shape with mode m.
DgcCase case_of_shape(Random& random, const Shape& s, size_t k, size_t m) {
  DgcCase drawn = case_of(random, s.window, s.heads, s.c, s.o, s.inactive, s.saliency);
  drawn.attributes.shuffle = static_cast<int64_t>((k + m / 2) % 2);
  return drawn;
}

void run_shapes() {
  for_each_shape("forward", shapes(), [](Random& random, const Shape& s, size_t k, size_t m) {
    const DgcCase drawn = case_of_shape(random, s, k, m);
    DgcCall call(random, drawn, kModes[m].dtype, {map_layout(k + m), Layout::any, Layout::any, Layout::any});
    const Note what(call.text());
    check_forward(random, call, kModes[m].tf32, map_layout(k / 4 + m));
  });
}

void run_forward(Random& random) { check_drawn_forward<DgcCuda>(random, "forward", some_case(random, 60000)); }

// Gradients are made with tiles of so many rows, and passes of so many bytes, while this lives.
struct Use {
  explicit Use(int32_t rows, int64_t pass_bytes) { CHECK_OK(dyndeploy_dgc_cuda_use(rows, pass_bytes)); }
  ~Use() { CHECK_OK(dyndeploy_dgc_cuda_use(0, 0)); }
  Use(const Use&) = delete;
};

void run_backward(Random& random) {
  check_drawn_backward<DgcCuda>(random, finite(some_case(random, 15000)), [](Random& r) {
    return Use(r.pick({0, 64, 128}), r.pick<int64_t>({0, 0, 1, 20000}));
  });
}

// One thing after the other is changed, from tiles that are full in no dim.
Shapes<Shape> backward_shapes() {
  Shapes<Shape> all;
  const auto add = [&](auto change) {
    all.add([&](Shape& shape) {
      shape.window.N = 2;
      shape.c = 34, shape.inactive = 15, shape.o = 9;
      change(shape);
    });
  };
  add([](Shape&) {});
  // More than a tile of pixels, of kept channels, of outputs; of those that are joined; of a part of W's gradient.
  add([](Shape& s) { s.window.H = 9, s.window.W = 15, s.c = 70, s.inactive = 3; });
  add([](Shape& s) { s.o = 71, s.heads = 1; });
  add([&](Shape& s) {
    set(s.window.kernel, 1, 2), s.window.N = 1, s.window.H = 33, s.window.W = 35, s.c = 5, s.inactive = 1, s.o = 2;
  });
  // Phases: strides alone, with a dilation that shares a factor with them, or that leaves pixels out.
  add([&](Shape& s) { set(s.window.strides, 2, 3), s.window.H = 7, s.window.W = 11; });
  add([&](Shape& s) { set(s.window.strides, 4, 2), set(s.window.dilations, 6, 2), s.window.H = 17, s.window.W = 9; });
  add([&](Shape& s) { set(s.window.kernel, 1, 1), set(s.window.strides, 2, 2), std::fill_n(s.window.pads, 4, 0); });
  add([&](Shape& s) {
    set(s.window.kernel, 2, 5), set(s.window.strides, 9, 1), s.window.pads[0] = 4, s.window.pads[3] = 6;
  });
  add([](Shape& s) { s.saliency = Saliency::ties, s.heads = 4; });
  add([](Shape& s) { s.saliency = Saliency::relu, s.inactive = -1; });
  return all;
}

void run_backward_shapes() {
  for_each_shape("backward", backward_shapes(), [](Random& random, const Shape& s, size_t k, size_t m) {
    const DgcCase drawn = case_of_shape(random, s, k, m);
    DgcCall call(random, drawn, kModes[m].dtype, {map_layout(k + m), Layout::any, Layout::any, Layout::any});
    const Note what(call.text());
    const Use use((k + m) % 4 ? 0 : 128, m % 2 ? 1 : 0);
    check_backward(random, call, kModes[m].tf32, map_layout(k / 4 + m),
                   {map_layout(k + 3 * m + 1), Layout::any, Layout::any, Layout::any});
  });
}

// What is no number in a pixel is in all results whose window has it and whose head reads its channel, and in no others.
void run_special(Random& random) {
  DgcCase drawn = some_case(random, 40000);
  spoil(random, drawn.inputs[0]);
  check_drawn_forward<DgcCuda>(random, "special", drawn);
}

void run_growth(Random& random) {
  const WindowCase small(random);
  const int64_t c = random.size(600), o = random.size(600), heads = random.pick<int64_t>({1, 2, 4});
  const dyndeploy_dgc a = attributes_of(random, small, heads, random.integer(-1, c));
  const WindowCase large = grown(random, small);
  const Use use(0, random.pick<int64_t>({0, 1 << 16, 1 << 22}));
  check_growth<DgcCuda>(random, a, extents_of(a, small, c, o), extents_of(a, large, grown(random, c), grown(random, o)));
}

void run_huge(Random& random) {
  const WindowCase window = WindowCase::huge(random);
  const int64_t C = huge_number(random);
  const dyndeploy_dgc a = attributes_of(random, window, huge_number(random), random.integer(-1, C));
  check_queries<DgcCuda>(random, a, extents_of(a, window, C, huge_number(random)));
}

// So large that the tiles of 128 rows, and of 128 columns, are taken.
void run_large() {
  for (const int64_t o : {40, 130})
    for (const size_t m : modes_of(o == 40 ? 0 : 2)) {
      const Mode mode = kModes[m];
      Random random(static_cast<uint64_t>(o));
      WindowCase window;
      window.N = 4;
      window.H = 33;
      window.W = 129;
      window.kernel[0] = window.kernel[1] = 1;
      std::fill_n(window.pads, 4, 0);
      window.resolve();
      DgcCall call(random, case_of(random, window, 2, 12, o, 4, Saliency::signs), mode.dtype,
                   {Layout::channels_last, Layout::any, Layout::any, Layout::any});
      const Note note("large: ", call.text());
      check_forward(random, call, mode.tf32, Layout::nchw);
    }
}

}  // namespace
}  // namespace dyndeploy::test

int main(int argc, char** argv) {
  using namespace dyndeploy::test;
  fuzz(argc, argv, 3000, run_huge);
  fuzz(argc, argv, 3000, run_growth);
  Random random(1);
  check_misuse<DgcCuda>(random, usual_case);
  CHECK_REFUSED(dyndeploy_dgc_cuda_use(32, 0), "dgc", "rows");
  CHECK_REFUSED(dyndeploy_dgc_cuda_use(0, -1), "dgc", "pass");
  fuzz(argc, argv, 60, run_forward);
  fuzz(argc, argv, 30, run_backward);
  fuzz(argc, argv, 30, run_special);
  run_shapes();
  run_backward_shapes();
  run_large();
}

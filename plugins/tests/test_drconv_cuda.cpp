// DRConv on CUDA: forward and backward in all layouts and types, with tails along every dim; equal and missing logits; misuse.
#include "cases/drconv.h"
#include "cuda/misuse.h"
#include "cuda/runs.h"

namespace dyndeploy::test {
namespace {

struct DrconvCuda : Drconv {
  using Machine = Cuda;
  static constexpr bool is_map[] = {true, false, true, false};
  static constexpr auto forward_workspace = dyndeploy_drconv_cuda_forward_workspace;
  static constexpr auto forward = dyndeploy_drconv_cuda_forward;
  static constexpr auto backward_workspace = dyndeploy_drconv_cuda_backward_workspace;
  static constexpr auto backward = dyndeploy_drconv_cuda_backward;

  // Half types are multiplied as they are, floats as they are or rounded to TF32.
  static Reference make_reference(const Attributes& attributes, const std::vector<Doubles>& values, int32_t dtype,
                                  int32_t tf32) {
    return {attributes, values, dtype == DYNDEPLOY_FLOAT32 && tf32 ? rounding_to_tf32() : Rounding{}};
  }
};

using DrconvCall = Call<DrconvCuda>;

struct Shape {
  WindowCase window;
  int64_t regions = 3, c = 16, o = 16;
  Guide guide = Guide::noise;
};

// One thing after the other is changed, to sizes below, at and above multiples of the tiles' and vectors'.
Shapes<Shape> shapes() {
  Shapes<Shape> all;
  const auto add = [&](auto change) { all.add_small(change); };

  // Pixels, also of samples of more than one piece, and with regions that are empty or have almost all.
  const auto maps = [&](int64_t N, int64_t H, int64_t W, Guide guide) {
    add([&](Shape& s) { s.window.N = N, s.window.H = H, s.window.W = W, s.guide = guide; });
  };
  maps(1, 1, 1, Guide::noise), maps(1, 1, 7, Guide::one), maps(1, 7, 9, Guide::noise), maps(3, 5, 5, Guide::ties),
      maps(1, 1, 127, Guide::one), maps(2, 8, 8, Guide::one), maps(1, 3, 86, Guide::noise), maps(2, 17, 16, Guide::blocks),
      maps(1, 16, 16, Guide::one), maps(2, 23, 25, Guide::noise), maps(1, 23, 25, Guide::one);
  for (const int64_t o : {1, 7, 8, 9, 31, 33, 63, 64, 65, 129}) add([&](Shape& s) { s.o = o; });
  for (const int64_t c : {1, 3, 4, 7, 8, 9, 15, 17, 24, 31, 33, 40, 64, 65, 72}) add([&](Shape& s) { s.c = c; });
  // Filters read where they are: 1 x 1, with channels in whole vectors; and those beside.
  for (const int64_t c : {4, 8, 12, 16, 24, 30, 32, 40, 64, 72})
    add([&](Shape& s) { s.c = c, set(s.window.kernel, 1, 1), std::fill_n(s.window.pads, 4, 0); });
  for (const int64_t regions : {1, 2, 8, 31, 32, 33, 300}) add([&](Shape& s) { s.regions = regions, s.o = 5, s.window.W = 20; });
  const auto kernel = [&](int64_t kh, int64_t kw) {
    add([&](Shape& s) { set(s.window.kernel, kh, kw), s.window.H = s.window.W = 7; });
  };
  kernel(1, 2), kernel(2, 2), kernel(1, 9), kernel(4, 4), kernel(5, 5), kernel(7, 7);
  add([&](Shape& s) { set(s.window.strides, 2, 2), s.window.H = 11; });
  add([&](Shape& s) { set(s.window.strides, 1, 3), s.window.W = 30; });
  add([&](Shape& s) { set(s.window.dilations, 2, 3), s.window.W = s.window.H = 9; });
  add([&](Shape& s) { std::fill_n(s.window.pads, 4, 0); });
  add([&](Shape& s) { s.window.pads[0] = 4, s.window.pads[1] = 0, s.window.pads[2] = 0, s.window.pads[3] = 6; });
  return all;
}

void run_shapes() {
  for_each_shape("forward", shapes(), [](Random& random, const Shape& s, size_t k, size_t m) {
    const DrconvCase drawn = case_of(random, s.window, s.regions, s.c, s.o, s.guide);
    // Filters in one run: what a generator writes.
    const Layout of_filters = m % 2 ? Layout::any : Layout::nchw;
    DrconvCall call(random, drawn, kModes[m].dtype,
                    {map_layout(k + m), of_filters, map_layout(k / 2 + m), Layout::any});
    const Note what(call.text());
    check_forward(random, call, kModes[m].tf32, map_layout(k / 4 + m));
  });
}

// Fewer than of the forward: what it shares with that is tested there.
Shapes<Shape> backward_shapes() {
  Shapes<Shape> all;
  const auto pointwise = [&](int64_t regions, int64_t c, int64_t o, Guide guide) {
    all.add([&](Shape& s) {
      set(s.window.kernel, 1, 1);
      std::fill_n(s.window.pads, 4, 0);
      s.regions = regions, s.c = c, s.o = o, s.guide = guide, s.window.W = 15;
    });
  };
  pointwise(3, 16, 16, Guide::noise), pointwise(1, 3, 5, Guide::noise), pointwise(3, 72, 65, Guide::ties),
      pointwise(4, 8, 24, Guide::one);
  const auto window = [&](int64_t kernel, int64_t stride, int64_t dilation, int64_t c, int64_t o, Guide guide) {
    all.add([&](Shape& s) {
      set(s.window.kernel, kernel, kernel + 1), set(s.window.strides, stride, stride + 1);
      set(s.window.dilations, dilation, dilation);
      s.window.H = 12, s.window.W = 17, s.c = c, s.o = o, s.guide = guide;
    });
  };
  window(2, 1, 1, 24, 9, Guide::noise), window(3, 1, 2, 7, 33, Guide::blocks), window(1, 2, 1, 33, 8, Guide::noise),
      window(2, 2, 3, 8, 66, Guide::special), window(4, 3, 1, 5, 1, Guide::noise);
  return all;
}

void run_backward_shapes() {
  for_each_shape("backward", backward_shapes(), [](Random& random, const Shape& s, size_t k, size_t m) {
    const Layout of_filters = m % 2 ? Layout::any : Layout::nchw;
    const DrconvCase drawn = case_of(random, s.window, s.regions, s.c, s.o, s.guide);
    DrconvCall call(random, drawn, kModes[m].dtype,
                    {map_layout(k + m), of_filters, map_layout(k / 2 + m), Layout::any});
    const Note what(call.text());
    check_backward(random, call, kModes[m].tf32, map_layout(k / 4 + m),
                   {map_layout(k / 3 + m), k % 2 ? Layout::any : Layout::nchw, Layout::any, Layout::any});
  });
}

// A tile of so many rows, parts of so many pixels and so many samples at a time while this lives; 0: the rule's.
struct Using {
  Using(int32_t tile, int32_t part, int32_t samples) {
    CHECK_OK(dyndeploy_drconv_cuda_use_backward(tile, part, samples));
  }
  ~Using() { CHECK_OK(dyndeploy_drconv_cuda_use_backward(0, 0, 0)); }
  Using(const Using&) = delete;
};

void run_backward(Random& random) {
  // Mostly what the rule does not choose on small maps.
  check_drawn_backward<DrconvCuda>(random, some_case(random, 5000), [](Random& r) {
    return Using(r.pick({0, 128}), r.pick({0, 1, 7, 32, 50}), r.pick({0, 1, 2}));
  });
}

void run_forward(Random& random) { check_drawn_forward<DrconvCuda>(random, "forward", some_case(random, 60000)); }

// What is no number in a pixel is in all results whose window has it, and in no others.
void run_special(Random& random) {
  DrconvCase drawn = some_case(random, 40000);
  spoil(random, drawn.inputs[0]);
  check_drawn_forward<DrconvCuda>(random, "special", drawn);
}

void run_growth(Random& random) {
  const WindowCase small(random);
  const int64_t c = random.size(600), o = random.size(600);
  const dyndeploy_drconv a = attributes_of(random, small, random.pick<int64_t>({1, 2, 8}));
  const WindowCase large = grown(random, small);
  check_growth<DrconvCuda>(random, a, extents_of(a, small, c, o), extents_of(a, large, grown(random, c), grown(random, o)));
}

void run_huge(Random& random) {
  const WindowCase window = WindowCase::huge(random);
  const dyndeploy_drconv a = attributes_of(random, window, huge_number(random));
  check_queries<DrconvCuda>(random, a, extents_of(a, window, huge_number(random), huge_number(random)));
}

// So large that the other tiles are taken.
void run_large() {
  for (const int64_t regions : {2, 70})
    for (const size_t m : modes_of(regions == 2 ? 0 : 2)) {
      const Mode mode = kModes[m];
      Random random(static_cast<uint64_t>(regions));
      WindowCase window;
      window.N = 2;
      window.H = 65;
      window.W = 130;
      window.kernel[0] = window.kernel[1] = 1;
      std::fill_n(window.pads, 4, 0);
      window.resolve();
      DrconvCall call(random, case_of(random, window, regions, 8, 66, Guide::noise), mode.dtype,
                      {Layout::channels_last, Layout::nchw, Layout::nchw, Layout::any});
      const Note note("large: ", call.text());
      check_forward(random, call, mode.tf32, Layout::channels_last);
    }
}

}  // namespace
}  // namespace dyndeploy::test

int main(int argc, char** argv) {
  using namespace dyndeploy::test;
  fuzz(argc, argv, 3000, run_huge);
  fuzz(argc, argv, 3000, run_growth);
  Random random(1);
  check_misuse<DrconvCuda>(random, usual_case);
  fuzz(argc, argv, 60, run_forward);
  fuzz(argc, argv, 30, run_special);
  fuzz(argc, argv, 8, run_backward);
  run_shapes();
  run_backward_shapes();
  run_large();
}

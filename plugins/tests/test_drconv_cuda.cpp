// DRConv on CUDA: forward and backward in all layouts and types, with tails along every dim; equal and missing logits; misuse.
#include "cases/drconv.h"
#include "cuda/misuse.h"
#include "cuda/operator.h"

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
std::vector<Shape> shapes() {
  std::vector<Shape> all;
  const auto add = [&](auto change) {
    Shape shape;
    shape.window.N = 1;
    shape.window.kernel[1] = 3;
    change(shape);
    shape.window.resolve();
    all.push_back(shape);
  };
  const auto set = [](int64_t (&to)[2], int64_t first, int64_t second) { to[0] = first, to[1] = second; };

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
  constexpr Layout kLayouts[] = {Layout::nchw, Layout::channels_last, Layout::hwc8, Layout::map};
  const std::vector<Shape> all = shapes();
  for (size_t k = 0; k < all.size(); ++k)
    for (const size_t m : modes_of(k)) {
      const Shape& s = all[k];
      const Note note("shape ", k);
      Random random(k);
      const DrconvCase drawn = case_of(random, s.window, s.regions, s.c, s.o, s.guide);
      const Layout of_x = kLayouts[(k + m) % 4], of_y = kLayouts[(k / 4 + m) % 4];
      // Filters in one run: what a generator writes.
      const Layout of_filters = m % 2 ? Layout::any : Layout::nchw;
      DrconvCall call(random, drawn, kModes[m].dtype, {of_x, of_filters, kLayouts[(k / 2 + m) % 4], Layout::any});
      const Note what(call.text());
      check_forward(random, call, kModes[m].tf32, of_y);
    }
  std::printf("%zu shapes\n", all.size());
}

// Fewer than of the forward: what it shares with that is tested there.
std::vector<Shape> backward_shapes() {
  std::vector<Shape> all;
  const auto add = [&](auto change) {
    all.emplace_back();
    change(all.back());
    all.back().window.resolve();
  };
  const auto pointwise = [&](int64_t regions, int64_t c, int64_t o, Guide guide) {
    add([&](Shape& s) {
      s.window.kernel[0] = s.window.kernel[1] = 1;
      std::fill_n(s.window.pads, 4, 0);
      s.regions = regions, s.c = c, s.o = o, s.guide = guide, s.window.W = 15;
    });
  };
  pointwise(3, 16, 16, Guide::noise), pointwise(1, 3, 5, Guide::noise), pointwise(3, 72, 65, Guide::ties),
      pointwise(4, 8, 24, Guide::one);
  const auto window = [&](int64_t kernel, int64_t stride, int64_t dilation, int64_t c, int64_t o, Guide guide) {
    add([&](Shape& s) {
      for (int axis = 0; axis < 2; ++axis) {
        s.window.kernel[axis] = kernel + axis, s.window.strides[axis] = stride + axis, s.window.dilations[axis] = dilation;
      }
      s.window.H = 12, s.window.W = 17, s.c = c, s.o = o, s.guide = guide;
    });
  };
  window(2, 1, 1, 24, 9, Guide::noise), window(3, 1, 2, 7, 33, Guide::blocks), window(1, 2, 1, 33, 8, Guide::noise),
      window(2, 2, 3, 8, 66, Guide::special), window(4, 3, 1, 5, 1, Guide::noise);
  return all;
}

void run_backward_shapes() {
  constexpr Layout kLayouts[] = {Layout::nchw, Layout::channels_last, Layout::hwc8, Layout::map};
  const std::vector<Shape> all = backward_shapes();
  for (size_t k = 0; k < all.size(); ++k)
    // Of the windows that take long, every second mode.
    for (const size_t m : modes_of(k)) {
      const Shape& s = all[k];
      const Note note("backward shape ", k);
      Random random(k);
      const Layout of_x = kLayouts[(k + m) % 4], of_filters = m % 2 ? Layout::any : Layout::nchw;
      const DrconvCase drawn = case_of(random, s.window, s.regions, s.c, s.o, s.guide);
      DrconvCall call(random, drawn, kModes[m].dtype, {of_x, of_filters, kLayouts[(k / 2 + m) % 4], Layout::any});
      const Note what(call.text());
      check_backward(random, call, kModes[m].tf32, kLayouts[(k / 4 + m) % 4],
                     {kLayouts[(k / 3 + m) % 4], k % 2 ? Layout::any : Layout::nchw, Layout::any, Layout::any});
    }
  std::printf("%zu shapes backward\n", all.size());
}

void run_backward(Random& random) {
  const DrconvCase drawn = some_case(random, 5000);
  const Mode mode = some_mode(random);
  DrconvCall call(random, drawn, mode.dtype);
  // Mostly what the rule does not choose on small maps.
  CHECK_OK(dyndeploy_drconv_cuda_use_backward(random.pick({0, 128}), random.pick({0, 1, 7, 32, 50}), random.pick({0, 1, 2})));
  const Note note(call.text());
  check_backward(random, call, mode.tf32, Cuda::some_map(random));
  CHECK_OK(dyndeploy_drconv_cuda_use_backward(0, 0, 0));
}

void run_forward(Random& random) {
  const DrconvCase drawn = some_case(random, 60000);
  const Mode mode = some_mode(random);
  DrconvCall call(random, drawn, mode.dtype);
  const Note note("forward: ", call.text());
  check_forward(random, call, mode.tf32, Cuda::some_map(random));
}

// What is no number in a pixel is in all results whose window has it, and in no others.
void run_special(Random& random) {
  DrconvCase drawn = some_case(random, 40000);
  spoil(random, drawn.inputs[0]);
  const Mode mode = some_mode(random);
  DrconvCall call(random, drawn, mode.dtype);
  const Note note("special: ", call.text());
  check_forward(random, call, mode.tf32, Cuda::some_map(random));
}

void run_growth(Random& random) {
  const WindowCase small(random);
  const int64_t c = random.size(600), o = random.size(600);
  const dyndeploy_drconv a = attributes_of(random, small, random.pick<int64_t>({1, 2, 8}));
  WindowCase large = small;
  for (int64_t* size : {&large.N, &large.H, &large.W}) *size = grown(random, *size);
  large.resolve();
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

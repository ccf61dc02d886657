// DRConv with mixed filters on CUDA: forward in all layouts and types, with tails along every dim, in both ways; misuse.
#include "cases/drconv_mix.h"
#include "cuda/misuse.h"
#include "cuda/runs.h"

namespace dyndeploy::test {
namespace {

struct DrconvMixCuda : DrconvMix {
  using Machine = Cuda;
  static constexpr bool is_map[] = {true, false, false, true, false};
  static constexpr auto forward_workspace = dyndeploy_drconv_cuda_forward_mix_workspace;
  static constexpr auto forward = dyndeploy_drconv_cuda_forward_mix;

  // What is made is rounded to the type that is multiplied; what is read is of that type already, or rounded to TF32.
  static Reference make_reference(const Attributes& attributes, const std::vector<Doubles>& values, int32_t dtype,
                                  int32_t tf32) {
    if (dtype == DYNDEPLOY_FLOAT32) {
      const Rounding rounding = tf32 ? rounding_to_tf32() : Rounding{};
      return {attributes, values, rounding, rounding};
    }
    return {attributes, values, Rounding{rounding_unit(dtype), smallest(dtype) / 2}, Rounding{}};
  }
};

using DrconvMixCall = Call<DrconvMixCuda>;

// One way while it is there; scaled = -1: by the rule.
class Using {
 public:
  explicit Using(int32_t scaled, int32_t samples = 0)
      : note_(scaled < 0 ? "by the rule" : scaled ? "windows scaled" : "filters made first") {
    CHECK_OK(dyndeploy_drconv_cuda_use_mix(scaled, samples));
  }
  ~Using() { CHECK_OK(dyndeploy_drconv_cuda_use_mix(-1, 0)); }

 private:
  Note note_;
};

struct Shape {
  WindowCase window;
  int64_t regions = 3, c = 16, o = 16, bases = 3;
  Guide guide = Guide::noise;
};

// One thing after the other is changed, to sizes below, at and above multiples of the tiles' and vectors'.
Shapes<Shape> shapes() {
  Shapes<Shape> all;
  const auto add = [&](auto change) { all.add_small(change); };
  const auto one_tap = [&](Shape& s) { set(s.window.kernel, 1, 1), std::fill_n(s.window.pads, 4, 0); };

  const auto maps = [&](int64_t N, int64_t H, int64_t W, Guide guide) {
    add([&](Shape& s) { s.window.N = N, s.window.H = H, s.window.W = W, s.guide = guide, s.c = 5; });
  };
  maps(1, 1, 1, Guide::noise), maps(3, 5, 5, Guide::ties), maps(1, 1, 64, Guide::one), maps(2, 23, 13, Guide::blocks);
  for (const int64_t o : {1, 9, 65, 129}) add([&](Shape& s) { s.o = o, s.c = 5; });
  for (const int64_t c : {1, 9, 33}) add([&](Shape& s) { s.c = c, s.o = 5; });
  // Banks read where they are: 1 x 1, with channels in whole vectors; and those beside.
  for (const int64_t c : {4, 8, 30, 40}) add([&](Shape& s) { one_tap(s), s.c = c; });
  // Bases and pairs of sample and region, more than a block mixes at a time.
  for (const int64_t bases : {1, 8, 33}) add([&](Shape& s) { one_tap(s), s.bases = bases, s.window.N = 3; });
  add([&](Shape& s) { set(s.window.kernel, 5, 4), s.regions = 33, s.window.H = 9; });
  add([&](Shape& s) { set(s.window.strides, 1, 2), set(s.window.dilations, 2, 1), s.window.H = 11, s.window.W = 21; });
  add([&](Shape& s) { s.window.pads[0] = 4, s.window.pads[1] = 0, s.window.pads[2] = 0, s.window.pads[3] = 6; });
  // The larger tile, with a tail along all dims.
  add([&](Shape& s) { one_tap(s), s.window.N = 3, s.window.W = 43, s.c = 9, s.o = 130, s.bases = 2, s.regions = 300; });
  return all;
}

void run_shapes() {
  for_each_shape("forward", shapes(), [](Random& random, const Shape& s, size_t k, size_t m) {
    // Each shape both ways, each with two kinds of type.
    const Using way((k + m) % 2 == 0, static_cast<int32_t>(k % 3));
    const DrconvCase drawn = mix_case_of(random, s.window, s.regions, s.c, s.o, s.bases, s.guide);
    const Layout of_rest = m % 2 ? Layout::any : Layout::nchw;
    DrconvMixCall call(random, drawn, kModes[m].dtype,
                       {map_layout(k + m), of_rest, of_rest, map_layout(k / 2 + m), Layout::any});
    const Note what(call.text());
    check_forward(random, call, kModes[m].tf32, map_layout(k / 4 + m));
  });
}

void run_forward(Random& random) {
  check_drawn_forward<DrconvMixCuda>(random, "forward", some_mix_case(random, 40000), [](Random& r) {
    return Using(static_cast<int32_t>(r.integer(-1, 1)), static_cast<int32_t>(r.integer(0, 1)));
  });
}

void run_special(Random& random) {
  DrconvCase drawn = some_mix_case(random, 20000);
  spoil_with_nan(random, drawn.inputs[0]);
  check_drawn_forward<DrconvMixCuda>(random, "special", drawn,
                                     [](Random& r) { return Using(static_cast<int32_t>(r.integer(-1, 1))); });
}

void run_growth(Random& random) {
  const WindowCase small(random);
  const int64_t c = random.size(600), o = random.size(600), bases = random.pick<int64_t>({1, 3, 8, 20});
  const dyndeploy_drconv a = attributes_of(random, small, random.pick<int64_t>({1, 2, 8}));
  const WindowCase large = grown(random, small);
  check_growth<DrconvMixCuda>(random, a, extents_of_mix(a, small, c, o, bases),
                              extents_of_mix(a, large, grown(random, c), grown(random, o), grown(random, bases)));
}

void run_huge(Random& random) {
  const WindowCase window = WindowCase::huge(random);
  const dyndeploy_drconv a = attributes_of(random, window, huge_number(random));
  check_queries<DrconvMixCuda>(random, a,
                               extents_of_mix(a, window, huge_number(random), huge_number(random), huge_number(random)));
}

}  // namespace
}  // namespace dyndeploy::test

int main(int argc, char** argv) {
  using namespace dyndeploy::test;
  fuzz(argc, argv, 1000, run_huge);
  fuzz(argc, argv, 1000, run_growth);
  Random random(1);
  check_misuse<DrconvMixCuda>(random, usual_mix_case);
  fuzz(argc, argv, 8, run_forward);
  fuzz(argc, argv, 4, run_special);
  run_shapes();
}

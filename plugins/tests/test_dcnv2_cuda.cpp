// DCNv2 on CUDA: forward and gradients in all layouts and types, tiles with tails along every dim; offsets that lead
// anywhere; misuse.
#include "cases/dcnv2.h"
#include "cuda/misuse.h"
#include "cuda/runs.h"
#include "dcnv2/tiles.h"

namespace dyndeploy::test {
namespace {

struct Dcnv2Cuda : Dcnv2 {
  using Machine = Cuda;
  static constexpr bool is_map[] = {true, true, false, false};
  static constexpr auto packed_bytes = dyndeploy_dcnv2_cuda_packed_bytes;
  static constexpr auto forward_workspace = dyndeploy_dcnv2_cuda_forward_workspace;
  static constexpr auto forward = dyndeploy_dcnv2_cuda_forward;
  static constexpr auto backward_workspace = dyndeploy_dcnv2_cuda_backward_workspace;
  static constexpr auto backward = dyndeploy_dcnv2_cuda_backward;
  static constexpr bool kScatters = true;
  static dyndeploy_status pack(const Attributes* attributes, const dyndeploy_tensor* W, void* packed, uint64_t bytes) {
    return dyndeploy_dcnv2_cuda_pack(attributes, W, packed, bytes, current_stream());
  }

  // What is sampled is rounded to the type of the tensors, in which W is already; or both to TF32.
  static Reference make_reference(const Attributes& attributes, const std::vector<Doubles>& values, int32_t dtype,
                                  int32_t tf32) {
    if (dtype == DYNDEPLOY_FLOAT32 && tf32) return {attributes, values, rounding_to_tf32(), rounding_to_tf32()};
    return {attributes, values, rounding_to(dtype)};
  }
};

using Dcnv2Call = Call<Dcnv2Cuda>;

// In its scope a tile of dcnv2/tiles.h (or, past the last, the one that the rule chooses), and so many parts of the depth
// (0: the rule's): on maps as small as these the rule would choose the smallest tile always.
class Using {
 public:
  Using(size_t tile, int32_t parts)
      : tile_(tile < std::size(dcnv2::kTiles) ? dcnv2::kTiles[tile] : dcnv2::TileShape{}),
        note_("tile ", tile_.rows, " x ", tile_.columns, ", ", parts, " parts") {
    CHECK_OK(dyndeploy_dcnv2_cuda_use(tile_.rows, tile_.columns, parts));
  }
  ~Using() { CHECK_OK(dyndeploy_dcnv2_cuda_use(0, 0, 0)); }
  Using(const Using&) = delete;

  static Using some(Random& random) {
    const int64_t rule = std::size(dcnv2::kTiles);
    const int64_t tile = random.chance(0.3) ? rule : random.integer(0, rule - 1);
    return {static_cast<size_t>(tile), random.pick({0, 1, 1, 2, 3, 16})};
  }

 private:
  dcnv2::TileShape tile_;
  Note note_;
};

// A product of N * Ho * Wo rows, o columns and taps * c deep, in each of `group` groups.
struct Shape {
  WindowCase window;
  int64_t group = 1, offset_group = 1, c = 16, o = 16;
};

// One thing after the other is changed, to sizes below, at and above multiples of the tiles' and vectors'.
Shapes<Shape> shapes() {
  Shapes<Shape> all;
  const auto add = [&](auto change) { all.add_small(change); };

  // Rows: N, H, W.
  const auto maps = [&](int64_t N, int64_t H, int64_t W) {
    add([&](Shape& s) { s.window.N = N, s.window.H = H, s.window.W = W; });
  };
  maps(1, 1, 1), maps(1, 1, 7), maps(1, 3, 11), maps(1, 7, 9), maps(1, 5, 13), maps(3, 5, 5), maps(1, 1, 127),
      maps(2, 8, 8), maps(1, 3, 43), maps(5, 7, 11);
  // Columns.
  for (const int64_t o : {1, 7, 8, 9, 31, 33, 63, 64, 65, 127, 129, 257}) add([&](Shape& s) { s.o = o; });
  // Depth: channels, and taps.
  for (const int64_t c : {1, 3, 4, 7, 8, 9, 15, 17, 24, 31, 33, 40, 64, 65, 72}) add([&](Shape& s) { s.c = c; });
  const auto kernel = [&](int64_t kh, int64_t kw) {
    add([&](Shape& s) { set(s.window.kernel, kh, kw), s.window.H = s.window.W = 7; });
  };
  kernel(1, 1), kernel(1, 2), kernel(2, 2), kernel(1, 9), kernel(2, 5), kernel(3, 4), kernel(5, 5), kernel(7, 7);
  // Groups: their number, and channels and outputs of each.
  const auto groups = [&](int64_t group, int64_t c, int64_t o) {
    add([&](Shape& s) { s.group = group, s.c = c, s.o = o; });
  };
  groups(2, 8, 8), groups(2, 3, 5), groups(3, 16, 8), groups(16, 1, 1), groups(4, 1, 2), groups(2, 8, 65),
      groups(5, 9, 7), groups(2, 40, 3);
  const auto offset_groups = [&](int64_t offset_group, int64_t group, int64_t c) {
    add([&](Shape& s) { s.offset_group = offset_group, s.group = group, s.c = c; });
  };
  offset_groups(2, 1, 16), offset_groups(4, 1, 16), offset_groups(16, 1, 16), offset_groups(3, 1, 24),
      offset_groups(2, 1, 64), offset_groups(5, 1, 35), offset_groups(3, 2, 12), offset_groups(2, 3, 8),
      offset_groups(6, 2, 9);
  // Several tiles along every dim at once.
  add([&](Shape& s) { s.window.N = 2, s.window.H = 11, s.window.W = 13, s.c = 40, s.o = 150; });
  add([&](Shape& s) { s.window.H = 9, s.window.W = 17, s.group = 2, s.offset_group = 2, s.c = 24, s.o = 70; });
  // Windows.
  add([&](Shape& s) { set(s.window.strides, 2, 2), s.window.H = 11; });
  add([&](Shape& s) { set(s.window.strides, 1, 3), s.window.W = 30; });
  add([&](Shape& s) { set(s.window.dilations, 2, 3), s.window.W = s.window.H = 9; });
  add([&](Shape& s) { std::fill_n(s.window.pads, 4, 0); });
  add([&](Shape& s) { s.window.pads[0] = 4, s.window.pads[1] = 0, s.window.pads[2] = 0, s.window.pads[3] = 6; });
  return all;
}

void run_shapes() {
  for_each_shape("forward", shapes(), [](Random& random, const Shape& s, size_t k, size_t m) {
    const Dcnv2Case drawn = case_of(random, s.window, s.group, s.offset_group, s.c, s.o, Offsets::anywhere);
    const Using tile(k % (std::size(dcnv2::kTiles) + 1), static_cast<int32_t>((k / 6 + m) % 4));
    // All pairs of an X and a Y come by, each with every mode.
    Dcnv2Call call(random, drawn, kModes[m].dtype,
                   {map_layout(k + m), map_layout(k / 2 + m), Layout::any, Layout::any});
    const Note what(call.text());
    check_forward(random, call, kModes[m].tf32, map_layout(k / 4 + m));
  });
}

// Of the gradients' products: rows are pixels, columns taps and channels (a slab holds 8, 4, 2 or 1 taps, or a part of one),
// depth outputs; then rows are taps and channels, columns outputs, depth pixels.
Shapes<Shape> gradient_shapes() {
  Shapes<Shape> all;
  const auto add = [&](int64_t N, int64_t H, int64_t W, int64_t group, int64_t offset_group, int64_t c, int64_t o) {
    all.add_small([&](Shape& s) {
      s.window.N = N, s.window.H = H, s.window.W = W;
      s.group = group, s.offset_group = offset_group, s.c = c, s.o = o;
    });
  };
  add(1, 1, 1, 1, 1, 1, 1), add(2, 5, 13, 1, 1, 3, 7), add(1, 8, 8, 1, 1, 9, 33);
  add(1, 3, 11, 1, 1, 17, 65), add(1, 5, 5, 1, 1, 64, 129), add(1, 3, 7, 1, 1, 131, 9);
  add(3, 3, 9, 5, 1, 1, 2), add(1, 7, 10, 2, 3, 6, 5), add(1, 3, 5, 1, 2, 130, 8), add(2, 9, 9, 1, 8, 8, 16);
  add(1, 1, 3, 1, 1, 8, 257);
  add(2, 12, 17, 3, 1, 12, 40);
  all[1].window.strides[1] = 2, all[7].window.dilations[0] = 2, all[7].window.pads[0] = 4;
  for (Shape& shape : all) shape.window.resolve();
  return all;
}

void run_gradient_shapes() {
  for_each_shape("gradients", gradient_shapes(), [](Random& random, const Shape& s, size_t k, size_t m) {
    const Offsets offsets = k % 3 ? Offsets::grid : Offsets::still;
    const Dcnv2Case drawn = case_of(random, s.window, s.group, s.offset_group, s.c, s.o, offsets);
    const Using parts(std::size(dcnv2::kTiles), static_cast<int32_t>((k + m / 2) % 3));
    const Layout first = map_layout(k + m), second = map_layout(k / 2 + m);
    Dcnv2Call call(random, drawn, kModes[m].dtype, {first, second, Layout::any, Layout::any});
    const Note what(call.text());
    check_backward(random, call, kModes[m].tf32, second, {map_layout(k / 4 + m), first, Layout::any, Layout::any});
  });
}

// Far to the right a half has no fraction left: at 1024 and above its numbers are whole, at 2048 every other one.
void run_wide_map() {
  for (const Layout layout : {Layout::channels_last, Layout::nchw}) {
    Random random(1);
    WindowCase window;
    window.N = 1;
    window.H = 64;
    window.W = 2048;
    window.kernel[1] = 3;
    window.strides[0] = 21;
    window.strides[1] = 61;
    window.resolve();
    Dcnv2Call call(random, case_of(random, window, 1, 1, 16, 8, Offsets::between), DYNDEPLOY_FLOAT16,
                   {layout, layout, Layout::any, Layout::any});
    const Note note("wide map: ", call.text());
    check_forward(random, call, 0, layout);
  }
}

void run_forward(Random& random) {
  const Offsets offsets = random.pick({Offsets::anywhere, Offsets::grid, Offsets::wild});
  check_drawn_forward<Dcnv2Cuda>(random, "forward", some_case(random, 60000, offsets), Using::some);
}

// Offsets on the grid, since a gradient jumps where a coordinate is rounded across an integer.
void run_backward(Random& random) {
  const Offsets offsets = random.pick({Offsets::grid, Offsets::wild, Offsets::still});
  check_drawn_backward<Dcnv2Cuda>(random, some_case(random, 20000, offsets), Using::some);
}

// What is no number in a pixel, or in a mask, is in all results that sampled it, and in no others.
void run_special(Random& random) {
  check_drawn_forward<Dcnv2Cuda>(random, "special", special_case(random, 40000), Using::some);
}

void run_growth(Random& random) {
  const WindowCase small(random);
  const int64_t group = random.pick<int64_t>({1, 1, 2, 5}), c = random.size(600), o = random.size(600);
  const dyndeploy_dcnv2 a = attributes_of(random, small, group, random.pick<int64_t>({1, group}));
  const WindowCase large = grown(random, small);
  const int64_t more_c = grown(random, c), more_o = grown(random, o);
  check_growth<Dcnv2Cuda>(random, a, extents_of(a, small, c, o), extents_of(a, large, more_c, more_o));
}

void run_huge(Random& random) {
  const WindowCase window = WindowCase::huge(random);
  const int64_t group = huge_number(random), c = huge_number(random);
  const dyndeploy_dcnv2 a = attributes_of(random, window, group, random.pick<int64_t>({1, c, group}));
  check_queries<Dcnv2Cuda>(random, a, extents_of(a, window, c, huge_number(random)));
}

}  // namespace
}  // namespace dyndeploy::test

int main(int argc, char** argv) {
  using namespace dyndeploy::test;
  fuzz(argc, argv, 3000, run_huge);
  fuzz(argc, argv, 3000, run_growth);
  Random random(1);
  check_misuse<Dcnv2Cuda>(random, usual_case);
  run_wide_map();
  fuzz(argc, argv, 60, run_forward);
  fuzz(argc, argv, 25, run_backward);
  fuzz(argc, argv, 30, run_special);
  run_shapes();
  run_gradient_shapes();
}

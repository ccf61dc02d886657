// DCNv2: forward and backward in all layouts, dtypes, instruction sets and lanes; offsets that lead anywhere; misuse.
#include "misuse.h"
#include "operator.h"
#include "reference/dcnv2.h"

namespace dyndeploy::test {
namespace {

struct Dcnv2 {
  using Attributes = dyndeploy_dcnv2;
  using Reference = Dcnv2Reference;
  static constexpr const char* name = "dcnv2";
  static constexpr const char* inputs[] = {"X", "offset_mask", "W", "B"};
  static constexpr auto output = dyndeploy_dcnv2_output;
  static constexpr auto packed_bytes = dyndeploy_dcnv2_cpu_packed_bytes;
  static constexpr auto pack = dyndeploy_dcnv2_cpu_pack;
  static constexpr auto forward_workspace = dyndeploy_dcnv2_cpu_forward_workspace;
  static constexpr auto forward = dyndeploy_dcnv2_cpu_forward;
  static constexpr auto backward_workspace = dyndeploy_dcnv2_cpu_backward_workspace;
  static constexpr auto backward = dyndeploy_dcnv2_cpu_backward;

  static std::vector<Number> numbers(Attributes& a) {
    std::vector<Number> all = window_numbers(a);
    all.insert(all.end(), {{"group", &a.group}, {"offset_group", &a.offset_group}, {"sigmoid", &a.sigmoid}, {"relu", &a.relu}});
    return all;
  }
  static std::string floats(const Attributes& a) { return "mask_scale=" + std::to_string(a.mask_scale); }
};

// Where samples fall.
enum class Offsets {
  anywhere,  // N(0, 2 px)
  grid,      // multiples of 1/16 px: exact in every dtype, often at the kinks of the interpolation
  between,   // never at a kink: all four neighbours count
  wild,      // also none, infinite, and far away
};

double some_offset(Random& random, Offsets offsets) {
  if (offsets == Offsets::anywhere) return 2 * random.normal();
  if (offsets == Offsets::wild && random.chance(0.2))
    return random.pick<double>({NAN, HUGE_VAL, -HUGE_VAL, 1e30, -1e30, 1e9, -1e9, 3e38, -3e38, 65504.0, 2147483648.0, -2147483649.0});
  if (offsets == Offsets::between) return static_cast<double>(2 * random.integer(-32, 32) + 1) / 16;
  return static_cast<double>(random.integer(-64, 64)) / 16;
}

// What a sigmoid has to bear. Without one the mask is a factor like others.
double some_logit(Random& random) {
  return random.chance(0.9) ? 30 * random.normal()
                            : random.pick<double>({HUGE_VAL, -HUGE_VAL, 1e30, -1e30, 88, -88, 87.3, -87.4});
}

dyndeploy_dcnv2 attributes_of(Random& random, const WindowCase& window, int64_t group, int64_t offset_group) {
  dyndeploy_dcnv2 a{};
  a.size = sizeof a;
  window.write(a);
  a.group = group;
  a.offset_group = offset_group;
  a.sigmoid = random.integer(0, 1);
  a.mask_scale = random.pick({1.0f, 2.0f, -0.7f});
  a.relu = random.integer(0, 1);
  return a;
}

// c and o: channels and outputs of a group.
Extents extents_of(const dyndeploy_dcnv2& a, const WindowCase& window, int64_t c, int64_t o) {
  const int64_t C = product({c, a.group}), O = product({o, a.group});
  return {{window.N, C, window.H, window.W},
          {window.N, product({3, a.offset_group, window.taps()}), window.Ho, window.Wo},
          {O, c, window.kernel[0], window.kernel[1]},
          {O}};
}

Case<Dcnv2> case_of(Random& random, const WindowCase& window, int64_t group, int64_t offset_group, int64_t c, int64_t o,
                    Offsets offsets) {
  Case<Dcnv2> drawn{attributes_of(random, window, group, offset_group), {}};
  for (const auto& extents : extents_of(drawn.attributes, window, c, o))
    drawn.inputs.push_back(normal_values(random, extents));
  const bool logits = drawn.attributes.sigmoid && offsets == Offsets::wild;
  const int64_t points = offset_group * window.taps();
  for (int64_t n = 0; n < window.N; ++n)
    for (int64_t d = 0; d < 3 * points; ++d)
      for (int64_t i = 0; i < window.Ho; ++i)
        for (int64_t j = 0; j < window.Wo; ++j)
          if (d < 2 * points)
            drawn.inputs[1](n, d, i, j) = some_offset(random, offsets);
          else if (logits)
            drawn.inputs[1](n, d, i, j) = some_logit(random);
  return drawn;
}

Case<Dcnv2> some_case(Random& random, int64_t budget, Offsets offsets) {
  const WindowCase window(random);
  int64_t group = random.pick<int64_t>({1, 1, 1, 2, 3, 5}), c = random.size(600), o = random.size(600);
  fit(budget, std::max<int64_t>(window.N, 1) * window.pixels() * window.taps(), {&c, &o, &group});
  if (random.chance(0.02)) c = 0;
  if (random.chance(0.02)) o = 0, group = 1;
  return case_of(random, window, group, divisor(random, c * group), c, o, offsets);
}

void run_forward(Random& random) {
  const Offsets offsets = random.pick({Offsets::anywhere, Offsets::grid, Offsets::wild});
  Call<Dcnv2> call(random, some_case(random, 150000, offsets), some_dtype(random));
  const Note note("forward: ", call.text());
  check_forward(random, call);
}

void run_backward(Random& random) {
  // On the grid, since a gradient jumps where a coordinate is rounded across an integer.
  const Offsets offsets = random.pick({Offsets::grid, Offsets::wild});
  Call<Dcnv2> call(random, some_case(random, 40000, offsets), some_dtype(random));
  const Note note(call.text());
  check_backward(random, call);
}

// What is no number in a pixel, or in a mask, is in all results that sampled it, and in no others.
void run_special(Random& random) {
  Case<Dcnv2> drawn = some_case(random, 40000, Offsets::between);
  if (random.chance(0.8)) spoil(random, drawn.inputs[0]);
  Doubles& offset_mask = drawn.inputs[1];
  const int64_t channels = offset_mask.extents()[1];
  if (random.chance(0.5) && offset_mask.count())
    offset_mask(0, random.integer(channels * 2 / 3, channels - 1), 0, 0) = NAN;
  Call<Dcnv2> call(random, drawn, some_dtype(random));
  const Note note("special: ", call.text());
  check_forward(random, call);
}

void run_reference(Random& random) {
  const Note note("reference");
  check_reference(random, some_case(random, 3000, Offsets::between));
}

void run_concurrent(Random& random) {
  check_concurrent(random, Call<Dcnv2>(random, some_case(random, 150000, Offsets::grid), some_dtype(random)));
}

void run_huge(Random& random) {
  const WindowCase window = WindowCase::huge(random);
  const int64_t group = huge_number(random), c = huge_number(random);
  const dyndeploy_dcnv2 a = attributes_of(random, window, group, random.pick<int64_t>({1, c, group}));
  check_queries<Dcnv2>(a, extents_of(a, window, c, huge_number(random)));
}

// So large that the samples of X are not all copied at once.
void test_large_map() {
  Random random(3);
  WindowCase window;
  window.H = window.W = 256;
  window.strides[0] = window.strides[1] = 64;
  window.Ho = output_size(256, 1, 1, 3, 1, 64);
  window.Wo = output_size(256, 1, 1, 2, 1, 64);
  const Call<Dcnv2> call(random, case_of(random, window, 1, 1, 33, 5, Offsets::anywhere), DYNDEPLOY_BFLOAT16);
  const Note note("large map");
  check_forward(random, call);
}

// All extents are larger than 1.
Case<Dcnv2> usual_case(Random& random) {
  return case_of(random, WindowCase(), 2, 3, 3, 2, Offsets::anywhere);
}

}  // namespace
}  // namespace dyndeploy::test

int main(int argc, char** argv) {
  using namespace dyndeploy::test;
  fuzz(argc, argv, 150, run_forward);
  fuzz(argc, argv, 100, run_backward);
  fuzz(argc, argv, 50, run_special);
  fuzz(argc, argv, 20, run_reference);
  fuzz(argc, argv, 5, run_concurrent);
  fuzz(argc, argv, 3000, run_huge);
  test_large_map();
  Random random(1);
  check_misuse(random, usual_case);
}

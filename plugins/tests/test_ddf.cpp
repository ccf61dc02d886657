// DDF and DDF-Up: forward and backward in all layouts, dtypes, instruction sets and lanes; constant filters; misuse.
#include "misuse.h"
#include "operator.h"
#include "reference/ddf.h"

namespace dyndeploy::test {
namespace {

struct Ddf {
  using Attributes = dyndeploy_ddf;
  using Reference = DdfReference;
  static constexpr const char* name = "ddf";
  static constexpr const char* inputs[] = {"X", "channel_filter", "spatial_filter", "channel_gain"};
  static constexpr auto output = dyndeploy_ddf_output;
  static constexpr auto forward_workspace = dyndeploy_ddf_cpu_forward_workspace;
  static constexpr auto forward = dyndeploy_ddf_cpu_forward;
  static constexpr auto backward_workspace = dyndeploy_ddf_cpu_backward_workspace;
  static constexpr auto backward = dyndeploy_ddf_cpu_backward;

  static std::vector<Number> numbers(Attributes& a) {
    std::vector<Number> all = window_numbers(a);
    all.insert(all.end(), {{"kernel", &a.kernel_shape[0]},
                           {"kernel", &a.kernel_shape[1]},
                           {"heads", &a.heads},
                           {"scale", &a.scale},
                           {"combine", &a.combine},
                           {"filter_norm", &a.filter_norm},
                           {"relu", &a.relu}});
    return all;
  }
  static std::string floats(const Attributes& a) { return "spatial_gain=" + std::to_string(a.spatial_gain); }
};

// Filters with a mean far from 0 now and then, and, in a few taps' numbers, constant ones.
Doubles some_filters(Random& random, const std::vector<int64_t>& extents) {
  Doubles filters = normal_values(random, extents);
  const double mean = random.chance(0.3) ? 10 * random.normal() : 0;
  const bool constant = random.chance(0.1);
  for (int64_t i = 0; i < filters.count(); ++i) filters.flat(i) = mean + (constant ? 0 : filters.flat(i));
  return filters;
}

dyndeploy_ddf attributes_of(Random& random, const WindowCase& window, int64_t heads, int64_t scale) {
  dyndeploy_ddf a{};
  a.size = sizeof a;
  window.write(a);
  std::copy(window.kernel, window.kernel + 2, a.kernel_shape);
  a.heads = heads;
  a.scale = scale;
  a.combine = random.integer(0, 1);
  a.filter_norm = window.taps() > 1 && random.chance(0.6);
  a.spatial_gain = random.pick({1.0f, 0.47140452f, -1.5f});
  a.relu = random.integer(0, 1);
  return a;
}

Extents extents_of(const dyndeploy_ddf& a, const WindowCase& window, int64_t C) {
  const int64_t filters = product({a.scale, a.scale, C, window.taps()});
  return {{window.N, C, window.H, window.W},
          {window.N, filters},
          {window.N, product({a.scale, a.scale, a.heads, window.taps()}), window.Ho, window.Wo},
          {filters}};
}

Case<Ddf> case_of(Random& random, const WindowCase& window, int64_t heads, int64_t scale, int64_t C) {
  const dyndeploy_ddf a = attributes_of(random, window, heads, scale);
  const Extents extents = extents_of(a, window, C);
  return {a,
          {normal_values(random, extents[0]), some_filters(random, extents[1]), some_filters(random, extents[2]),
           normal_values(random, extents[3])}};
}

Case<Ddf> some_case(Random& random, int64_t budget) {
  const WindowCase window(random);
  int64_t scale = random.pick<int64_t>({1, 1, 1, 2, 2, 3}), c = random.size(600);
  int64_t heads = random.chance(0.5) ? 1 : random.pick<int64_t>({2, 3, 4, 7});
  fit(budget, std::max<int64_t>(window.N, 1) * window.pixels() * window.taps(), {&c, &heads, &scale, &scale});
  return case_of(random, window, heads, scale, random.chance(0.02) ? 0 : c * heads);
}

void run_forward(Random& random) {
  Call<Ddf> call(random, some_case(random, 100000), some_dtype(random));
  const Note note("forward: ", call.text());
  check_forward(random, call);
}

void run_backward(Random& random) {
  Call<Ddf> call(random, some_case(random, 50000), some_dtype(random));
  const Note note(call.text());
  check_backward(random, call);
}

// What is no number in a pixel is in all results whose window has it, and in no others.
void run_special(Random& random) {
  Case<Ddf> drawn = some_case(random, 30000);
  spoil(random, drawn.inputs[0]);
  Call<Ddf> call(random, drawn, some_dtype(random));
  const Note note("special: ", call.text());
  check_forward(random, call);
}

void run_reference(Random& random) {
  const Note note("reference");
  Case<Ddf> drawn = some_case(random, 3000);
  // Without constant filters, whose slope is taken to be another one.
  for (const size_t i : {1, 2}) drawn.inputs[i] = normal_values(random, drawn.inputs[i].extents());
  check_reference(random, drawn);
}

void run_concurrent(Random& random) { check_concurrent(random, Call<Ddf>(random, some_case(random, 150000), some_dtype(random))); }

void run_huge(Random& random) {
  const WindowCase window = WindowCase::huge(random);
  const int64_t heads = huge_number(random);
  const dyndeploy_ddf a = attributes_of(random, window, heads, huge_number(random));
  check_queries<Ddf>(a, extents_of(a, window, product({heads, huge_number(random)})));
}

// Filters that FilterNorm makes exactly 0, and filters that are constant but for one tap.
void test_constant_filters() {
  Random random(2);
  for (const float constant : {0.0f, 1.0f, -0.1f, 3e5f, 1e-30f}) {
    Case<Ddf> drawn = case_of(random, WindowCase(), 2, 2, 34);
    drawn.attributes.filter_norm = 1;
    for (const size_t i : {1, 2})
      for (int64_t k = 0; k < drawn.inputs[i].count(); ++k) drawn.inputs[i].flat(k) = constant;
    Call<Ddf> call(random, drawn, DYNDEPLOY_FLOAT32);
    const Note note("constant filters of ", constant, ": ", call.text());
    const Reals zeros = DdfReference(call.attributes, call.values).forward();
    for (int64_t i = 0; i < zeros.count(); ++i) CHECK(zeros.flat(i).v == 0 && zeros.flat(i).e == 0);
    check_forward(random, call);
    check_backward(random, call);
  }
}

// All extents are larger than 1.
Case<Ddf> usual_case(Random& random) { return case_of(random, WindowCase(), 2, 2, 6); }

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
  test_constant_filters();
  Random random(1);
  check_misuse(random, usual_case);
}

// DGC: forward in all layouts, dtypes, instruction sets and lanes; saliencies that tie, or are no numbers; misuse.
#include "misuse.h"
#include "operator.h"
#include "reference/dgc.h"

namespace dyndeploy::test {
namespace {

struct Dgc {
  using Attributes = dyndeploy_dgc;
  using Reference = DgcReference;
  static constexpr const char* name = "dgc";
  static constexpr const char* inputs[] = {"X", "saliency", "W", "B"};
  static constexpr auto output = dyndeploy_dgc_output;
  static constexpr auto packed_bytes = dyndeploy_dgc_cpu_packed_bytes;
  static constexpr auto pack = dyndeploy_dgc_cpu_pack;
  static constexpr auto forward_workspace = dyndeploy_dgc_cpu_forward_workspace;
  static constexpr auto forward = dyndeploy_dgc_cpu_forward;

  static std::vector<Number> numbers(Attributes& a) {
    std::vector<Number> all = window_numbers(a);
    all.insert(all.end(), {{"heads", &a.heads}, {"inactive", &a.inactive}, {"shuffle", &a.shuffle}, {"relu", &a.relu}});
    return all;
  }
  static std::string floats(const Attributes& a) { return "threshold=" + std::to_string(a.threshold); }
};

enum class Saliency { relu, ties, signs, special };

double some_saliency(Random& random, Saliency kind) {
  switch (kind) {
    case Saliency::relu:  // what a ReLU leaves: many zeros
      return std::max(0.0, random.normal());
    case Saliency::ties:
      return static_cast<double>(random.integer(0, 2)) / 2;
    case Saliency::signs:
      return random.normal();
    default:
      return random.pick<double>({NAN, 0.0, -0.0, 1.0, 1.0, 2.0, -1.0, HUGE_VAL, -HUGE_VAL});
  }
}

dyndeploy_dgc attributes_of(Random& random, const WindowCase& window, int64_t heads, int64_t inactive) {
  dyndeploy_dgc a{};
  a.size = sizeof a;
  window.write(a);
  a.heads = heads;
  a.inactive = inactive;
  a.threshold = random.pick({0.0f, 0.5f, -0.25f, 1.0f, 100.0f});
  a.shuffle = random.integer(0, 1);
  a.relu = random.integer(0, 1);
  return a;
}

// `rows`: outputs of a head.
Extents extents_of(const dyndeploy_dgc& a, const WindowCase& window, int64_t C, int64_t rows) {
  const int64_t O = product({rows, a.heads});
  return {{window.N, C, window.H, window.W},
          {window.N, product({a.heads, C})},
          {O, C, window.kernel[0], window.kernel[1]},
          {O}};
}

Case<Dgc> case_of(Random& random, const WindowCase& window, int64_t heads, int64_t C, int64_t rows, int64_t inactive,
                  Saliency kind) {
  Case<Dgc> drawn{attributes_of(random, window, heads, inactive), {}};
  for (const auto& extents : extents_of(drawn.attributes, window, C, rows))
    drawn.inputs.push_back(normal_values(random, extents));
  for (int64_t i = 0; i < drawn.inputs[1].count(); ++i) drawn.inputs[1].flat(i) = some_saliency(random, kind);
  return drawn;
}

Case<Dgc> some_case(Random& random, int64_t budget) {
  const WindowCase window(random);
  int64_t heads = random.pick<int64_t>({1, 2, 4, 4, 5}), c = random.size(600), rows = random.size(150);
  fit(budget, std::max<int64_t>(window.N, 1) * window.pixels() * window.taps(), {&c, &rows, &heads});
  if (random.chance(0.02)) c = 0;
  if (random.chance(0.02)) rows = 0, heads = 1;
  const int64_t inactive = random.pick<int64_t>({-1, 0, random.integer(0, c), random.integer(0, c), c * 3 / 4, c});
  return case_of(random, window, heads, c, rows, inactive,
                 random.pick({Saliency::relu, Saliency::relu, Saliency::ties, Saliency::signs, Saliency::special}));
}

void run_forward(Random& random) {
  Call<Dgc> call(random, some_case(random, 150000), some_dtype(random));
  const Note note("forward: ", call.text());
  check_forward(random, call);
}

// What is no number in a pixel is in all results whose window has it and whose head reads its channel, and in no others.
void run_special(Random& random) {
  Case<Dgc> drawn = some_case(random, 40000);
  spoil(random, drawn.inputs[0]);
  Call<Dgc> call(random, drawn, some_dtype(random));
  const Note note("special: ", call.text());
  check_forward(random, call);
}

void run_concurrent(Random& random) { check_concurrent(random, Call<Dgc>(random, some_case(random, 150000), some_dtype(random))); }

void run_huge(Random& random) {
  const WindowCase window = WindowCase::huge(random);
  const int64_t C = huge_number(random);
  const dyndeploy_dgc a = attributes_of(random, window, huge_number(random), random.integer(-1, C));
  check_queries<Dgc>(a, extents_of(a, window, C, huge_number(random)));
}

// All extents are larger than 1.
Case<Dgc> usual_case(Random& random) { return case_of(random, WindowCase(), 2, 6, 3, 2, Saliency::relu); }

}  // namespace
}  // namespace dyndeploy::test

int main(int argc, char** argv) {
  using namespace dyndeploy::test;
  fuzz(argc, argv, 200, run_forward);
  fuzz(argc, argv, 50, run_special);
  fuzz(argc, argv, 5, run_concurrent);
  fuzz(argc, argv, 3000, run_huge);
  Random random(1);
  check_misuse(random, usual_case);
}

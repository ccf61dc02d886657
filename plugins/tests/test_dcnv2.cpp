// DCNv2: forward and backward in all layouts, dtypes, instruction sets and lanes; offsets that lead anywhere; misuse.
#include "cases/dcnv2.h"
#include "cpu/misuse.h"
#include "cpu/operator.h"

namespace dyndeploy::test {
namespace {

struct Dcnv2Cpu : Dcnv2 {
  using Machine = Cpu;
  static constexpr auto packed_bytes = dyndeploy_dcnv2_cpu_packed_bytes;
  static constexpr auto pack = dyndeploy_dcnv2_cpu_pack;
  static constexpr auto forward_workspace = dyndeploy_dcnv2_cpu_forward_workspace;
  static constexpr auto forward = dyndeploy_dcnv2_cpu_forward;
  static constexpr auto backward_workspace = dyndeploy_dcnv2_cpu_backward_workspace;
  static constexpr auto backward = dyndeploy_dcnv2_cpu_backward;
};

void run_forward(Random& random) {
  const Offsets offsets = random.pick({Offsets::anywhere, Offsets::grid, Offsets::wild});
  Call<Dcnv2Cpu> call(random, some_case(random, 150000, offsets), some_dtype(random));
  const Note note("forward: ", call.text());
  check_forward(random, call);
}

void run_backward(Random& random) {
  // On the grid, since a gradient jumps where a coordinate is rounded across an integer.
  const Offsets offsets = random.pick({Offsets::grid, Offsets::wild});
  Call<Dcnv2Cpu> call(random, some_case(random, 40000, offsets), some_dtype(random));
  const Note note(call.text());
  check_backward(random, call);
}

// What is no number in a pixel, or in a mask, is in all results that sampled it, and in no others.
void run_special(Random& random) {
  const Dcnv2Case drawn = special_case(random, 40000);
  Call<Dcnv2Cpu> call(random, drawn, some_dtype(random));
  const Note note("special: ", call.text());
  check_forward(random, call);
}

void run_reference(Random& random) {
  const Note note("reference");
  check_reference<Dcnv2Cpu>(random, some_case(random, 3000, Offsets::between));
}

void run_concurrent(Random& random) {
  check_concurrent(random, Call<Dcnv2Cpu>(random, some_case(random, 150000, Offsets::grid), some_dtype(random)));
}

void run_huge(Random& random) {
  const WindowCase window = WindowCase::huge(random);
  const int64_t group = huge_number(random), c = huge_number(random);
  const dyndeploy_dcnv2 a = attributes_of(random, window, group, random.pick<int64_t>({1, c, group}));
  check_queries<Dcnv2Cpu>(a, extents_of(a, window, c, huge_number(random)));
}

// So large that the samples of X are not all copied at once.
void test_large_map() {
  Random random(3);
  WindowCase window;
  window.H = window.W = 256;
  window.strides[0] = window.strides[1] = 64;
  window.resolve();
  const Call<Dcnv2Cpu> call(random, case_of(random, window, 1, 1, 33, 5, Offsets::anywhere), DYNDEPLOY_BFLOAT16);
  const Note note("large map");
  check_forward(random, call);
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
  check_misuse<Dcnv2Cpu>(random, usual_case);
}

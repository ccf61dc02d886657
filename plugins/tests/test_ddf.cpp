// DDF and DDF-Up: forward and backward in all layouts, dtypes, instruction sets and lanes; constant filters; misuse.
#include "cases/ddf.h"
#include "cpu/misuse.h"
#include "cpu/operator.h"

namespace dyndeploy::test {
namespace {

struct DdfCpu : Ddf {
  using Machine = Cpu;
  static constexpr auto forward_workspace = dyndeploy_ddf_cpu_forward_workspace;
  static constexpr auto forward = dyndeploy_ddf_cpu_forward;
  static constexpr auto backward_workspace = dyndeploy_ddf_cpu_backward_workspace;
  static constexpr auto backward = dyndeploy_ddf_cpu_backward;
};

void run_forward(Random& random) {
  Call<DdfCpu> call(random, some_case(random, 100000), some_dtype(random));
  const Note note("forward: ", call.text());
  check_forward(random, call);
}

void run_backward(Random& random) {
  Call<DdfCpu> call(random, some_case(random, 50000), some_dtype(random));
  const Note note(call.text());
  check_backward(random, call);
}

// What is no number in a pixel is in all results whose window has it, and in no others.
void run_special(Random& random) {
  DdfCase drawn = some_case(random, 30000);
  spoil(random, drawn.inputs[0]);
  Call<DdfCpu> call(random, drawn, some_dtype(random));
  const Note note("special: ", call.text());
  check_forward(random, call);
}

void run_reference(Random& random) {
  const Note note("reference");
  DdfCase drawn = some_case(random, 3000);
  // Without constant filters, whose slope is taken to be another one.
  for (const size_t i : {1, 2}) drawn.inputs[i] = normal_values(random, drawn.inputs[i].extents());
  check_reference<DdfCpu>(random, drawn);
}

void run_concurrent(Random& random) {
  check_concurrent(random, Call<DdfCpu>(random, some_case(random, 150000), some_dtype(random)));
}

void run_huge(Random& random) {
  const WindowCase window = WindowCase::huge(random);
  const int64_t heads = huge_number(random);
  const dyndeploy_ddf a = attributes_of(random, window, heads, huge_number(random));
  check_queries<DdfCpu>(a, extents_of(a, window, product({heads, huge_number(random)})));
}

void test_constant_filters() {
  Random random(2);
  for (const float constant : kConstants) {
    Call<DdfCpu> call(random, constant_case(random, constant), DYNDEPLOY_FLOAT32);
    const Note note("constant filters of ", constant, ": ", call.text());
    const Reals zeros = DdfReference(call.attributes, call.values).forward();
    for (int64_t i = 0; i < zeros.count(); ++i) CHECK(zeros.flat(i).v == 0 && zeros.flat(i).e == 0);
    check_forward(random, call);
    check_backward(random, call);
  }
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
  test_constant_filters();
  Random random(1);
  check_misuse<DdfCpu>(random, usual_case);
}

// DRConv: forward and backward in all layouts, dtypes, instruction sets and lanes; equal and missing logits; misuse.
#include "cases/drconv.h"
#include "cpu/misuse.h"
#include "cpu/operator.h"

namespace dyndeploy::test {
namespace {

struct DrconvCpu : Drconv {
  using Machine = Cpu;
  static constexpr auto forward_workspace = dyndeploy_drconv_cpu_forward_workspace;
  static constexpr auto forward = dyndeploy_drconv_cpu_forward;
  static constexpr auto backward_workspace = dyndeploy_drconv_cpu_backward_workspace;
  static constexpr auto backward = dyndeploy_drconv_cpu_backward;
};

// With the soft choice, whose derivative is the gradient of the guide.
struct SoftDrconv : DrconvCpu {
  struct Reference : DrconvReference {
    using DrconvReference::DrconvReference;
    Reals forward() const { return soft_forward(); }
  };
};

void run_forward(Random& random) {
  Call<DrconvCpu> call(random, some_case(random, 150000), some_dtype(random));
  const Note note("forward: ", call.text());
  check_forward(random, call);
}

void run_backward(Random& random) {
  Call<DrconvCpu> call(random, some_case(random, 40000), some_dtype(random));
  const Note note(call.text());
  check_backward(random, call);
}

// What is no number in a pixel is in all results whose window has it, and in no others.
void run_special(Random& random) {
  DrconvCase drawn = some_case(random, 40000);
  spoil(random, drawn.inputs[0]);
  Call<DrconvCpu> call(random, drawn, some_dtype(random));
  const Note note("special: ", call.text());
  check_forward(random, call);
}

void run_reference(Random& random) {
  const Note note("reference");
  DrconvCase drawn = some_case(random, 3000);
  for (int64_t i = 0; i < drawn.inputs[2].count(); ++i) drawn.inputs[2].flat(i) = random.normal();
  check_reference<DrconvCpu>(random, drawn, {0, 1, 3});
  check_reference<SoftDrconv>(random, drawn, {2});
}

void run_concurrent(Random& random) {
  check_concurrent(random, Call<DrconvCpu>(random, some_case(random, 150000), some_dtype(random)));
}

void run_huge(Random& random) {
  const WindowCase window = WindowCase::huge(random);
  const dyndeploy_drconv a = attributes_of(random, window, huge_number(random));
  check_queries<DrconvCpu>(a, extents_of(a, window, huge_number(random), huge_number(random)));
}

}  // namespace
}  // namespace dyndeploy::test

int main(int argc, char** argv) {
  using namespace dyndeploy::test;
  fuzz(argc, argv, 200, run_forward);
  fuzz(argc, argv, 150, run_backward);
  fuzz(argc, argv, 50, run_special);
  fuzz(argc, argv, 20, run_reference);
  fuzz(argc, argv, 5, run_concurrent);
  fuzz(argc, argv, 3000, run_huge);
  Random random(1);
  check_misuse<DrconvCpu>(random, usual_case);
}

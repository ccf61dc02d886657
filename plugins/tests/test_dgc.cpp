// DGC: forward and backward in all layouts, dtypes, instruction sets and lanes; saliencies that tie, or are no numbers; misuse.
#include "cases/dgc.h"
#include "cpu/misuse.h"
#include "cpu/operator.h"

namespace dyndeploy::test {
namespace {

struct DgcCpu : Dgc {
  using Machine = Cpu;
  static constexpr auto packed_bytes = dyndeploy_dgc_cpu_packed_bytes;
  static constexpr auto pack = dyndeploy_dgc_cpu_pack;
  static constexpr auto forward_workspace = dyndeploy_dgc_cpu_forward_workspace;
  static constexpr auto forward = dyndeploy_dgc_cpu_forward;
  static constexpr auto backward_workspace = dyndeploy_dgc_cpu_backward_workspace;
  static constexpr auto backward = dyndeploy_dgc_cpu_backward;
};

void run_forward(Random& random) {
  Call<DgcCpu> call(random, some_case(random, 150000), some_dtype(random));
  const Note note("forward: ", call.text());
  check_forward(random, call);
}

void run_backward(Random& random) {
  Call<DgcCpu> call(random, finite(some_case(random, 50000)), some_dtype(random));
  const Note note("backward: ", call.text());
  check_backward(random, call);
}

// Without ties, a channel is kept before and after a small step.
void run_reference(Random& random) {
  const Note note("reference");
  DgcCase drawn = some_case(random, 3000);
  for (int64_t i = 0; i < drawn.inputs[1].count(); ++i) drawn.inputs[1].flat(i) = some_saliency(random, Saliency::signs);
  check_reference<DgcCpu>(random, drawn);
}

// What is no number in a pixel is in all results whose window has it and whose head reads its channel, and in no others.
void run_special(Random& random) {
  DgcCase drawn = some_case(random, 40000);
  spoil(random, drawn.inputs[0]);
  Call<DgcCpu> call(random, drawn, some_dtype(random));
  const Note note("special: ", call.text());
  check_forward(random, call);
}

void run_concurrent(Random& random) {
  check_concurrent(random, Call<DgcCpu>(random, some_case(random, 150000), some_dtype(random)));
}

void run_huge(Random& random) {
  const WindowCase window = WindowCase::huge(random);
  const int64_t C = huge_number(random);
  const dyndeploy_dgc a = attributes_of(random, window, huge_number(random), random.integer(-1, C));
  check_queries<DgcCpu>(a, extents_of(a, window, C, huge_number(random)));
}

}  // namespace
}  // namespace dyndeploy::test

int main(int argc, char** argv) {
  using namespace dyndeploy::test;
  fuzz(argc, argv, 200, run_forward);
  fuzz(argc, argv, 100, run_backward);
  fuzz(argc, argv, 50, run_special);
  fuzz(argc, argv, 20, run_reference);
  fuzz(argc, argv, 5, run_concurrent);
  fuzz(argc, argv, 3000, run_huge);
  Random random(1);
  check_misuse<DgcCpu>(random, usual_case);
}

// DRConv with mixed filters: forward in all layouts, dtypes, instruction sets and lanes; filters that do not fit at once; misuse.
#include "cases/drconv_mix.h"
#include "cpu/misuse.h"
#include "cpu/operator.h"

namespace dyndeploy::test {
namespace {

struct DrconvMixCpu : DrconvMix {
  using Machine = Cpu;
  static constexpr auto forward_workspace = dyndeploy_drconv_cpu_forward_mix_workspace;
  static constexpr auto forward = dyndeploy_drconv_cpu_forward_mix;
};

void run_forward(Random& random) {
  Call<DrconvMixCpu> call(random, some_mix_case(random, 150000), some_dtype(random));
  const Note note("forward: ", call.text());
  check_forward(random, call);
}

void run_special(Random& random) {
  DrconvCase drawn = some_mix_case(random, 40000);
  spoil_with_nan(random, drawn.inputs[0]);
  Call<DrconvMixCpu> call(random, drawn, some_dtype(random));
  const Note note("special: ", call.text());
  check_forward(random, call);
}

void run_concurrent(Random& random) {
  check_concurrent(random, Call<DrconvMixCpu>(random, some_mix_case(random, 150000), some_dtype(random)));
}

// More filters than are mixed at once, on a map of few pixels.
void run_blocks() {
  for (const int32_t dtype : {DYNDEPLOY_FLOAT32, DYNDEPLOY_FLOAT16}) {
    Random random(static_cast<uint64_t>(dtype));
    WindowCase window;
    window.N = 2;
    window.H = 1;
    window.W = 3;
    window.kernel[0] = 3;
    window.kernel[1] = 1;
    std::copy_n(std::begin({1, 0, 1, 0}), 4, window.pads);
    window.resolve();
    Call<DrconvMixCpu> call(random, mix_case_of(random, window, 32, 600, 33, 2, Guide::noise), dtype);
    const Note note("blocks: ", call.text());
    check_forward(random, call);
  }
}

void run_huge(Random& random) {
  const WindowCase window = WindowCase::huge(random);
  const dyndeploy_drconv a = attributes_of(random, window, huge_number(random));
  check_queries<DrconvMixCpu>(a, extents_of_mix(a, window, huge_number(random), huge_number(random), huge_number(random)));
}

}  // namespace
}  // namespace dyndeploy::test

int main(int argc, char** argv) {
  using namespace dyndeploy::test;
  fuzz(argc, argv, 150, run_forward);
  fuzz(argc, argv, 30, run_special);
  fuzz(argc, argv, 5, run_concurrent);
  run_blocks();
  fuzz(argc, argv, 3000, run_huge);
  Random random(1);
  check_misuse<DrconvMixCpu>(random, usual_mix_case);
}

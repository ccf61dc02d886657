// What the CPU kernels have to refuse besides what all have: threads, and weights packed for another call.
#pragma once

#include "cpu/operator.h"
#include "tests/misuse.h"

namespace dyndeploy::test {

template <class Op>
class CpuMisuse : public Misuse<Op> {
 public:
  using Base = Misuse<Op>;

  CpuMisuse(Random& random, Call<Op>& call, const dyndeploy_threads* threads)
      : Base(random, call, resources_of(threads)), threads_(*threads) {}

  void run() {
    Base::run();
    for (const uint64_t size : {uint64_t{0}, uint64_t{sizeof(dyndeploy_threads)} + 8})
      refuse_threads("size of threads", [&](dyndeploy_threads& t) { t.size = size; });
    for (const int32_t lanes : {0, -1, INT32_MIN})
      refuse_threads("no lanes", [&](dyndeploy_threads& t) { t.lanes = lanes; });
    refuse_threads("no run", [&](dyndeploy_threads& t) { t.run = nullptr; });
    if constexpr (Packs<Op>) packed();
  }

 private:
  template <class Spoil>
  void refuse_threads(const std::string& what, Spoil spoil) {
    dyndeploy_threads threads = threads_;
    spoil(threads);
    Base::refuse(what, [&](Given<Op>& g) { g.resources.threads = &threads; }, {"threads"});
  }

  void packed() {
    const dyndeploy_tensor& W = Base::given_.tensors[2];
    const typename Op::Attributes& a = Base::given_.attributes;
    uint64_t needed = 0, bytes = 0;
    CHECK_OK(Op::packed_bytes(&a, &W, &needed));
    const Bytes good(needed, 0, 0xff);
    CHECK_OK(Op::pack(&a, &W, good.data(), needed));
    Base::refuse_packed("unaligned", good.data() + 1, needed);
    for (const int rubbish : {0x00, 0xff, 0x41}) Base::refuse_packed("rubbish", Bytes(needed, 0, rubbish).data(), needed);
    // Of a W with other extents: two swapped, or one smaller.
    for (int one = 0; one < 4; ++one)
      for (int other = 0; other <= one; ++other) {
        dyndeploy_tensor changed = W;
        if (one == other) --changed.extents[one];
        std::swap(changed.extents[one], changed.extents[other]);
        std::swap(changed.strides[one], changed.strides[other]);
        const bool same = std::equal(changed.extents, changed.extents + 4, W.extents);
        if (same || Op::packed_bytes(&a, &changed, &bytes) != DYNDEPLOY_OK) continue;
        const Bytes foreign(std::max(bytes, needed), 0, 0xff);
        CHECK_OK(Op::pack(&a, &changed, foreign.data(), bytes));
        Base::refuse_packed("of other extents", foreign.data(), foreign.count());
      }
    // For another instruction set.
    const std::string isa = dyndeploy_instructions();
    for (const char* another : {"portable", "avx2", "avx512"})
      if (another != isa && dyndeploy_use_instructions(another) == DYNDEPLOY_OK) {
        CHECK_OK(Op::packed_bytes(&a, &W, &bytes));
        const Bytes foreign(std::max(bytes, needed), 0, 0xff);
        CHECK_OK(Op::pack(&a, &W, foreign.data(), bytes));
        CHECK_OK(dyndeploy_use_instructions(isa.c_str()));
        Base::refuse_packed(std::string("for ") + another, foreign.data(), foreign.count());
      }
  }

  dyndeploy_threads threads_;
};

template <class Op>
void check_misuse(Random& random, Case<typename Op::Attributes> (*usual)(Random&)) {
  for (const int32_t dtype : kDtypes) {
    Call<Op> call(random, usual(random), dtype);
    const Note note(call.text());
    for_each_isa([&] {
      dyndeploy_threads threads;
      CHECK_OK(dyndeploy_own_threads(2, &threads));
      CpuMisuse<Op>(random, call, &threads).run();
      if constexpr (Learns<Op>) refuse_backward(random, call, resources_of(nullptr));
    });
  }
}

}  // namespace dyndeploy::test

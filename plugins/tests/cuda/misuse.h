// What the CUDA kernels have to refuse besides what all have. It is refused on the host, before anything is launched.
#pragma once

#include "cuda/operator.h"
#include "tests/misuse.h"

namespace dyndeploy::test {

template <class Op>
class CudaMisuse : public Misuse<Op> {
 public:
  using Base = Misuse<Op>;

  CudaMisuse(Random& random, Call<Op>& call) : Base(random, call, cuda_resources(0)) {}

  void run() {
    Base::run();
    if constexpr (Packs<Op>) packed();
  }

 private:
  // What is in the packed weights the host does not see; how many bytes there are it does.
  void packed() {
    uint64_t needed = 0;
    CHECK_OK(Op::packed_bytes(&Base::given_.attributes, &Base::given_.tensors[2], &needed));
    const DeviceBytes memory(needed + 64, 0, 0xff);
    Base::refuse_packed("one byte more", memory.data(), needed + 1);
    Base::refuse_packed("64 bytes more", memory.data(), needed + 64);
  }
};

template <class Op>
void check_misuse(Random& random, Case<typename Op::Attributes> (*usual)(Random&)) {
  for (const int32_t dtype : kDtypes) {
    Call<Op> call(random, usual(random), dtype);
    const Note note(call.text());
    CudaMisuse<Op>(random, call).run();
    if constexpr (Learns<Op>) refuse_backward(random, call, cuda_resources(0));
  }
}

}  // namespace dyndeploy::test

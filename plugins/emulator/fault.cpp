// A kernel that touches memory which is not there: a wild pointer, or the page below its stack.
#include <csignal>
#include <cstdint>
#include <cstdlib>

#include "emulator/machine.h"

namespace dyndeploy::emulator {

// AddressSanitizer has a handler of its own, whose reports say more.
#ifdef DYNDEPLOY_EMULATOR_ASAN
void report_faults() {}
#else
namespace {

struct sigaction before;

const void* instruction([[maybe_unused]] const void* context) {
#if defined(__x86_64__)
  return reinterpret_cast<const void*>(static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
  return reinterpret_cast<const void*>(static_cast<const ucontext_t*>(context)->uc_mcontext.pc);
#else
  return nullptr;
#endif
}

void report(int, siginfo_t* info, void* context) {
  if (!machine || !machine->current) {
    // Not a kernel's: the instruction is run again, with the handler that was there before.
    sigaction(SIGSEGV, &before, nullptr);
    return;
  }
  const Fiber& me = *machine->current;
  const auto at = reinterpret_cast<uintptr_t>(info->si_addr), low = reinterpret_cast<uintptr_t>(me.stack.low);
  const auto code = reinterpret_cast<uintptr_t>(instruction(context));
  const void* const after = code ? reinterpret_cast<const void*>(code + 1) : nullptr;
  if (at < low && low - at <= 4096) error_at(after, "the thread's %zu bytes of stack overflow", Stack::kBytes);
  error_at(after, "segmentation fault: address %p", info->si_addr);
}

// Of one thread of the operating system: a fiber whose stack has overflown cannot run the handler on it.
class OwnStack {
 public:
  OwnStack() {
    stack_t now{};
    if (sigaltstack(nullptr, &now) == 0 && !(now.ss_flags & SS_DISABLE)) return;
    memory_ = std::malloc(kBytes);
    const stack_t own{memory_, 0, kBytes};
    sigaltstack(&own, nullptr);
  }
  ~OwnStack() {
    if (!memory_) return;
    stack_t none{};
    none.ss_flags = SS_DISABLE;
    sigaltstack(&none, nullptr);
    std::free(memory_);
  }

 private:
  static constexpr size_t kBytes = 64 * 1024;
  void* memory_ = nullptr;
};

}  // namespace

void report_faults() {
  thread_local OwnStack stack;
  (void)stack;
  static const bool is_set = [] {
    struct sigaction own{};
    own.sa_sigaction = report;
    own.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &own, &before);
    return true;
  }();
  (void)is_set;
}
#endif

}  // namespace dyndeploy::emulator

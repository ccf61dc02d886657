// Switching between stacks: a few nanoseconds, where swapcontext would ask the kernel for the signal mask each time.
#pragma once

#include <cstddef>

// Defined by hand to try the way of other processors here.
#if !defined(__x86_64__) && !defined(DYNDEPLOY_EMULATOR_UCONTEXT)
#define DYNDEPLOY_EMULATOR_UCONTEXT 1
#endif
#ifdef DYNDEPLOY_EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define DYNDEPLOY_EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define DYNDEPLOY_EMULATOR_ASAN 1
#endif
#endif
#ifdef DYNDEPLOY_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace dyndeploy::emulator {

// Memory for a fiber's calls, with a page below it that cannot be touched: an overflow ends the program.
struct Stack {
  static constexpr size_t kBytes = 256 * 1024;
  unsigned char* low = nullptr;
};
bool allocate(Stack& stack);
void release(Stack& stack);

// Where something stands that does not run: a fiber, or the thread that runs the fibers.
struct Context {
#ifdef DYNDEPLOY_EMULATOR_UCONTEXT
  ucontext_t registers;
#else
  void* stack_pointer = nullptr;
#endif
  // For AddressSanitizer, which has to know whose stack is in use.
  const void* low = nullptr;
  size_t bytes = 0;
  void* fake_stack = nullptr;
};

// `fiber` will call `entry`, which never returns. `color` moves the beginning a little, so that the first frames of
// many fibers do not all fall into the same lines of the cache.
void prepare(Context& fiber, const Stack& stack, unsigned color, void (*entry)());

// Leaves off in `from` and goes on in `to`. `ended`: `from` will not be gone on with.
void switch_to(Context& from, Context& to, bool ended);

// The first thing that `entry` does: the context that was left is `from`.
void arrived_from(Context& from);

}  // namespace dyndeploy::emulator

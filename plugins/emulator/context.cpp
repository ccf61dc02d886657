#include "emulator/context.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#ifndef DYNDEPLOY_EMULATOR_UCONTEXT
// void dyndeploy_emulator_switch(void** from, void* to): what the ABI lets a called function keep is kept on the stack.
extern "C" __attribute__((visibility("hidden"))) void dyndeploy_emulator_switch(void** from, void* to);
asm(R"(
.pushsection .text
.globl dyndeploy_emulator_switch
.hidden dyndeploy_emulator_switch
.type dyndeploy_emulator_switch, @function
dyndeploy_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx
.size dyndeploy_emulator_switch, . - dyndeploy_emulator_switch
.popsection
)");
#endif

namespace dyndeploy::emulator {
namespace {

size_t page() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

}  // namespace

bool allocate(Stack& stack) {
  void* memory =
      mmap(nullptr, Stack::kBytes + page(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  if (mprotect(memory, page(), PROT_NONE) != 0) return false;
  stack.low = static_cast<unsigned char*>(memory) + page();
  return true;
}

void release(Stack& stack) {
#ifdef DYNDEPLOY_EMULATOR_ASAN
  // Who gets the memory next must not find the traces of frames.
  if (stack.low) __asan_unpoison_memory_region(stack.low, Stack::kBytes);
#endif
  if (stack.low) munmap(stack.low - page(), Stack::kBytes + page());
  stack.low = nullptr;
}

void prepare(Context& fiber, const Stack& stack, unsigned color, void (*entry)()) {
  const size_t used = (color * 320u) % 4096;
  fiber.low = stack.low;
  fiber.bytes = Stack::kBytes;
  fiber.fake_stack = nullptr;
#ifdef DYNDEPLOY_EMULATOR_UCONTEXT
  getcontext(&fiber.registers);
  fiber.registers.uc_stack.ss_sp = stack.low;
  fiber.registers.uc_stack.ss_size = Stack::kBytes - used;
  fiber.registers.uc_link = nullptr;
  makecontext(&fiber.registers, entry, 0);
#else
  void** top = reinterpret_cast<void**>(stack.low + Stack::kBytes - used);
  *--top = nullptr;  // whom `entry` would return to; its stack is aligned as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.stack_pointer = top;
#endif
}

void arrived_from([[maybe_unused]] Context& from) {
#ifdef DYNDEPLOY_EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &from.low, &from.bytes);
#endif
}

__attribute__((no_sanitize_address)) void switch_to(Context& from, Context& to, [[maybe_unused]] bool ended) {
#ifdef DYNDEPLOY_EMULATOR_ASAN
  // The calls that end a fiber do not return: what they marked on its stack is not for the next fiber there to find.
  if (ended) __asan_handle_no_return();
  __sanitizer_start_switch_fiber(ended ? nullptr : &from.fake_stack, to.low, to.bytes);
#endif
#ifdef DYNDEPLOY_EMULATOR_UCONTEXT
  swapcontext(&from.registers, &to.registers);
#else
  dyndeploy_emulator_switch(&from.stack_pointer, to.stack_pointer);
#endif
#ifdef DYNDEPLOY_EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

}  // namespace dyndeploy::emulator

// The functions that code compiled with -fsanitize=thread calls: in place of ThreadSanitizer's, the checker's.
#include <cstdint>
#include <cstring>

#include "emulator/checker.h"

using dyndeploy::emulator::kernel_reads;
using dyndeploy::emulator::kernel_writes;

#define CALLER __builtin_return_address(0)

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_ignore_thread_begin() {}
void __tsan_ignore_thread_end() {}

#define HOOKS(bytes)                                                                             \
  void __tsan_read##bytes(void* p) { kernel_reads(p, bytes, true, CALLER); }                     \
  void __tsan_write##bytes(void* p) { kernel_writes(p, bytes, true, CALLER); }                   \
  void __tsan_unaligned_read##bytes(void* p) { kernel_reads(p, bytes, false, CALLER); }          \
  void __tsan_unaligned_write##bytes(void* p) { kernel_writes(p, bytes, false, CALLER); }        \
  void __tsan_volatile_read##bytes(void* p) { kernel_reads(p, bytes, true, CALLER); }            \
  void __tsan_volatile_write##bytes(void* p) { kernel_writes(p, bytes, true, CALLER); }          \
  void __tsan_unaligned_volatile_read##bytes(void* p) { kernel_reads(p, bytes, false, CALLER); } \
  void __tsan_unaligned_volatile_write##bytes(void* p) { kernel_writes(p, bytes, false, CALLER); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

void __tsan_read_range(void* p, size_t bytes) { kernel_reads(p, bytes, false, CALLER); }
void __tsan_write_range(void* p, size_t bytes) { kernel_writes(p, bytes, false, CALLER); }
void __tsan_vptr_read(void** p) { kernel_reads(p, sizeof *p, true, CALLER); }
void __tsan_vptr_update(void** p, void*) { kernel_writes(p, sizeof *p, true, CALLER); }

// clang's, in the place of the functions of the C library.
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  kernel_reads(from, bytes, false, CALLER);
  kernel_writes(to, bytes, false, CALLER);
  return std::memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  kernel_reads(from, bytes, false, CALLER);
  kernel_writes(to, bytes, false, CALLER);
  return std::memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  kernel_writes(to, bytes, false, CALLER);
  return std::memset(to, value, bytes);
}

// Atomics of the language: only host code has them (guards of static variables), kernels have atomicAdd and its like.
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

#define FETCH(bits, name)                                                                                \
  uint##bits##_t __tsan_atomic##bits##_fetch_##name(volatile uint##bits##_t* p, uint##bits##_t v, int) { \
    return __atomic_fetch_##name(p, v, __ATOMIC_SEQ_CST);                                                \
  }
#define ATOMICS(bits)                                                                                     \
  uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t* p, int) {                      \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                          \
  }                                                                                                       \
  void __tsan_atomic##bits##_store(volatile uint##bits##_t* p, uint##bits##_t v, int) {                   \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                                             \
  }                                                                                                       \
  uint##bits##_t __tsan_atomic##bits##_exchange(volatile uint##bits##_t* p, uint##bits##_t v, int) {      \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                       \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile uint##bits##_t* p, uint##bits##_t* expected, \
                                                    uint##bits##_t v, int, int) {                         \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);        \
  }                                                                                                       \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile uint##bits##_t* p, uint##bits##_t* expected,   \
                                                  uint##bits##_t v, int, int) {                           \
    return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);        \
  }                                                                                                       \
  FETCH(bits, add)                                                                                        \
  FETCH(bits, sub)                                                                                        \
  FETCH(bits, and)                                                                                        \
  FETCH(bits, or)                                                                                         \
  FETCH(bits, xor)
ATOMICS(8)
ATOMICS(16)
ATOMICS(32)
ATOMICS(64)

}  // extern "C"

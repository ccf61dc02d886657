// What happens to memory behind or between a thread's own loads and stores: asynchronous copies and atomics.
#include <cstring>

#include "emulator/machine.h"

namespace dyndeploy::emulator {
namespace {

constexpr size_t kCopied = 16;

bool is_shared(const Machine& m, const void* address, size_t bytes) {
  const size_t offset = reinterpret_cast<uintptr_t>(address) - reinterpret_cast<uintptr_t>(m.shared);
  return offset < m.grid.shared_bytes && bytes <= m.grid.shared_bytes - offset;
}

bool aligned(const void* address, size_t bytes) { return reinterpret_cast<uintptr_t>(address) % bytes == 0; }

template <class T>
T update(Atomic what, T* address, T value, const void* caller) {
  Machine& m = running("an atomic");
  if (!aligned(address, sizeof(T))) error_at(caller, "an atomic at a misaligned address");
  if (observer) observer->atomic(address, sizeof(T), m.current->thread, caller);
  const T before = *address;
  *address = what == Atomic::max   ? (value > before ? value : before)
             : what == Atomic::min ? (value < before ? value : before)
                                   : static_cast<T>(before + value);
  return before;
}

}  // namespace

__attribute__((noinline)) void load_read_only(void* to, const void* from, size_t bytes) {
  const void* const caller = __builtin_return_address(0);
  Machine& m = running("a load through the read-only path");
  if (!aligned(from, bytes)) error_at(caller, "misaligned address: a load of %zu bytes from %p", bytes, from);
  if (is_shared(m, from, 1)) error_at(caller, "a load through the read-only path from shared memory");
  if (observer) observer->read_only(from, bytes, m.current->thread, caller);
  std::memcpy(to, from, bytes);
}

__attribute__((noinline)) void store(void* to, const void* from, size_t bytes) {
  const void* const caller = __builtin_return_address(0);
  Machine& m = running("a store");
  if (!aligned(to, bytes)) error_at(caller, "misaligned address: a store of %zu bytes to %p", bytes, to);
  if (observer) observer->write(to, bytes, m.current->thread, caller);
  std::memcpy(to, from, bytes);
}

__attribute__((noinline)) void copy_async_sixteen(void* shared, const void* global, bool there, Where where) {
  Machine& m = running("copy_async_sixteen");
  if (!is_shared(m, shared, kCopied))
    error(where, "copy_async_sixteen to an address that is not in the block's shared memory: offset %td of %zu bytes",
          static_cast<unsigned char*>(shared) - m.shared, m.grid.shared_bytes);
  if (!aligned(shared, kCopied))
    error(where, "copy_async_sixteen to a misaligned address: shared memory + %td",
          static_cast<unsigned char*>(shared) - m.shared);
  if (there && !aligned(global, kCopied)) error(where, "copy_async_sixteen from a misaligned address: %p", global);
  if (there && is_shared(m, global, 1)) error(where, "copy_async_sixteen from shared memory");
  const void* const caller = __builtin_return_address(0);
  if (observer) observer->copy_issued(shared, there ? global : nullptr, m.current->thread, caller);
  Copy copy{static_cast<unsigned char*>(shared), {}, where, caller};
  if (there) std::memcpy(copy.bytes, global, kCopied);
  std::memset(shared, 0xff, kCopied);
  m.current->copies.push_back(copy);
  ++m.current->uncommitted;
}

void copy_async_commit() {
  Fiber& me = *running("copy_async_commit").current;
  me.groups.push_back({me.uncommitted});
  me.uncommitted = 0;
}

void copy_async_wait(int most_under_way) {
  Fiber& me = *running("copy_async_wait").current;
  size_t arrived = 0, groups = 0;
  while (me.groups.size() - groups > static_cast<size_t>(most_under_way)) arrived += me.groups[groups++].copies;
  for (size_t i = 0; i < arrived; ++i) {
    const Copy& copy = me.copies[i];
    std::memcpy(copy.to, copy.bytes, kCopied);
    if (observer) observer->copy_arrived(copy.to, me.thread, copy.caller);
  }
  me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<std::ptrdiff_t>(arrived));
  me.groups.erase(me.groups.begin(), me.groups.begin() + static_cast<std::ptrdiff_t>(groups));
}

__attribute__((noinline)) int atomic(Atomic what, int* address, int value) {
  const void* const caller = __builtin_return_address(0);
  if (what != Atomic::add) return update(what, address, value, caller);
  // The sum of two ints wraps around.
  return static_cast<int>(update(what, reinterpret_cast<unsigned*>(address), static_cast<unsigned>(value), caller));
}
__attribute__((noinline)) unsigned atomic(Atomic what, unsigned* address, unsigned value) {
  return update(what, address, value, __builtin_return_address(0));
}
__attribute__((noinline)) float atomic(Atomic what, float* address, float value) {
  return update(what, address, value, __builtin_return_address(0));
}

}  // namespace dyndeploy::emulator

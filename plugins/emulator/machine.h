// The emulated processor: one block at a time, its threads as fibers of one thread of the operating system.
#pragma once

#include <bit>
#include <cstdint>
#include <memory>
#include <vector>

#include "emulator/context.h"
#include "emulator/cuda.h"
#include "emulator/emulator.h"

namespace dyndeploy::emulator {

inline constexpr int kLanes = 32;
inline constexpr int kMostThreads = 1024;
inline constexpr size_t kSharedGuard = 4096;
inline constexpr int kMostWarps = kMostThreads / kLanes;

struct Machine;

// What the lanes of a warp do together once all that `mask` names have come. The last one does it for all.
struct Arrival {
  const char* name = nullptr;  // of the built-in function
  unsigned mask = 0;
  Where where{};
  void* operands = nullptr;  // of this lane
  void (*perform)(Machine& machine, unsigned warp, unsigned mask) = nullptr;
};

// Sixteen bytes on their way to shared memory. It and Group are types of the emulator's own, so that no kernel's code
// can bring the same std::vector, compiled for the checker.
struct Copy {
  unsigned char* to;
  unsigned char bytes[16];
  Where where;
  const void* caller;
};

struct Group {
  size_t copies;
};

struct Fiber {
  Context context;
  Stack stack;
  unsigned thread = 0;
  Arrival arrival;            // where it waits, or waited last, in its warp; its `where` also for the block's barrier
  std::vector<Copy> copies;   // in the order of their issue
  std::vector<Group> groups;  // those committed
  size_t uncommitted = 0;     // copies in no group yet

  unsigned warp() const { return thread / kLanes; }
  unsigned lane() const { return thread % kLanes; }
};

// Lanes as bits. A lane is ready, waits for its warp, waits for its block, or has exited.
struct Warp {
  unsigned exist = 0, ready = 0, waiting = 0, at_barrier = 0, exited = 0;
  // Some that wait, all in the same place, so that most arrivals are compared with one of them only.
  unsigned alike = 0;
};

struct Grid {
  const char* name;
  uint3 blocks;
  unsigned threads;
  size_t shared_bytes;
  void (*run)(const void* call);
  const void* call;
  size_t call_bytes;
};

struct Machine {
  Grid grid{};
  uint3 block{};
  unsigned char* shared = nullptr;  // exactly as many bytes as the launch asked for; kSharedGuard around, if checked
  Fiber* current = nullptr;         // null: no kernel runs
  Context host;
  bool from_host = false;  // the fiber that is being switched to is the first of its block
  std::vector<std::unique_ptr<Fiber>> fibers;
  Warp warps[kMostWarps];
  unsigned ready_warps = 0;  // bits
  unsigned waiting_at_barrier = 0, exited = 0;
  Schedule schedule;
  uint64_t random = 0;
  Counts counts{};

  ~Machine();
  void run_grid();

  // Called by a fiber.
  void collective(const Arrival& arrival);
  void barrier(Where where);
  [[noreturn]] void exit_thread();

 private:
  void run_block();
  Fiber* pick();
  void go_on(bool ended);
  void set_ready(unsigned warp, unsigned lanes);
  void unset_ready(unsigned warp, unsigned lanes);
  const Fiber* first_at_barrier() const;
  void check_not_awaited(const char* instead, Where where);
  [[noreturn]] void stuck();
  uint64_t draw();
};

// Of this thread of the operating system; null before its first launch.
extern __thread Machine* machine;

// The machine while a kernel runs; ends the program when `name` is called outside of one.
Machine& running(const char* name);

template <class Operands>
Operands& operands_of(Machine& machine, unsigned warp, unsigned lane) {
  return *static_cast<Operands*>(machine.fibers[warp * kLanes + lane]->arrival.operands);
}

// Calls f(lane) for every bit of a mask.
template <class F>
void for_lanes(unsigned mask, F f) {
  for (; mask; mask &= mask - 1) f(static_cast<unsigned>(std::countr_zero(mask)));
}

// --- errors: what happened, kernel, block, thread and where it is; then the program ends with kErrorExit

[[noreturn]] void error(Where where, const char* format, ...) __attribute__((format(printf, 2, 3), cold));
// The same at an address in the kernel's code.
[[noreturn]] void error_at(const void* caller, const char* format, ...) __attribute__((format(printf, 2, 3), cold));
// From now on the same for faults of kernels on the calling thread.
void report_faults();
// The first lines of a report, and its end.
void print_kernel();
void print_thread(const char* label, uint3 block, unsigned thread);
[[noreturn]] void end_program();

// --- the checker, which sees every access where kernels are compiled for it (checker.cpp); null elsewhere

struct Observer {
  virtual void grid_begins() = 0;
  virtual void grid_ended() = 0;
  virtual void block_begins() = 0;
  virtual void block_synchronised() = 0;
  virtual void warp_synchronised(unsigned warp, unsigned lanes) = 0;
  // `thread` of the current block; `caller` is an address in the kernel's code.
  virtual void read(const void* from, size_t bytes, unsigned thread, const void* caller) = 0;
  virtual void read_only(const void* from, size_t bytes, unsigned thread, const void* caller) = 0;
  virtual void write(void* to, size_t bytes, unsigned thread, const void* caller) = 0;
  virtual void atomic(void* address, size_t bytes, unsigned thread, const void* caller) = 0;
  virtual void copy_issued(void* to, const void* from, unsigned thread, const void* caller) = 0;
  virtual void copy_arrived(void* to, unsigned thread, const void* caller) = 0;
  virtual void buffer(const void* data, size_t bytes, const char* name, Access access, Contents contents) = 0;
  virtual void forget(const void* data) = 0;
  virtual uint64_t accesses() = 0;

 protected:
  ~Observer() = default;
};
extern Observer* observer;

}  // namespace dyndeploy::emulator

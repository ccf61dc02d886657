// What a program that runs kernels under the emulator can set and ask. README.md has the whole picture.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/api.h"

namespace dyndeploy::emulator {

// In which order the threads of a block that could go on do so, and the blocks of a grid one after the other. A kernel
// that is right gives the same bits under all of them.
enum class Order {
  forward,   // by index; a warp until it has to wait for another one
  backward,  // the same from the highest index down
  random,    // at every wait any thread that is ready
};
struct Schedule {
  Order order = Order::forward;
  uint64_t seed = 0;
};

// Of the calling thread's launches from now on. Before the first call the environment decides:
// DYNDEPLOY_EMULATOR_SCHEDULE=forward, backward, random or random:SEED.
DYNDEPLOY_API void set_schedule(Schedule schedule);

// Whether kernels of this library are compiled for the checker, so that every access to memory is looked at.
DYNDEPLOY_API bool checked();

// Exit status of a program whose kernel did what it must not.
inline constexpr int kErrorExit = 86;

// `print` is called with the report of what a kernel must not do, the emulator's or a sanitizer's: to say what was
// being done.
DYNDEPLOY_API void on_error(void (*print)());

enum class Access { read_only, read_write };
enum class Contents { initialised, uninitialised };

// Memory that kernels may use, as the checker sees it. While there is at least one Buffer, kernels may touch nothing
// else but their own variables, shared memory and constants.
class DYNDEPLOY_API Buffer {
 public:
  Buffer(const void* data, size_t bytes, const char* name, Access access, Contents contents);
  ~Buffer();
  Buffer(const Buffer&) = delete;

 private:
  const void* data_;
};

// Of the calling thread, since it began.
struct Counts {
  uint64_t launches, blocks, switches, accesses;
};
DYNDEPLOY_API Counts counts();

}  // namespace dyndeploy::emulator

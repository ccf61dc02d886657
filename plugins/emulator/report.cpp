#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "emulator/machine.h"
#include "emulator/source.h"

// Of AddressSanitizer's runtime, where there is one: what to do before they end the program.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace dyndeploy::emulator {
namespace {

void (*print_more)() = nullptr;

}  // namespace

void on_error(void (*print)()) { print_more = print; }

void print_kernel() {
  if (!machine || !machine->grid.name) return;
  const Grid& grid = machine->grid;
  std::fprintf(stderr, "  kernel %s <<<(%u, %u, %u), %u, %zu>>>\n", grid.name, grid.blocks.x, grid.blocks.y,
               grid.blocks.z, grid.threads, grid.shared_bytes);
}

void print_thread(const char* label, uint3 block, unsigned thread) {
  std::fprintf(stderr, "  %s block (%u, %u, %u), thread %u (warp %u, lane %u)\n", label, block.x, block.y, block.z,
               thread, thread / kLanes, thread % kLanes);
}

void end_program() {
  if (print_more) print_more();
  std::fflush(nullptr);
  std::_Exit(kErrorExit);
}

namespace {

void print_error(const char* format, va_list arguments) {
  std::fflush(stdout);
  std::fprintf(stderr, "emulator: ");
  std::vfprintf(stderr, format, arguments);
  std::fprintf(stderr, "\n");
  if (!machine || !machine->current) return;
  print_kernel();
  print_thread("in", machine->block, machine->current->thread);
}

}  // namespace

void error(Where where, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print_error(format, arguments);
  if (where.file) std::fprintf(stderr, "    at %s:%d\n", where.file, where.line);
  end_program();
}

void error_at(const void* caller, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print_error(format, arguments);
  print_source(caller);
  end_program();
}

namespace {

// A sanitizer's report names the line, but neither kernel nor thread.
void print_context() {
  if (!machine || !machine->current) return;
  std::fprintf(stderr, "emulator: the sanitizer's report is about\n");
  print_kernel();
  print_thread("in", machine->block, machine->current->thread);
  if (print_more) print_more();
}

const bool callback_is_set = [] {
  if (__sanitizer_set_death_callback) __sanitizer_set_death_callback(print_context);
  return true;
}();

}  // namespace
}  // namespace dyndeploy::emulator

// UBSan's library has a runtime of its own, in which this function is there to be replaced.
extern "C" __attribute__((visibility("default"))) void __ubsan_on_report() { dyndeploy::emulator::print_context(); }

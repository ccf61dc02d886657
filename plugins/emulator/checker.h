// What the hooks in a kernel's code report to the checker.
#pragma once

#include <cstddef>

namespace dyndeploy::emulator {

// `is_aligned`: the code takes the address for a multiple of the size. `caller` is an address in the kernel's code.
void kernel_reads(const void* address, size_t bytes, bool is_aligned, const void* caller);
void kernel_writes(const void* address, size_t bytes, bool is_aligned, const void* caller);

}  // namespace dyndeploy::emulator

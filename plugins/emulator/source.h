// From an address in a kernel's code to its source.
#pragma once

namespace dyndeploy::emulator {

// Prints file and line of the call that returns to `caller`, and the calls it was inlined from: addr2line's answer, or
// file and offset where there is no addr2line.
void print_source(const void* caller);

}  // namespace dyndeploy::emulator

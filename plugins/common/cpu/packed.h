// Checks of weights that were laid out for an instruction set.
#pragma once

#include "common/status.h"

namespace dyndeploy {

// Memory to pack into.
inline dyndeploy_status check_room(const char* op, const void* packed, uint64_t bytes, uint64_t needed) {
  if (!packed || reinterpret_cast<uintptr_t>(packed) % alignof(uint64_t) || bytes < needed)
    return bad_argument("%s: packed weights need %llu bytes, aligned to 8; given are %llu at %p", op,
                        static_cast<unsigned long long>(needed), static_cast<unsigned long long>(bytes), packed);
  return DYNDEPLOY_OK;
}

// What a call is given, if anything. `is_packed(packed, bytes)`: it is of this call's weights; `depends`: what it
// depends on besides the instruction set.
template <class IsPacked>
dyndeploy_status check_packed(const char* op, const dyndeploy_resources& resources, const char* depends,
                              IsPacked is_packed) {
  if (!resources.packed) return DYNDEPLOY_OK;
  if (reinterpret_cast<uintptr_t>(resources.packed) % alignof(uint64_t))
    return bad_argument("%s: the packed weights are not aligned to 8 bytes", op);
  if (!is_packed(resources.packed, resources.packed_bytes))
    return bad_argument("%s: the packed weights are not those of this %s and instruction set (%s)", op, depends,
                        dyndeploy_instructions());
  return DYNDEPLOY_OK;
}

}  // namespace dyndeploy

#include "common/cpu/isa.h"

#include <atomic>
#include <cstring>

#include "common/status.h"

namespace dyndeploy {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512"};

bool has(Isa isa) {
#if defined(__x86_64__)
  // cpu_supports asks the operating system too: registers that it does not save must not be used.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (isa == Isa::avx2) return avx2;
  if (isa == Isa::avx512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return isa == Isa::portable;
}

Isa best() { return has(Isa::avx512) ? Isa::avx512 : has(Isa::avx2) ? Isa::avx2 : Isa::portable; }

std::atomic<Isa>& current() {
  static std::atomic<Isa> isa{best()};
  return isa;
}

}  // namespace

Isa isa() { return current().load(std::memory_order_relaxed); }

}  // namespace dyndeploy

const char* dyndeploy_instructions(void) { return dyndeploy::kNames[static_cast<int>(dyndeploy::isa())]; }

dyndeploy_status dyndeploy_use_instructions(const char* name) {
  using dyndeploy::Isa;
  if (!name) {
    dyndeploy::current() = dyndeploy::best();
    return DYNDEPLOY_OK;
  }
  for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512})
    if (std::strcmp(name, dyndeploy::kNames[static_cast<int>(isa)]) == 0) {
      if (!dyndeploy::has(isa)) return dyndeploy::unsupported("this CPU has no %s", name);
      dyndeploy::current() = isa;
      return DYNDEPLOY_OK;
    }
  return dyndeploy::bad_argument("there is no instruction set '%s': portable, avx2 or avx512", name);
}

// Which of the three builds of the kernels is in use.
#pragma once

#include <cstdint>

namespace dyndeploy {

enum class Isa : uint32_t { portable, avx2, avx512 };

Isa isa();

// `pick(portable, avx2, avx512)`: the one in use. What an architecture lacks is not compiled for it.
#if defined(__x86_64__)
#define DYNDEPLOY_PICK(name)                                   \
  (::dyndeploy::isa() == ::dyndeploy::Isa::avx512 ? avx512::name \
   : ::dyndeploy::isa() == ::dyndeploy::Isa::avx2 ? avx2::name   \
                                                  : portable::name)
#define DYNDEPLOY_DECLARE(declaration) \
  namespace portable {                 \
  declaration;                         \
  }                                    \
  namespace avx2 {                     \
  declaration;                         \
  }                                    \
  namespace avx512 {                   \
  declaration;                         \
  }
#else
#define DYNDEPLOY_PICK(name) portable::name
#define DYNDEPLOY_DECLARE(declaration) \
  namespace portable {                 \
  declaration;                         \
  }
#endif

}  // namespace dyndeploy

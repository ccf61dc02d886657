// How a function of the C ABI says what is wrong: a status, and a message of the calling thread.
#pragma once

#include "common/api.h"

namespace dyndeploy {

#define DYNDEPLOY_PRINTF __attribute__((format(printf, 1, 2), cold))
dyndeploy_status bad_argument(const char* format, ...) DYNDEPLOY_PRINTF;
dyndeploy_status unsupported(const char* format, ...) DYNDEPLOY_PRINTF;
dyndeploy_status failed(const char* format, ...) DYNDEPLOY_PRINTF;
#undef DYNDEPLOY_PRINTF

}  // namespace dyndeploy

// Return early when `expression` is not DYNDEPLOY_OK.
#define DYNDEPLOY_TRY(expression)                                      \
  do {                                                                 \
    const dyndeploy_status dyndeploy_try_status = (expression);        \
    if (dyndeploy_try_status != DYNDEPLOY_OK) return dyndeploy_try_status; \
  } while (false)

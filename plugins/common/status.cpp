#include "common/status.h"

#include <cstdarg>
#include <cstdio>

namespace dyndeploy {
namespace {

// No std::string: nothing here may throw or allocate.
thread_local char message[512] = "";

}  // namespace

#define DYNDEPLOY_DEFINE(name, status)                     \
  dyndeploy_status name(const char* format, ...) {         \
    va_list arguments;                                     \
    va_start(arguments, format);                           \
    std::vsnprintf(message, sizeof message, format, arguments); \
    va_end(arguments);                                     \
    return status;                                         \
  }
DYNDEPLOY_DEFINE(bad_argument, DYNDEPLOY_BAD_ARGUMENT)
DYNDEPLOY_DEFINE(unsupported, DYNDEPLOY_UNSUPPORTED)
DYNDEPLOY_DEFINE(failed, DYNDEPLOY_FAILED)
#undef DYNDEPLOY_DEFINE

}  // namespace dyndeploy

const char* dyndeploy_message(void) { return dyndeploy::message; }

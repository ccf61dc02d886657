#include "common/status.h"

#include <cstdarg>
#include <cstdio>

namespace dyndeploy {
namespace {

// No std::string: nothing here may throw or allocate.
thread_local char message[512] = "";

}  // namespace

dyndeploy_status bad_argument(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return DYNDEPLOY_BAD_ARGUMENT;
}

dyndeploy_status unsupported(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return DYNDEPLOY_UNSUPPORTED;
}

}  // namespace dyndeploy

const char* dyndeploy_message(void) { return dyndeploy::message; }

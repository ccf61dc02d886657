#include "common/tensorrt/plugin_log.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>

namespace dyndeploy::tensorrt {
namespace {

// A finder is only called by code that knows its virtual functions, which TensorRT 11 moved: see abi/tensorrt.h.
std::atomic<abi::LoggerFinder10*> finder_10;
std::atomic<abi::LoggerFinder11*> finder_11;

// NV_TENSORRT_VERSION of the library in which `object`'s virtual functions are, or 0.
int version_behind(const void* object) {
  Dl_info library{};
  const void* const functions = *static_cast<const void* const*>(object);
  if (!dladdr(functions, &library) || !library.dli_fname) return 0;
  void* const handle = dlopen(library.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  using Version = int32_t (*)();
  // A program that has TensorRT linked into it has no file to open, but may export the function.
  const auto version = reinterpret_cast<Version>(dlsym(handle ? handle : RTLD_DEFAULT, "getInferLibVersion"));
  const int number = version ? version() : 0;
  if (handle) dlclose(handle);
  return number;
}

// TensorRT 10.2.3 is 100203, 11.4.0 is 110400. TensorRT for RTX has numbers of its own, 1.7.1 being 10701, and the
// functions of TensorRT 11 since it loads plugins at all.
bool is_10(int version) { return version >= 100000 && version < 110000; }
bool is_11(int version) { return version >= 110000 || (version >= 10701 && version < 80000); }

}  // namespace

void set_logger_finder(void* finder) noexcept {
  const int version = finder ? version_behind(finder) : 0;
  finder_10 = is_10(version) ? static_cast<abi::LoggerFinder10*>(finder) : nullptr;
  finder_11 = is_11(version) ? static_cast<abi::LoggerFinder11*>(finder) : nullptr;
}

void log_error(const char* op, const char* node, const char* message) noexcept {
  char text[1024];
  std::snprintf(text, sizeof text, "dyndeploy: %s node '%s': %s", op, node, message);
  if (auto* const finder = finder_10.load())
    if (auto* const logger = finder->findLogger()) return logger->log(abi::kError, text);
  if (auto* const finder = finder_11.load())
    if (auto* const logger = finder->findLogger()) return logger->log(abi::kError, text);
  std::fprintf(stderr, "%s\n", text);
}

}  // namespace dyndeploy::tensorrt

// libdyndeploy_trt_register: for programs that do no more than open a library of plugins, and expect its constructors
// to announce them. Opening it puts the plugins of libdyndeploy_trt, which lies beside it, into TensorRT's registry.
//
// It is for the one TensorRT that it is linked to: the registry's virtual functions are not the same in 10 and 11, so
// official headers declare them, those of that version.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>

namespace {

using nvinfer1::IPluginCreatorInterface;
using Severity = nvinfer1::ILogger::Severity;

constexpr const char* kPlugins = "libdyndeploy_trt.so";

// To TensorRT's logger, which a program may not have given yet.
[[gnu::format(printf, 2, 3)]] void say(Severity severity, const char* format, ...) {
  char text[512];
  va_list values;
  va_start(values, format);
  std::vsnprintf(text, sizeof text, format, values);
  va_end(values);
  if (auto* const logger = getLogger())
    logger->log(severity, text);
  else if (severity <= Severity::kWARNING)
    std::fprintf(stderr, "%s\n", text);
}

// What TensorRT's registry hands to a library that it opens by itself.
class Finder final : public nvinfer1::ILoggerFinder {
 public:
  nvinfer1::ILogger* findLogger() override { return getLogger(); }
};

// TensorRT 10.3.0 is 100300, 11.4.0 is 110400; TensorRT for RTX 1.7.1 is 10701 and has the interfaces of TensorRT 11.
int interfaces_of_the_library() {
  const int version = getInferLibVersion();
  return version >= 100000 ? version / 10000 : 11;
}

void add(nvinfer1::IPluginRegistry& registry, IPluginCreatorInterface& any) {
  auto& creator = static_cast<nvinfer1::IPluginCreatorV3One&>(any);
  const char *const name = creator.getPluginName(), *const version = creator.getPluginVersion(),
                    *const space = creator.getPluginNamespace();
  if (const auto* const there = registry.getCreator(name, version, space)) {
    const bool ours = there == &any;
    say(ours ? Severity::kINFO : Severity::kWARNING, "dyndeploy: plugin '%s::%s' version %s is registered already%s",
        space, name, version, ours ? "" : ", by another library, and stays");
  } else if (!registry.registerCreator(creator, space)) {
    say(Severity::kERROR, "dyndeploy: TensorRT did not register plugin '%s::%s' version %s", space, name, version);
  }
}

[[gnu::constructor]] void register_plugins() noexcept {
#ifdef TRT_MAJOR_RTX
  constexpr int kDeclared = 11;
#else
  constexpr int kDeclared = NV_TENSORRT_MAJOR;
#endif
  if (const int here = interfaces_of_the_library(); here != kDeclared)
    return say(Severity::kERROR, "dyndeploy: no plugins: what registers them was compiled for TensorRT %d, this is %d",
               kDeclared, here);
  // By handle: other libraries of plugins, TensorRT's among them, have functions of these names.
  void* const plugins = dlopen(kPlugins, RTLD_NOW | RTLD_LOCAL);
  if (!plugins) return say(Severity::kERROR, "dyndeploy: no plugins: %s", dlerror());
  using SetLoggerFinder = void (*)(nvinfer1::ILoggerFinder*);
  using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
  const auto set_logger_finder = reinterpret_cast<SetLoggerFinder>(dlsym(plugins, "setLoggerFinder"));
  const auto get_creators = reinterpret_cast<GetCreators>(dlsym(plugins, "getCreators"));
  auto* const registry = getPluginRegistry();
  if (!set_logger_finder || !get_creators || !registry)
    return say(Severity::kERROR, "dyndeploy: no plugins: %s",
               registry ? "libdyndeploy_trt.so is not that of dyndeploy" : "TensorRT has no registry");
  static Finder finder;
  set_logger_finder(&finder);
  int32_t count = 0;
  IPluginCreatorInterface* const* const creators = get_creators(count);
  for (int32_t i = 0; i < count; ++i) add(*registry, *creators[i]);
}

}  // namespace

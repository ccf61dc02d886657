// The two functions that libdyndeploy_trt.so exports. TensorRT calls them, in this order, when a program has its plugin
// registry load the library. Nothing here calls TensorRT's own functions: no version of it is linked.
#include <array>

#include "common/tensorrt/plugin_base.h"
#include "common/tensorrt/plugin_log.h"

extern "C" DYNDEPLOY_API void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  dyndeploy::tensorrt::set_logger_finder(finder);
}

extern "C" DYNDEPLOY_API nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  using namespace dyndeploy::tensorrt;
  static Creator creators[] = {
      {dcnv2_operator(), Version::exact},  {dcnv2_operator(), Version::tf32},  {ddf_operator(), Version::exact},
      {drconv_operator(), Version::exact}, {drconv_operator(), Version::tf32},
      {drconv_mix_operator(), Version::exact}, {drconv_mix_operator(), Version::tf32},
      {dgc_operator(), Version::exact},    {dgc_operator(), Version::tf32},
      {deform_conv_operator(), Version::exact},
  };
  static const auto list = [] {
    std::array<nvinfer1::IPluginCreatorInterface*, std::size(creators)> all;
    for (size_t i = 0; i < all.size(); ++i) all[i] = &creators[i];
    return all;
  }();
  count = static_cast<int32_t>(list.size());
  return list.data();
}

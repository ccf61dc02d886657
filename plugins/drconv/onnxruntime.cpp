#include "drconv/kernels.h"

#include "common/onnxruntime_op.h"

namespace dyndeploy::onnxruntime {
namespace {

struct Drconv {
  using Attributes = dyndeploy_drconv;
  static constexpr const char* kName = "DynamicRegionAwareConv2d";
  static constexpr int kWeight = kNoWeight;

  static void read(NodeAttributes& node, Attributes& a) {
    node("kernel_shape", a.kernel_shape);
    node("strides", a.strides);
    node("pads", a.pads);
    node("dilations", a.dilations);
    node("regions", a.regions);
    node("relu", a.relu);
  }

  static constexpr auto output = dyndeploy_drconv_output;
  static constexpr auto workspace = dyndeploy_drconv_cpu_forward_workspace;
  static constexpr auto forward = dyndeploy_drconv_cpu_forward;
};

struct DrconvMix : Drconv {
  static constexpr const char* kName = "MixedRegionAwareConv2d";
  static constexpr int kInputs = 5;

  static constexpr auto output = dyndeploy_drconv_output_mix;
  static constexpr auto workspace = dyndeploy_drconv_cpu_forward_mix_workspace;
  static constexpr auto forward = dyndeploy_drconv_cpu_forward_mix;
};

}  // namespace

OrtStatus* add_drconv(const OrtApi& api, OrtCustomOpDomain* domain) { return add<Drconv>(api, domain); }
OrtStatus* add_drconv_mix(const OrtApi& api, OrtCustomOpDomain* domain) { return add<DrconvMix>(api, domain); }

}  // namespace dyndeploy::onnxruntime

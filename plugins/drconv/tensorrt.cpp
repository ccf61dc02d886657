#include "common/tensorrt/plugin_base.h"
#include "drconv/kernels.h"

namespace dyndeploy::tensorrt {
namespace {

struct Drconv
    : Functions<dyndeploy_drconv_output, dyndeploy_drconv_cuda_forward_workspace, dyndeploy_drconv_cuda_forward> {
  static constexpr const char* kName = "DynamicRegionAwareConv2d";
  static constexpr Input kInputs[] = {{"X", 4, Input::map}, {"filters", 3}, {"guide", 4, Input::map}, {"B", 1}};
  static constexpr bool kProducts = true;

  static void read(AttributeTable& node, const Attributes& a) {
    node("kernel_shape", a.kernel_shape, 1);
    node("strides", a.strides, 1);
    node("pads", a.pads, 0);
    node("dilations", a.dilations, 1);
    node("regions", a.regions, 1, 32);
    node("relu", a.relu, 0, 1);
  }

  static Shape output_shape(const Attributes& a, const Shape* inputs) {
    const Shape &X = inputs[0], &B = inputs[3];
    return {X[0], B[0], window_extent(a, 0, X[2], a.kernel_shape[0]), window_extent(a, 1, X[3], a.kernel_shape[1])};
  }
};

struct DrconvMix : Functions<dyndeploy_drconv_output_mix, dyndeploy_drconv_cuda_forward_mix_workspace,
                            dyndeploy_drconv_cuda_forward_mix> {
  static constexpr const char* kName = "MixedRegionAwareConv2d";
  static constexpr Input kInputs[] = {{"X", 4, Input::map}, {"share", 3}, {"banks", 2}, {"guide", 4, Input::map}, {"B", 1}};
  static constexpr bool kProducts = true;
  static constexpr auto read = Drconv::read;

  static Shape output_shape(const Attributes& a, const Shape* inputs) {
    const Shape of_convolution[] = {inputs[0], {}, inputs[3], inputs[4]};
    return Drconv::output_shape(a, of_convolution);
  }
};

}  // namespace

const Operator& drconv_operator() { return operator_of<Drconv>(); }
const Operator& drconv_mix_operator() { return operator_of<DrconvMix>(); }

}  // namespace dyndeploy::tensorrt

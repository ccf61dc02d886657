#include "common/tensorrt/plugin_base.h"
#include "dcnv2/kernels.h"

namespace dyndeploy::tensorrt {
namespace {

struct Dcnv2 : Functions<dyndeploy_dcnv2_output, dyndeploy_dcnv2_cuda_forward_workspace, dyndeploy_dcnv2_cuda_forward> {
  static constexpr const char* kName = "ModulatedDeformConv2d";
  static constexpr Input kInputs[] = {{"X", 4, Input::map}, {"offset_mask", 4, Input::map}, {"W", 4}, {"B", 1}};
  static constexpr bool kProducts = true;

  static void read(AttributeTable& node, const Attributes& a) {
    node("strides", a.strides, 1);
    node("pads", a.pads, 0);
    node("dilations", a.dilations, 1);
    node("group", a.group, 1);
    node("offset_group", a.offset_group, 1);
    node("sigmoid", a.sigmoid, 0, 1);
    node("mask_scale", a.mask_scale);
    node("relu", a.relu, 0, 1);
  }

  static Shape output_shape(const Attributes& a, const Shape* inputs) {
    const Shape &X = inputs[0], &W = inputs[2];
    return {X[0], W[0], window_extent(a, 0, X[2], W[2]), window_extent(a, 1, X[3], W[3])};
  }
};

}  // namespace

const Operator& dcnv2_operator() { return operator_of<Dcnv2>(); }

}  // namespace dyndeploy::tensorrt

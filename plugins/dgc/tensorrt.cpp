#include "common/tensorrt/plugin_base.h"
#include "dgc/kernels.h"

namespace dyndeploy::tensorrt {
namespace {

struct Dgc : Functions<dyndeploy_dgc_output, dyndeploy_dgc_cuda_forward_workspace, dyndeploy_dgc_cuda_forward> {
  static constexpr const char* kName = "DynamicGroupConv2d";
  static constexpr Input kInputs[] = {{"X", 4, Input::map}, {"saliency", 2}, {"W", 4}, {"B", 1}};
  static constexpr bool kProducts = true;

  static void read(AttributeTable& node, const Attributes& a) {
    node("strides", a.strides, 1);
    node("pads", a.pads, 0);
    node("dilations", a.dilations, 1);
    node("heads", a.heads, 1);
    node("inactive", a.inactive, -1);
    node("threshold", a.threshold);
    node("shuffle", a.shuffle, 0, 1);
    node("relu", a.relu, 0, 1);
  }

  static Shape output_shape(const Attributes& a, const Shape* inputs) {
    const Shape &X = inputs[0], &W = inputs[2];
    return {X[0], W[0], window_extent(a, 0, X[2], W[2]), window_extent(a, 1, X[3], W[3])};
  }
};

}  // namespace

const Operator& dgc_operator() { return operator_of<Dgc>(); }

}  // namespace dyndeploy::tensorrt

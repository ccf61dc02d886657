#include "common/tensorrt/plugin_base.h"
#include "common/status.h"
#include "ddf/kernels.h"

namespace dyndeploy::tensorrt {
namespace {

struct Ddf : Functions<dyndeploy_ddf_output, dyndeploy_ddf_cuda_forward_workspace, dyndeploy_ddf_cuda_forward> {
  static constexpr const char* kName = "DecoupledDynamicFilter";
  static constexpr Input kInputs[] = {
      {"X", 4, Input::map}, {"channel_filter", 2}, {"spatial_filter", 4, Input::map}, {"channel_gain", 1}};
  static constexpr bool kProducts = false;

  static void read(AttributeTable& node, const Attributes& a) {
    node("kernel_shape", a.kernel_shape, 1);
    node("strides", a.strides, 1);
    node("pads", a.pads, 0);
    node("dilations", a.dilations, 1);
    node("heads", a.heads, 1);
    node("scale", a.scale, 1);
    node("combine", a.combine, 0, 1);
    node("filter_norm", a.filter_norm, 0, 1);
    node("spatial_gain", a.spatial_gain);
    node("relu", a.relu, 0, 1);
  }

  static dyndeploy_status check(const Attributes& a) {
    if (a.filter_norm && a.kernel_shape[0] == 1 && a.kernel_shape[1] == 1)
      return bad_argument("filter_norm with a kernel of one tap, which has no standard deviation");
    return DYNDEPLOY_OK;
  }

  static Shape output_shape(const Attributes& a, const Shape* inputs) {
    const Shape& X = inputs[0];
    return {X[0], X[1], window_extent(a, 0, X[2], a.kernel_shape[0]) * a.scale,
            window_extent(a, 1, X[3], a.kernel_shape[1]) * a.scale};
  }
};

}  // namespace

const Operator& ddf_operator() { return operator_of<Ddf>(); }

}  // namespace dyndeploy::tensorrt

#include "ddf/kernels.h"

#include "common/onnxruntime_op.h"

namespace dyndeploy::onnxruntime {
namespace {

struct Ddf {
  using Attributes = dyndeploy_ddf;
  static constexpr const char* kName = "DecoupledDynamicFilter";
  static constexpr int kWeight = kNoWeight;

  static void read(NodeAttributes& node, Attributes& a) {
    node("kernel_shape", a.kernel_shape);
    node("strides", a.strides);
    node("pads", a.pads);
    node("dilations", a.dilations);
    node("heads", a.heads);
    node("scale", a.scale);
    node("combine", a.combine);
    node("filter_norm", a.filter_norm);
    node("spatial_gain", a.spatial_gain);
    node("relu", a.relu);
  }

  static constexpr auto output = dyndeploy_ddf_output;
  static constexpr auto workspace = dyndeploy_ddf_cpu_forward_workspace;
  static constexpr auto forward = dyndeploy_ddf_cpu_forward;
};

}  // namespace

OrtStatus* add_ddf(const OrtApi& api, OrtCustomOpDomain* domain) { return add<Ddf>(api, domain); }

}  // namespace dyndeploy::onnxruntime

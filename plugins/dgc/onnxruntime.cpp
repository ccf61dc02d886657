#include "dgc/kernels.h"

#include "common/onnxruntime_op.h"

namespace dyndeploy::onnxruntime {
namespace {

struct Dgc {
  using Attributes = dyndeploy_dgc;
  static constexpr const char* kName = "DynamicGroupConv2d";
  static constexpr int kWeight = 2;

  static void read(NodeAttributes& node, Attributes& a) {
    node("strides", a.strides);
    node("pads", a.pads);
    node("dilations", a.dilations);
    node("heads", a.heads);
    node("inactive", a.inactive);
    node("threshold", a.threshold);
    node("shuffle", a.shuffle);
    node("relu", a.relu);
  }

  static constexpr auto output = dyndeploy_dgc_output;
  static constexpr auto workspace = dyndeploy_dgc_cpu_forward_workspace;
  static constexpr auto forward = dyndeploy_dgc_cpu_forward;
  static constexpr auto packed_bytes = dyndeploy_dgc_cpu_packed_bytes;
  static constexpr auto pack = dyndeploy_dgc_cpu_pack;
};

}  // namespace

OrtStatus* add_dgc(const OrtApi& api, OrtCustomOpDomain* domain) { return add<Dgc>(api, domain); }

}  // namespace dyndeploy::onnxruntime

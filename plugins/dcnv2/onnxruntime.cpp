#include "dcnv2/kernels.h"

#include "common/onnxruntime_op.h"

namespace dyndeploy::onnxruntime {
namespace {

struct Dcnv2 {
  using Attributes = dyndeploy_dcnv2;
  static constexpr const char* kName = "ModulatedDeformConv2d";
  static constexpr int kWeight = 2;

  static void read(NodeAttributes& node, Attributes& a) {
    node("strides", a.strides);
    node("pads", a.pads);
    node("dilations", a.dilations);
    node("group", a.group);
    node("offset_group", a.offset_group);
    node("sigmoid", a.sigmoid);
    node("mask_scale", a.mask_scale);
    node("relu", a.relu);
  }

  static constexpr auto output = dyndeploy_dcnv2_output;
  static constexpr auto workspace = dyndeploy_dcnv2_cpu_forward_workspace;
  static constexpr auto forward = dyndeploy_dcnv2_cpu_forward;
  static constexpr auto packed_bytes = dyndeploy_dcnv2_cpu_packed_bytes;
  static constexpr auto pack = dyndeploy_dcnv2_cpu_pack;
};

}  // namespace

OrtStatus* add_dcnv2(const OrtApi& api, OrtCustomOpDomain* domain) { return add<Dcnv2>(api, domain); }

}  // namespace dyndeploy::onnxruntime

// ONNX's own DeformConv, for models that were not exported here: on the kernels of ModulatedDeformConv2d.
//
// TensorRT for RTX has no importer for it and finds this plugin by the operator's name; TensorRT has one, which keeps
// coordinates in half precision, and takes this plugin with its parser's flag ENABLE_PLUGIN_OVERRIDE.
#include "common/tensorrt/plugin_base.h"
#include "common/problem.h"
#include "dcnv2/join.h"
#include "dcnv2/kernels.h"

namespace dyndeploy::tensorrt {
namespace {

constexpr const char* kOp = "DeformConv";
enum { kX, kW, kOffset, kB, kMask };  // the order of ONNX

struct DeformConvAttributes {
  dyndeploy_dcnv2 dcnv2;
  int64_t kernel_shape[2];  // 0: what W has
};

long long ll(int64_t value) { return value; }

// A call of dcnv2. Data that has to be put together first is missing.
struct Call {
  dyndeploy_tensor inputs[4];
};

void set_dense_strides(dyndeploy_tensor& tensor) {
  int64_t stride = 1;
  for (int axis = tensor.rank; axis-- > 0;) {
    tensor.strides[axis] = stride;
    stride *= tensor.extents[axis] > 0 ? tensor.extents[axis] : 1;
  }
}

dyndeploy_status call_of(const DeformConvAttributes& a, const Tensors& tensors, Call& call) {
  const dyndeploy_tensor &X = tensors.inputs[kX], &W = tensors.inputs[kW], &offset = tensors.inputs[kOffset];
  const int32_t dtype = X.dtype;
  DYNDEPLOY_TRY(check_tensor(kOp, "X", X, dtype, {-1, -1, -1, -1}));
  DYNDEPLOY_TRY(check_tensor(kOp, "W", W, dtype, {-1, -1, -1, -1}));
  const int64_t kh = W.extents[2], kw = W.extents[3];
  if (a.kernel_shape[0] > 0 && (a.kernel_shape[0] != kh || a.kernel_shape[1] != kw))
    return bad_argument("%s: kernel_shape is %lldx%lld, but W has %lldx%lld", kOp, ll(a.kernel_shape[0]),
                        ll(a.kernel_shape[1]), ll(kh), ll(kw));
  Window window;
  DYNDEPLOY_TRY(resolve_window(kOp, X, kh, kw, a.dcnv2.strides, a.dcnv2.pads, a.dcnv2.dilations, &window));
  if (kh > kMostExtent / 3 / a.dcnv2.offset_group / kw)
    return unsupported("%s: 3 * offset_group * taps is more than 2^31", kOp);
  const int64_t N = X.extents[0], points = a.dcnv2.offset_group * kh * kw;
  DYNDEPLOY_TRY(check_tensor(kOp, "offset", offset, dtype, {N, 2 * points, window.Ho, window.Wo}));
  if (tensors.count > kMask)
    DYNDEPLOY_TRY(check_tensor(kOp, "mask", tensors.inputs[kMask], dtype, {N, points, window.Ho, window.Wo}));
  dyndeploy_tensor joined = offset;
  joined.data = nullptr;
  joined.extents[1] = 3 * points;
  set_dense_strides(joined);
  dyndeploy_tensor bias{};
  bias.extents[0] = W.extents[0];  // strides of 0: all of it one zero
  bias.rank = 1;
  bias.dtype = dtype;
  call = {{X, joined, W, tensors.count > kB ? tensors.inputs[kB] : bias}};
  return DYNDEPLOY_OK;
}

struct Memory {
  unsigned char* joined;
  unsigned char* zero;
  Workspace workspace;

  Memory(void* memory, const dyndeploy_tensor& offset_mask) : workspace(memory) {
    joined = workspace.take<unsigned char>(elements(offset_mask) * (offset_mask.dtype == DYNDEPLOY_FLOAT32 ? 4 : 2));
    zero = workspace.take<unsigned char>(4);
  }
};

struct DeformConv {
  using Attributes = DeformConvAttributes;
  static constexpr const char* kName = kOp;
  static constexpr const char* kDomain = "";
  static constexpr Input kInputs[] = {{"X", 4, Input::map}, {"W", 4}, {"offset", 4}, {"B", 1}, {"mask", 4}};
  static constexpr int kOptionalInputs = 2;
  static constexpr bool kProducts = false;  // ONNX's node has no place to ask for another version

  static Attributes defaults() {
    Attributes a{};
    a.dcnv2.size = sizeof a.dcnv2;
    for (const int axis : {0, 1}) a.dcnv2.strides[axis] = a.dcnv2.dilations[axis] = 1;
    a.dcnv2.group = a.dcnv2.offset_group = 1;
    a.dcnv2.mask_scale = 1;
    return a;
  }

  static void read(AttributeTable& node, const Attributes& a) {
    node.optional_from_here();
    node("kernel_shape", a.kernel_shape, 0);
    node("strides", a.dcnv2.strides, 1);
    node("pads", a.dcnv2.pads, 0);
    node("dilations", a.dcnv2.dilations, 1);
    node("group", a.dcnv2.group, 1);
    node("offset_group", a.dcnv2.offset_group, 1);
  }

  static dyndeploy_status check(const Attributes& a) {
    if ((a.kernel_shape[0] == 0) != (a.kernel_shape[1] == 0))
      return bad_argument("kernel_shape is %lldx%lld", ll(a.kernel_shape[0]), ll(a.kernel_shape[1]));
    return DYNDEPLOY_OK;
  }

  static Shape output_shape(const Attributes& a, const Shape* inputs) {
    const Shape &X = inputs[kX], &W = inputs[kW];
    return {X[0], W[0], window_extent(a.dcnv2, 0, X[2], W[2]), window_extent(a.dcnv2, 1, X[3], W[3])};
  }

  static dyndeploy_status resolve(const Attributes& a, Tensors& tensors) {
    Call call;
    DYNDEPLOY_TRY(call_of(a, tensors, call));
    return dyndeploy_dcnv2_output(&a.dcnv2, call.inputs, tensors.output.extents);
  }

  static dyndeploy_status workspace(const Attributes& a, const Tensors& tensors,
                                    const dyndeploy_cuda_resources& resources, uint64_t* bytes) {
    Call call;
    DYNDEPLOY_TRY(call_of(a, tensors, call));
    uint64_t product = 0;
    DYNDEPLOY_TRY(dyndeploy_dcnv2_cuda_forward_workspace(&a.dcnv2, call.inputs, &tensors.output, &resources, &product));
    *bytes = Memory(nullptr, call.inputs[1]).workspace.bytes() + product;
    return DYNDEPLOY_OK;
  }

  static dyndeploy_status forward(const Attributes& a, const Tensors& tensors,
                                  const dyndeploy_cuda_resources& resources) {
    Call call;
    DYNDEPLOY_TRY(call_of(a, tensors, call));
    for (int i = 0; i < tensors.count; ++i) DYNDEPLOY_TRY(check_data(kOp, kInputs[i].name, tensors.inputs[i]));
    if (!resources.workspace) return bad_argument("%s: the workspace is NULL", kOp);
    Memory memory(resources.workspace, call.inputs[1]);
    call.inputs[1].data = memory.joined;
    if (tensors.count <= kB) call.inputs[3].data = memory.zero;
    dyndeploy_cuda_resources rest = resources;
    const uint64_t used = memory.workspace.bytes() - 63;
    rest.workspace = static_cast<unsigned char*>(resources.workspace) + used;
    rest.workspace_bytes = resources.workspace_bytes - used;
    const dyndeploy_tensor* const mask = tensors.count > kMask ? &tensors.inputs[kMask] : nullptr;
    DYNDEPLOY_TRY(dcnv2::join_offset_and_mask(tensors.inputs[kOffset], mask, call.inputs[1], memory.zero,
                                              resources.stream));
    return dyndeploy_dcnv2_cuda_forward(&a.dcnv2, call.inputs, &tensors.output, &rest);
  }
};

}  // namespace

const Operator& deform_conv_operator() { return operator_of<DeformConv>(); }

}  // namespace dyndeploy::tensorrt

#include "common/tensorrt/plugin_base.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "common/tensorrt/plugin_log.h"
#include "common/status.h"

namespace dyndeploy::tensorrt {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

namespace {

// 0 for a type that operators do not have, which they refuse.
int32_t dtype_of(DataType type) {
  if (type == DataType::kFLOAT) return DYNDEPLOY_FLOAT32;
  if (type == DataType::kHALF) return DYNDEPLOY_FLOAT16;
  return type == DataType::kBF16 ? DYNDEPLOY_BFLOAT16 : 0;
}

// The channels-last format of maps, which TensorRT calls differently by type: kHWC pads nothing, kHWC8 pads pixels to 8
// channels, or 16 bytes, which is what the kernels read at once.
TensorFormat channels_last(DataType type) { return type == DataType::kFLOAT ? TensorFormat::kHWC : TensorFormat::kHWC8; }

dyndeploy_tensor describe(const Dims& dims, DataType type, TensorFormat format, void* data = nullptr) {
  dyndeploy_tensor tensor{};
  tensor.data = data;
  tensor.rank = dims.nbDims;
  tensor.dtype = dtype_of(type);
  const int rank = std::clamp(dims.nbDims, 0, 4);
  std::copy_n(dims.d, rank, tensor.extents);
  int64_t stride = 1;
  if (rank == 4 && format != TensorFormat::kLINEAR) {
    const int64_t C = tensor.extents[1];
    stride = format == TensorFormat::kHWC8 ? (C + 7) / 8 * 8 : C;
    tensor.strides[1] = 1;
    for (const int axis : {3, 2, 0}) {
      tensor.strides[axis] = stride;
      stride *= std::max<int64_t>(tensor.extents[axis], 1);
    }
    return tensor;
  }
  for (int axis = rank; axis-- > 0;) {
    tensor.strides[axis] = stride;
    stride *= std::max<int64_t>(tensor.extents[axis], 1);
  }
  return tensor;
}

Dims dims_of(const int64_t (&extents)[4]) {
  Dims dims{};
  dims.nbDims = 4;
  std::copy_n(extents, 4, dims.d);
  return dims;
}

// The output's extents by the operator's own rule, and its layout.
dyndeploy_status resolve_output(const Operator& op, const void* attributes, DataType type, TensorFormat format,
                                Tensors& tensors) {
  DYNDEPLOY_TRY(op.resolve(attributes, tensors));
  const Dims dims = dims_of(tensors.output.extents);
  tensors.output = describe(dims, type, format);
  return DYNDEPLOY_OK;
}

}  // namespace

// --- making

Plugin::Plugin(const Operator& op, Version version, const char* node, const void* attributes, int32_t inputs) noexcept
    : op_(op), version_(version), node_{}, attributes_{}, inputs_(inputs), text_{}, numbers_{} {
  std::strncpy(node_, node ? node : "", sizeof node_ - 1);
  std::memcpy(attributes_, attributes, op.attribute_bytes);
  op.attributes->write_text(attributes, text_, sizeof text_);
  if (version == Version::tf32) std::strncat(text_, " tf32", sizeof text_ - std::strlen(text_) - 1);
  collection_ = op.attributes->write(attributes, fields_, numbers_);
}

Plugin* Plugin::make(const Operator& op, Version version, const char* node,
                     const nvinfer1::PluginFieldCollection* fields) noexcept {
  alignas(int64_t) std::byte attributes[AttributeTable::kMostBytes];
  std::memcpy(attributes, op.defaults, op.attribute_bytes);
  dyndeploy_status status = op.attributes->read(fields ? *fields : nvinfer1::PluginFieldCollection{}, attributes);
  if (status == DYNDEPLOY_OK) status = op.check(attributes);
  if (status == DYNDEPLOY_OK) {
    const int32_t inputs = op.fewest_inputs == op.most_inputs ? op.most_inputs : 0;
    if (auto* const made = new (std::nothrow) Plugin(op, version, node, attributes, inputs)) return made;
    status = failed("there is no memory left for a plugin");
  }
  log_error(op.name, node ? node : "", dyndeploy_message());
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
  auto* const made = new (std::nothrow) Plugin(op_, version_, node_, attributes_, inputs_);
  if (!made) logged(failed("there is no memory left for a plugin"));
  return made;
}

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

int32_t Plugin::logged(dyndeploy_status status) const noexcept {
  if (status != DYNDEPLOY_OK) log_error(op_.name, node_, dyndeploy_message());
  return status;
}

dyndeploy_status Plugin::check_counts(int32_t in_count, int32_t out_count) const noexcept {
  if (in_count < op_.fewest_inputs || in_count > op_.most_inputs)
    return bad_argument("the node has %d inputs, and the operator takes %d..%d", in_count, op_.fewest_inputs,
                        op_.most_inputs);
  return out_count == 1 ? DYNDEPLOY_OK : bad_argument("the node has %d outputs, and the operator has 1", out_count);
}

// --- building

int32_t Plugin::getOutputDataTypes(DataType* out, int32_t out_count, const DataType* in,
                                   int32_t in_count) const noexcept {
  if (const int32_t status = logged(check_counts(in_count, out_count))) return status;
  out[0] = in[0];
  return 0;
}

int32_t Plugin::getOutputShapes(const DimsExprs* in, int32_t in_count, const DimsExprs*, int32_t, DimsExprs* out,
                                int32_t out_count, nvinfer1::IExprBuilder& builder) noexcept {
  if (const int32_t status = logged(check_counts(in_count, out_count))) return status;
  inputs_ = in_count;
  Shape shapes[Tensors::kMostInputs];
  Tensors known{};
  bool all_known = true;
  for (int i = 0; i < in_count; ++i) {
    const int rank = op_.inputs[i].rank;
    if (in[i].nbDims != rank)
      return logged(bad_argument("%s has %d dims, not %d", op_.inputs[i].name, in[i].nbDims, rank));
    Dims dims{};
    dims.nbDims = rank;
    for (int axis = 0; axis < rank; ++axis) {
      const nvinfer1::IDimensionExpr* const extent = in[i].d[axis];
      shapes[i][static_cast<size_t>(axis)] = Extent(builder, extent);
      all_known = all_known && extent->isConstant();
      dims.d[axis] = extent->isConstant() ? extent->getConstantValue() : 0;
    }
    known.inputs[i] = describe(dims, DataType::kFLOAT, TensorFormat::kLINEAR);
  }
  known.count = in_count;
  // What contradicts the operator is best said here, where the network is still being put together.
  if (all_known)
    if (const int32_t status = logged(op_.resolve(attributes_, known))) return status;
  const Shape shape = op_.output_shape(attributes_, shapes);
  out[0].nbDims = 4;
  for (int axis = 0; axis < 4; ++axis) {
    out[0].d[axis] = shape[static_cast<size_t>(axis)].get();
    if (!out[0].d[axis]) return logged(failed("TensorRT did not make an expression for dim %d of the output", axis));
  }
  return 0;
}

bool Plugin::supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors, int32_t in_count,
                                       int32_t out_count) noexcept {
  if (check_counts(in_count, out_count) != DYNDEPLOY_OK || position < 0 || position > in_count) return false;
  const PluginTensorDesc &first = tensors[0].desc, &tensor = tensors[position].desc;
  if (dtype_of(tensor.type) == 0 || tensor.type != first.type) return false;
  const bool map = position == in_count || op_.inputs[position].kind == Input::map;
  if (!map) return tensor.format == TensorFormat::kLINEAR;
  // Kernels leave the padding of pixels as it is. A layer that comes next may multiply what lies there by 0, and memory
  // that was never written may be NaN: there is no padding in an output.
  if (position == in_count && tensor.format == TensorFormat::kHWC8 && tensor.dims.d[1] % 8 != 0) return false;
  if (position > 0) return tensor.format == first.format;
  return tensor.format == TensorFormat::kLINEAR || tensor.format == channels_last(tensor.type);
}

// The tensors of the largest call that is to be expected: while an engine is built, other extents may not be known.
dyndeploy_status Plugin::bound(const DynamicPluginTensorDesc* in, int32_t in_count, const DynamicPluginTensorDesc* out,
                               Tensors& tensors) const noexcept {
  tensors = {};
  tensors.count = in_count;
  for (int i = 0; i < in_count; ++i) tensors.inputs[i] = describe(in[i].max, in[i].desc.type, in[i].desc.format);
  return resolve_output(op_, attributes_, out[0].desc.type, out[0].desc.format, tensors);
}

int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t in_count, const DynamicPluginTensorDesc* out,
                                int32_t out_count) noexcept {
  if (const int32_t status = logged(check_counts(in_count, out_count))) return status;
  inputs_ = in_count;
  Tensors tensors;
  dyndeploy_cuda_resources resources{};
  dyndeploy_status status = bound(in, in_count, out, tensors);
  if (status == DYNDEPLOY_OK) status = workspace(tensors, resources);
  return logged(status);
}

size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* in, int32_t in_count, const DynamicPluginTensorDesc* out,
                                int32_t out_count) const noexcept {
  Tensors tensors;
  dyndeploy_cuda_resources resources{};
  dyndeploy_status status = check_counts(in_count, out_count);
  if (status == DYNDEPLOY_OK) status = bound(in, in_count, out, tensors);
  if (status == DYNDEPLOY_OK) status = workspace(tensors, resources);
  // There is no other way to say no here. No machine has so much, so that nothing is run with too little.
  if (logged(status) != 0) return size_t{1} << 60;
  return resources.workspace_bytes;
}

dyndeploy_status Plugin::workspace(const Tensors& tensors, dyndeploy_cuda_resources& resources) const noexcept {
  resources.size = sizeof resources;
  resources.tf32 = version_ == Version::tf32 && tensors.output.dtype == DYNDEPLOY_FLOAT32;
  return op_.workspace(attributes_, tensors, resources, &resources.workspace_bytes);
}

// --- running

int32_t Plugin::onShapeChange(const PluginTensorDesc* in, int32_t in_count, const PluginTensorDesc* out,
                              int32_t out_count) noexcept {
  if (const int32_t status = logged(check_counts(in_count, out_count))) return status;
  inputs_ = in_count;
  Tensors tensors{};
  tensors.count = in_count;
  for (int i = 0; i < in_count; ++i) tensors.inputs[i] = describe(in[i].dims, in[i].type, in[i].format);
  return logged(resolve_output(op_, attributes_, out[0].type, out[0].format, tensors));
}

int32_t Plugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc* out, const void* const* inputs,
                        void* const* outputs, void* memory, cudaStream_t stream) noexcept {
  if (inputs_ == 0) return logged(failed("enqueue was called before onShapeChange"));
  Tensors tensors{};
  tensors.count = inputs_;
  for (int i = 0; i < inputs_; ++i)
    tensors.inputs[i] = describe(in[i].dims, in[i].type, in[i].format, const_cast<void*>(inputs[i]));
  tensors.output = describe(out[0].dims, out[0].type, out[0].format, outputs[0]);
  dyndeploy_cuda_resources resources{};
  dyndeploy_status status = workspace(tensors, resources);
  resources.stream = stream;
  resources.workspace = memory;
  if (status == DYNDEPLOY_OK) status = op_.forward(attributes_, tensors, resources);
  return logged(status);
}

}  // namespace dyndeploy::tensorrt

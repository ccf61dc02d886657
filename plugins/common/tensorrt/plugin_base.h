// An operator of the C ABI as a plugin of TensorRT, 10 and 11 and TensorRT for RTX.
//
// plugins/<op>/tensorrt.cpp describes its operator with a struct:
//
//   struct Op : Functions<dyndeploy_op_output, dyndeploy_op_cuda_forward_workspace, dyndeploy_op_cuda_forward> {
//     static constexpr const char* kName = "OpType";
//     static constexpr Input kInputs[] = {{"X", 4, Input::map}, …};
//     static constexpr bool kProducts = true;  // whether resources.tf32 makes a difference
//     static void read(AttributeTable& node, const Attributes& a) { node("strides", a.strides, 1); … }
//     static Shape output_shape(const Attributes& a, const Shape* inputs) { … }
//   };
//
// and the rest is the same for all of them: Plugin and Creator are two plain classes over a table of functions,
// Operator.
//
// What a plugin does is fixed when it is made, and clones share nothing, so that contexts run side by side. All tensors
// of a call have one element type; maps are dense, or channels last as TensorRT lays it out, all of them alike;
// everything else is dense. A weight is an input like others: TensorRT has no time at which it could be packed, so that
// every call does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>

#include "abi/tensorrt.h"
#include "common/api.h"
#include "common/tensorrt/plugin_fields.h"
#include "common/tensorrt/plugin_shapes.h"

namespace dyndeploy::tensorrt {

struct Input {
  enum Kind { dense, map };
  const char* name;
  int rank;
  Kind kind = dense;
};

// The tensors of a call. `data` is missing where only extents are asked for.
struct Tensors {
  static constexpr int kMostInputs = 5;
  dyndeploy_tensor inputs[kMostInputs];
  int count;
  dyndeploy_tensor output;
};

// What Plugin needs to know of an operator. Attributes are passed as their struct.
struct Operator {
  const char* name;
  const char* domain;  // the creator's namespace
  const Input* inputs;
  int fewest_inputs, most_inputs;
  bool products;  // in two versions
  size_t attribute_bytes;
  const void* defaults;  // of attributes that may be left out, and what is none
  const AttributeTable* attributes;

  // Why the attributes contradict each other, or DYNDEPLOY_OK.
  dyndeploy_status (*check)(const void* attributes);
  Shape (*output_shape)(const void* attributes, const Shape* inputs);
  // The same in numbers, into the extents of the output. Checks everything.
  dyndeploy_status (*resolve)(const void* attributes, Tensors& tensors);
  dyndeploy_status (*workspace)(const void* attributes, const Tensors& tensors,
                                const dyndeploy_cuda_resources& resources, uint64_t* bytes);
  dyndeploy_status (*forward)(const void* attributes, const Tensors& tensors,
                              const dyndeploy_cuda_resources& resources);
};

// Most operators: three functions of the C ABI over four inputs.
template <auto kOutput, auto kWorkspace, auto kForward>
struct Functions;
template <class A, dyndeploy_status (*kOutput)(const A*, const dyndeploy_tensor*, int64_t*), auto kWorkspace, auto kForward>
struct Functions<kOutput, kWorkspace, kForward> {
  using Attributes = A;
  static constexpr const char* kDomain = "dyndeploy";
  static constexpr int kOptionalInputs = 0;  // at the end

  static Attributes defaults() {
    Attributes a{};
    a.size = sizeof a;
    return a;
  }
  static dyndeploy_status check(const Attributes&) { return DYNDEPLOY_OK; }
  static dyndeploy_status resolve(const Attributes& a, Tensors& tensors) {
    return kOutput(&a, tensors.inputs, tensors.output.extents);
  }
  static dyndeploy_status workspace(const Attributes& a, const Tensors& tensors,
                                    const dyndeploy_cuda_resources& resources, uint64_t* bytes) {
    return kWorkspace(&a, tensors.inputs, &tensors.output, &resources, bytes);
  }
  static dyndeploy_status forward(const Attributes& a, const Tensors& tensors,
                                  const dyndeploy_cuda_resources& resources) {
    return kForward(&a, tensors.inputs, &tensors.output, &resources);
  }
};

template <class Op>
const Operator& operator_of() {
  using A = typename Op::Attributes;
  static_assert(sizeof(A) <= AttributeTable::kMostBytes && std::size(Op::kInputs) <= Tensors::kMostInputs);
  static const A defaults = Op::defaults();
  static const AttributeTable attributes = [] {
    AttributeTable table(&defaults);
    Op::read(table, defaults);
    return table;
  }();
  static const auto of = [](const void* a) -> const A& { return *static_cast<const A*>(a); };
  static const Operator op{
      .name = Op::kName,
      .domain = Op::kDomain,
      .inputs = Op::kInputs,
      .fewest_inputs = static_cast<int>(std::size(Op::kInputs)) - Op::kOptionalInputs,
      .most_inputs = static_cast<int>(std::size(Op::kInputs)),
      .products = Op::kProducts,
      .attribute_bytes = sizeof(A),
      .defaults = &defaults,
      .attributes = &attributes,
      .check = [](const void* a) { return Op::check(of(a)); },
      .output_shape = [](const void* a, const Shape* inputs) { return Op::output_shape(of(a), inputs); },
      .resolve = [](const void* a, Tensors& tensors) { return Op::resolve(of(a), tensors); },
      .workspace = [](const void* a, const Tensors& tensors, const dyndeploy_cuda_resources& resources,
                      uint64_t* bytes) { return Op::workspace(of(a), tensors, resources, bytes); },
      .forward = [](const void* a, const Tensors& tensors, const dyndeploy_cuda_resources& resources) {
        return Op::forward(of(a), tensors, resources);
      }};
  return op;
}

// The version of a node's plugin says what its float32 products are computed in: docs/decisions/009-tensorrt-abi.md.
enum class Version { exact, tf32 };
inline const char* text_of(Version version) { return version == Version::exact ? "1" : "1-tf32"; }

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  // nullptr, and a line in the log, where the fields are not what the operator needs.
  static Plugin* make(const Operator& op, Version version, const char* node,
                      const nvinfer1::PluginFieldCollection* fields) noexcept;

  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  // IPluginV3OneCore
  const char* getPluginName() const noexcept override { return op_.name; }
  const char* getPluginVersion() const noexcept override { return text_of(version_); }
  const char* getPluginNamespace() const noexcept override { return op_.domain; }

  // IPluginV3OneBuild
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t in_count,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t out_count) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* out, int32_t out_count, const nvinfer1::DataType* in,
                             int32_t in_count) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* in, int32_t in_count, const nvinfer1::DimsExprs* shapes,
                          int32_t shape_count, nvinfer1::DimsExprs* out, int32_t out_count,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t in_count,
                                 int32_t out_count) noexcept override;
  int32_t getNbOutputs() const noexcept override { return 1; }
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, int32_t in_count,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t out_count) const noexcept override;
  const char* getTimingCacheID() noexcept override { return text_; }
  const char* getMetadataString() noexcept override { return text_; }

  // IPluginV3OneRuntime
  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t in_count, const nvinfer1::PluginTensorDesc* out,
                        int32_t out_count) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override { return &collection_; }

 private:
  Plugin(const Operator& op, Version version, const char* node, const void* attributes, int32_t inputs) noexcept;

  // 0 where the status is DYNDEPLOY_OK; anything else ends a build or a call of the engine.
  int32_t logged(dyndeploy_status status) const noexcept;
  dyndeploy_status check_counts(int32_t in_count, int32_t out_count) const noexcept;
  dyndeploy_status bound(const nvinfer1::DynamicPluginTensorDesc* in, int32_t in_count,
                         const nvinfer1::DynamicPluginTensorDesc* out, Tensors& tensors) const noexcept;
  dyndeploy_status workspace(const Tensors& tensors, dyndeploy_cuda_resources& resources) const noexcept;

  const Operator& op_;
  const Version version_;
  char node_[256];
  alignas(int64_t) std::byte attributes_[AttributeTable::kMostBytes];
  // How many inputs the node has. enqueue is not told; onShapeChange, before it, is.
  int32_t inputs_;
  char text_[512];
  nvinfer1::PluginField fields_[AttributeTable::kMost];
  AttributeTable::Number numbers_[AttributeTable::kMostNumbers];
  nvinfer1::PluginFieldCollection collection_;
};

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  Creator(const Operator& op, Version version) : op_(op), version_(version), names_(op.attributes->names(fields_)) {}

  nvinfer1::IPluginV3* createPlugin(const char* node, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase) noexcept override {
    return Plugin::make(op_, version_, node, fields);
  }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &names_; }
  const char* getPluginName() const noexcept override { return op_.name; }
  const char* getPluginVersion() const noexcept override { return text_of(version_); }
  const char* getPluginNamespace() const noexcept override { return op_.domain; }

 private:
  const Operator& op_;
  const Version version_;
  nvinfer1::PluginField fields_[AttributeTable::kMost];
  const nvinfer1::PluginFieldCollection names_;
};

const Operator& dcnv2_operator();
const Operator& ddf_operator();
const Operator& drconv_operator();
const Operator& drconv_mix_operator();
const Operator& dgc_operator();
const Operator& deform_conv_operator();  // ONNX's own

}  // namespace dyndeploy::tensorrt

// What TensorRT does with a plugin, in its order, through the two functions that the library exports: from a node of a
// network to an engine, which is fields only, and from these to contexts that run.
#pragma once

#include <memory>

#include "cuda/tensor.h"
#include "deform_conv_node.h"
#include "expressions.h"

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);

namespace dyndeploy::test {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginCapabilityType;
using nvinfer1::TensorFormat;
using nvinfer1::TensorRTPhase;

using Plugin = std::unique_ptr<nvinfer1::IPluginV3>;

inline DataType type_of(int32_t dtype) {
  return dtype == DYNDEPLOY_FLOAT32 ? DataType::kFLOAT : dtype == DYNDEPLOY_FLOAT16 ? DataType::kHALF : DataType::kBF16;
}

inline nvinfer1::IPluginCreatorV3One& creator_of(const std::string& op, const std::string& domain,
                                                 const std::string& version) {
  int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* const creators = getCreators(count);
  for (int32_t i = 0; i < count; ++i) {
    CHECK_EQ(std::string(creators[i]->getInterfaceInfo().kind), "PLUGIN CREATOR_V3ONE");
    auto& creator = static_cast<nvinfer1::IPluginCreatorV3One&>(*creators[i]);
    if (creator.getPluginName() == op && creator.getPluginNamespace() == domain &&
        creator.getPluginVersion() == version)
      return creator;
  }
  const Note note(op, " ", version, " in ", domain);
  CHECK(!"there is such a creator");
  std::abort();
}
inline nvinfer1::IPluginCreatorV3One& creator_of(const Node& node) { return creator_of(node.op, node.domain, node.version); }

inline Plugin create(const Node& node, const Fields& fields, TensorRTPhase phase) {
  const std::vector<nvinfer1::PluginField> list = fields.list();
  const nvinfer1::PluginFieldCollection collection{static_cast<int32_t>(list.size()), list.data()};
  return Plugin(creator_of(node).createPlugin("backbone.stage4.conv", &collection, phase));
}

template <class Capability>
Capability& side(nvinfer1::IPluginV3& plugin, PluginCapabilityType type) {
  auto* const capability = plugin.getCapabilityInterface(type);
  CHECK(capability != nullptr);
  return static_cast<Capability&>(*capability);
}
inline nvinfer1::IPluginV3OneCore& core(const Plugin& plugin) {
  return side<nvinfer1::IPluginV3OneCore>(*plugin, PluginCapabilityType::kCORE);
}
inline nvinfer1::IPluginV3OneBuild& build(const Plugin& plugin) {
  return side<nvinfer1::IPluginV3OneBuild>(*plugin, PluginCapabilityType::kBUILD);
}
inline nvinfer1::IPluginV3OneRuntime& runtime(const Plugin& plugin) {
  return side<nvinfer1::IPluginV3OneRuntime>(*plugin, PluginCapabilityType::kRUNTIME);
}

inline nvinfer1::Dims dims_of(const std::vector<int64_t>& extents) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<int32_t>(extents.size());
  std::copy(extents.begin(), extents.end(), dims.d);
  return dims;
}
inline std::vector<int64_t> extents_of(const nvinfer1::Dims& dims) { return {dims.d, dims.d + dims.nbDims}; }

// Extents of the output, by the plugin's expressions. Whether an extent is known to the builder is drawn.
inline std::vector<int64_t> output_extents(Random& random, const Plugin& plugin, const Extents& inputs) {
  ExpressionBuilder builder;
  std::vector<nvinfer1::DimsExprs> expressions;
  const double known = random.pick({0.0, 0.5, 1.0});
  for (const std::vector<int64_t>& extents : inputs) {
    nvinfer1::DimsExprs of_input{};
    of_input.nbDims = static_cast<int32_t>(extents.size());
    for (size_t axis = 0; axis < extents.size(); ++axis)
      of_input.d[axis] = builder.extent(extents[axis], random.chance(known));
    expressions.push_back(of_input);
  }
  nvinfer1::DimsExprs output{};
  CHECK_EQ(build(plugin).getOutputShapes(expressions.data(), static_cast<int32_t>(inputs.size()), nullptr, 0, &output, 1,
                                         builder),
           0);
  std::vector<int64_t> extents;
  for (int32_t axis = 0; axis < output.nbDims; ++axis)
    extents.push_back(static_cast<const Expression*>(output.d[axis])->value());
  return extents;
}

inline Extents extents_of(const std::vector<Doubles>& inputs) {
  Extents all;
  for (const Doubles& values : inputs) all.push_back(values.extents());
  return all;
}

// The formats of inputs and output that a plugin takes, asked for as TensorRT asks: position by position, where what
// comes later means nothing yet.
using Formats = std::vector<TensorFormat>;
inline void find_formats(const Plugin& plugin, std::vector<DynamicPluginTensorDesc>& tensors, size_t position,
                         const std::vector<DataType>& types, std::vector<std::pair<DataType, Formats>>& found) {
  if (position == tensors.size()) {
    Formats formats;
    for (const auto& tensor : tensors) formats.push_back(tensor.desc.format);
    found.push_back({tensors[0].desc.type, formats});
    return;
  }
  for (const DataType type : types)
    for (int32_t format = 0; format <= 12; ++format) {
      tensors[position].desc.type = type;
      tensors[position].desc.format = static_cast<TensorFormat>(format);
      for (size_t later = position + 1; later < tensors.size(); ++later) {
        tensors[later].desc.type = static_cast<DataType>(-1);
        tensors[later].desc.format = static_cast<TensorFormat>(-1);
      }
      if (build(plugin).supportsFormatCombination(static_cast<int32_t>(position), tensors.data(),
                                                  static_cast<int32_t>(tensors.size()) - 1, 1))
        find_formats(plugin, tensors, position + 1, types, found);
    }
}
inline std::vector<std::pair<DataType, Formats>> all_formats(const Plugin& plugin, Extents extents,
                                                             const std::vector<int64_t>& output) {
  std::vector<DynamicPluginTensorDesc> tensors;
  extents.push_back(output);
  for (const std::vector<int64_t>& of_tensor : extents) {
    DynamicPluginTensorDesc tensor{};
    tensor.desc.dims = tensor.min = tensor.max = tensor.opt = dims_of(of_tensor);
    tensors.push_back(tensor);
  }
  std::vector<std::pair<DataType, Formats>> found;
  find_formats(plugin, tensors, 0,
               {DataType::kFLOAT, DataType::kHALF, DataType::kINT8, DataType::kINT32, DataType::kBF16, DataType::kINT64},
               found);
  return found;
}

inline Layout layout_of(TensorFormat format) {
  CHECK(format == TensorFormat::kLINEAR || format == TensorFormat::kHWC8 || format == TensorFormat::kHWC);
  return format == TensorFormat::kLINEAR ? Layout::nchw : format == TensorFormat::kHWC8 ? Layout::hwc8 : Layout::channels_last;
}

// What an engine keeps of a node.
struct Engine {
  Node node;
  int32_t dtype;
  Formats formats;  // of the inputs and the output
  Fields fields;
  size_t workspace;
};

// From the node to the engine.
inline Engine build_engine(Random& random, const Node& node, int32_t dtype) {
  Plugin original = create(node, node.fields, TensorRTPhase::kBUILD);
  CHECK(original != nullptr);
  const Plugin plugin(original->clone());  // the network's copy
  original.reset();
  CHECK_EQ(std::string(core(plugin).getPluginName()), node.op);
  CHECK_EQ(std::string(core(plugin).getPluginNamespace()), node.domain);
  CHECK_EQ(std::string(core(plugin).getPluginVersion()), node.version);
  const auto count = static_cast<int32_t>(node.inputs.size());
  CHECK_EQ(build(plugin).getNbOutputs(), 1);

  const std::vector<DataType> types(node.inputs.size(), type_of(dtype));
  DataType of_output{};
  CHECK_EQ(build(plugin).getOutputDataTypes(&of_output, 1, types.data(), count), 0);
  CHECK(of_output == type_of(dtype));

  const std::vector<int64_t> output = output_extents(random, plugin, extents_of(node.inputs));
  const std::vector<int64_t> largest_output = output_extents(random, plugin, node.largest);

  // One layout of the maps or the other, for each of the three types; but no output of a half type with padding.
  std::vector<Formats> formats;
  const auto all = all_formats(plugin, extents_of(node.inputs), output);
  CHECK_EQ(all.size(), output[1] % 8 ? size_t{4} : size_t{6});
  for (const auto& [type, combination] : all)
    if (type == type_of(dtype)) formats.push_back(combination);
  CHECK(!formats.empty());
  const Formats chosen = formats[static_cast<size_t>(random.integer(0, static_cast<int64_t>(formats.size()) - 1))];

  std::vector<DynamicPluginTensorDesc> tensors;
  const auto describe = [&](const std::vector<int64_t>& usual, const std::vector<int64_t>& largest) {
    DynamicPluginTensorDesc tensor{};
    tensor.desc = {dims_of(usual), type_of(dtype), chosen[tensors.size()], 0};
    tensor.min = tensor.opt = dims_of(usual);
    tensor.max = dims_of(largest);
    // What varies is not known while an engine is built.
    for (size_t axis = 0; axis < usual.size(); ++axis)
      if (usual[axis] != largest[axis]) tensor.desc.dims.d[axis] = -1;
    tensors.push_back(tensor);
  };
  for (size_t i = 0; i < node.inputs.size(); ++i) describe(node.inputs[i].extents(), node.largest[i]);
  describe(output, largest_output);
  const DynamicPluginTensorDesc* const of_y = &tensors.back();
  const Plugin configured(plugin->clone());
  CHECK_EQ(build(configured).configurePlugin(tensors.data(), count, of_y, 1), 0);
  const size_t workspace = build(configured).getWorkspaceSize(tensors.data(), count, of_y, 1);
  CHECK(workspace < size_t{1} << 32);
  CHECK_EQ(build(configured).getNbTactics(), 0);
  CHECK_EQ(std::string(build(configured).getTimingCacheID()), std::string(build(plugin).getTimingCacheID()));
  CHECK(build(configured).getFormatCombinationLimit() >= 6);
  return {node, dtype, chosen, Fields(*runtime(configured).getFieldsToSerialize()), workspace};
}

// A context of an engine, with memory of its own.
class Context {
 public:
  Context(Random& random, const Engine& engine) : engine_(engine) {
    Plugin deserialised = create(engine.node, engine.fields, TensorRTPhase::kRUNTIME);
    CHECK(deserialised != nullptr);
    CHECK(Fields(*runtime(deserialised).getFieldsToSerialize()) == engine.fields);
    plugin_.reset(runtime(deserialised).attachToContext(nullptr));
    CHECK(plugin_ != nullptr);
    for (size_t i = 0; i < engine.node.inputs.size(); ++i)
      inputs_.push_back(DeviceTensor::input(random, engine.dtype, layout(i), engine.node.inputs[i]));
    std::vector<Doubles> values;
    for (const DeviceTensor& input : inputs_) values.push_back(input.values());
    expected_ = std::make_unique<Reals>(engine.node.reference(values, engine.dtype));
    output_ = std::make_unique<DeviceTensor>(
        DeviceTensor::output(random, engine.dtype, layout(inputs_.size()), expected_->extents()));
    workspace_ = std::make_unique<DeviceBytes>(engine.workspace, 0, 0xff, "workspace");
  }

  // The bits of the output, which are right.
  std::vector<unsigned char> run() {
    output_->clear();
    std::vector<nvinfer1::PluginTensorDesc> in;
    std::vector<const void*> addresses;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      in.push_back(describe(i, engine_.node.inputs[i].extents()));
      addresses.push_back(inputs_[i].view().data);
    }
    const nvinfer1::PluginTensorDesc out = describe(inputs_.size(), expected_->extents());
    void* const address = output_->view().data;
    CHECK_EQ(runtime(plugin_).setTactic(0), 0);
    CHECK_EQ(runtime(plugin_).onShapeChange(in.data(), static_cast<int32_t>(in.size()), &out, 1), 0);
    CHECK_EQ(runtime(plugin_).enqueue(in.data(), &out, addresses.data(), &address, workspace_->data(),
                                      static_cast<cudaStream_t>(current_stream())),
             0);
    output_->check_gaps();
    output_->check_close(*expected_);
    return output_->elements();
  }

 private:
  Layout layout(size_t tensor) const { return layout_of(engine_.formats[tensor]); }
  nvinfer1::PluginTensorDesc describe(size_t tensor, const std::vector<int64_t>& extents) const {
    return {dims_of(extents), type_of(engine_.dtype), engine_.formats[tensor], 0};
  }

  const Engine& engine_;
  Plugin plugin_;
  std::vector<DeviceTensor> inputs_;
  std::unique_ptr<Reals> expected_;
  std::unique_ptr<DeviceTensor> output_;
  std::unique_ptr<DeviceBytes> workspace_;
};

}  // namespace dyndeploy::test

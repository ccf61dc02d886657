// What a plugin must refuse, and what it says then, through the logger of either kind that TensorRT has had.
#pragma once

#include <algorithm>

#include "host.h"

extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

namespace dyndeploy::test {

// The version of TensorRT that this program claims to be. The library asks for it.
inline int32_t tensorrt_version = 110400;

inline std::vector<std::string> log_lines;

struct TestLogger10 : tensorrt::abi::Logger10 {
  void log(int32_t severity, const char* message) noexcept override {
    CHECK_EQ(severity, 1);
    log_lines.push_back(message);
  }
};
struct TestFinder10 : tensorrt::abi::LoggerFinder10 {
  TestLogger10 logger;
  tensorrt::abi::Logger10* findLogger() override { return &logger; }
};
struct TestLogger11 : tensorrt::abi::Logger11 {
  nvinfer1::InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILogger", 1, 0}; }
  void log(int32_t severity, const char* message) noexcept override {
    CHECK_EQ(severity, 1);
    log_lines.push_back(message);
  }
};
struct TestFinder11 : tensorrt::abi::LoggerFinder11 {
  TestLogger11 logger;
  nvinfer1::InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILoggerFinder", 1, 0}; }
  tensorrt::abi::Logger11* findLogger() override { return &logger; }
};

// There is one line in the log: it names the operator, the node, and has all of the words.
inline void check_logged(const Node& node, const std::vector<std::string>& words) {
  CHECK_EQ(log_lines.size(), size_t{1});
  const std::string line = log_lines[0];
  log_lines.clear();
  const Note note(line);
  CHECK(has_word(line, node.op));
  CHECK(line.find("'backbone.stage4.conv'") != std::string::npos);
  for (const std::string& word : words) {
    const Note which(word);
    CHECK(has_word(line, word));
  }
}

inline void check_not_created(const Node& node, const Fields& fields, const std::vector<std::string>& words) {
  for (const TensorRTPhase phase : {TensorRTPhase::kBUILD, TensorRTPhase::kRUNTIME}) {
    CHECK(create(node, fields, phase) == nullptr);
    check_logged(node, words);
  }
}

// Fields that are no attributes of the operator, or too few, or contradict it.
inline void test_fields(Random& random) {
  const Node dcnv2 = dcnv2_node(random), ddf = ddf_node(random), deform_conv = deform_conv_node(random);
  for (const Node& node : {dcnv2, ddf, drconv_node(random), drconv_mix_node(random), dgc_node(random)}) {
    const nvinfer1::PluginFieldCollection declared = *creator_of(node).getFieldNames();
    std::vector<std::string> names = node.fields.names(), declared_names;
    for (int32_t i = 0; i < declared.nbFields; ++i) declared_names.push_back(declared.fields[i].name);
    std::sort(names.begin(), names.end());
    std::sort(declared_names.begin(), declared_names.end());
    CHECK(names == declared_names);
    for (const std::string& name : names) check_not_created(node, node.fields.without(name), {name, "missing"});
    check_not_created(node, {}, {"missing"});
    check_not_created(node, Fields(node.fields).ints("deform_groups", {1}), {"deform_groups", "unknown"});
    check_not_created(node, Fields(node.fields).ints("relu", {0}), {"relu", "twice"});
    const Fields rest = node.fields.without("pads");
    check_not_created(node, Fields(rest).ints("pads", {0, 0}), {"pads", "2", "4"});
    check_not_created(node, Fields(rest).ints("pads", {0, 0, -1, 0}), {"pads", "-1"});
    check_not_created(node, Fields(rest).real("pads", 1), {"pads"});
    check_not_created(node, Fields(rest).wide("pads", {0, 0, 0, int64_t{1} << 40}), {"pads"});
    CHECK(create(node, Fields(rest).wide("pads", {0, 1, 2, 3}), TensorRTPhase::kBUILD) != nullptr);
    check_not_created(node, Fields(node.fields.without("relu")).ints("relu", {2}), {"relu", "2"});
    check_not_created(node, Fields(node.fields.without("strides")).ints("strides", {1, 0}), {"strides", "0"});
  }
  check_not_created(dcnv2, Fields(dcnv2.fields.without("mask_scale")).ints("mask_scale", {1}), {"mask_scale"});
  check_not_created(dcnv2, Fields(dcnv2.fields.without("group")).ints("group", {0}), {"group", "0"});
  Fields one_tap = ddf.fields.without("kernel_shape").without("filter_norm");
  check_not_created(ddf, one_tap.ints("kernel_shape", {1, 1}).ints("filter_norm", {1}), {"filter_norm"});
  check_not_created(deform_conv, Fields().ints("kernel_shape", {3, 0}), {"kernel_shape", "3x0"});
  CHECK(create(deform_conv, {}, TensorRTPhase::kBUILD) != nullptr);
  CHECK(log_lines.empty());
}

// Tensors that do not fit the operator or each other, at every point where TensorRT shows them.
inline void test_tensors(Random& random) {
  for (const Node& node : {dcnv2_node(random), ddf_node(random), drconv_node(random), drconv_mix_node(random),
                           dgc_node(random), deform_conv_node(random)}) {
    const Plugin plugin = create(node, node.fields, TensorRTPhase::kBUILD);
    const Extents good = extents_of(node.inputs);
    const auto count = static_cast<int32_t>(good.size());

    const auto shapes = [&](const Extents& extents) {
      ExpressionBuilder builder;
      std::vector<nvinfer1::DimsExprs> inputs;
      for (const auto& of_input : extents) {
        nvinfer1::DimsExprs expressions{};
        expressions.nbDims = static_cast<int32_t>(of_input.size());
        for (size_t axis = 0; axis < of_input.size(); ++axis) expressions.d[axis] = builder.extent(of_input[axis], true);
        inputs.push_back(expressions);
      }
      nvinfer1::DimsExprs output{};
      return build(plugin).getOutputShapes(inputs.data(), static_cast<int32_t>(inputs.size()), nullptr, 0, &output, 1,
                                           builder);
    };
    CHECK_EQ(shapes(good), 0);
    CHECK(shapes({good[0], good[1]}) != 0);
    check_logged(node, {"inputs"});
    Extents other = good;
    other[0].push_back(1);
    CHECK(shapes(other) != 0);
    check_logged(node, {"X", "5", "4"});
    for (const size_t input : {size_t{1}, size_t{2}}) {
      other = good;
      ++other[input][1];
      CHECK(shapes(other) != 0);
      log_lines.clear();  // which of two tensors that contradict each other is named is the operator's business
    }

    const auto configure = [&](const Extents& extents, DataType type, TensorFormat format) {
      std::vector<DynamicPluginTensorDesc> tensors;
      for (const auto& of_input : extents) {
        DynamicPluginTensorDesc tensor{};
        tensor.desc = {dims_of(of_input), type, TensorFormat::kLINEAR, 0};
        for (int axis = 0; axis < tensor.desc.dims.nbDims; ++axis) tensor.desc.dims.d[axis] = -1;
        tensor.min = tensor.opt = tensor.max = dims_of(of_input);
        tensors.push_back(tensor);
      }
      DynamicPluginTensorDesc output{};
      output.desc.type = type;
      output.desc.format = format;
      const int32_t status = build(plugin).configurePlugin(tensors.data(), count, &output, 1);
      const size_t bytes = build(plugin).getWorkspaceSize(tensors.data(), count, &output, 1);
      CHECK_EQ(status == 0, bytes < size_t{1} << 40);
      return status;
    };
    CHECK_EQ(configure(good, DataType::kHALF, TensorFormat::kLINEAR), 0);
    CHECK(configure(good, DataType::kINT8, TensorFormat::kLINEAR) != 0);
    CHECK_EQ(log_lines.size(), size_t{2});
    log_lines.pop_back();
    check_logged(node, {"element", "type"});
    other = good;
    ++other[0][0];
    CHECK(configure(other, DataType::kFLOAT, TensorFormat::kLINEAR) != 0);
    CHECK_EQ(log_lines.size(), size_t{2});
    log_lines.pop_back();
    check_logged(node, {"dim"});

    // A context that is handed other extents than those of the operator.
    const auto change = [&](const std::vector<int64_t>& of_x) {
      std::vector<nvinfer1::PluginTensorDesc> tensors;
      for (const auto& of_input : good) tensors.push_back({dims_of(of_input), DataType::kFLOAT, TensorFormat::kLINEAR, 0});
      tensors[0].dims = dims_of(of_x);
      const nvinfer1::PluginTensorDesc output{{}, DataType::kFLOAT, TensorFormat::kLINEAR, 0};
      return runtime(plugin).onShapeChange(tensors.data(), count, &output, 1);
    };
    CHECK_EQ(change(good[0]), 0);
    CHECK(change(other[0]) != 0);
    check_logged(node, {"dim"});
  }
  // The number of its inputs is not known to it before it is told.
  const Node node = deform_conv_node(random);
  const Plugin plugin = create(node, node.fields, TensorRTPhase::kRUNTIME);
  CHECK(runtime(plugin).enqueue(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr) != 0);
  check_logged(node, {"onShapeChange"});
}

inline void test_refusals() {
  Random random(7);
  TestFinder11 since_11;
  TestFinder10 until_10;
  // TensorRT for RTX 1.7.1 has the newer kind.
  for (const int32_t version : {110100, 110400, 10701, 100300, 101600}) {
    tensorrt_version = version;
    const Note note("as TensorRT ", version);
    if (version >= 110000 || version < 100000)
      setLoggerFinder(reinterpret_cast<nvinfer1::ILoggerFinder*>(&since_11));
    else
      setLoggerFinder(reinterpret_cast<nvinfer1::ILoggerFinder*>(&until_10));
    test_fields(random);
    test_tensors(random);
  }
  setLoggerFinder(nullptr);
}

}  // namespace dyndeploy::test

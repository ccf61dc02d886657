// Runs an engine that `dyndeploy build` made, on inputs of ones.
//
//   run_engine bundles/digits/engines/tensorrt/*.engine libdyndeploy_trt.so image=8x1x32x32
//   run_engine bundles/digits/engines/tensorrt/*.engine -                     the plugins are inside (--embed-plugins)
//
// An input of variable shape that is not given has the shape that the engine was built to be fastest at. For dyndeploy one
// call matters: loadLibrary, before the engine is loaded.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

class Logger : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity <= Severity::kWARNING) std::fprintf(stderr, "%s\n", message);
    if (severity <= Severity::kERROR) failed = true;
  }
  bool failed = false;
};

void check(bool ok, const std::string& what) {
  if (!ok) throw std::runtime_error(what);
}

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

struct Freed {
  void operator()(void* memory) const { cudaFree(memory); }
};
using DeviceMemory = std::unique_ptr<void, Freed>;

DeviceMemory allocate(size_t size) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, std::max<size_t>(size, 1)), "cudaMalloc");
  return DeviceMemory(memory);
}

struct Element {
  size_t size;
  std::vector<uint8_t> one;  // its bytes
};

Element element_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return {4, {0x00, 0x00, 0x80, 0x3f}};
    case nvinfer1::DataType::kHALF:
      return {2, {0x00, 0x3c}};
    case nvinfer1::DataType::kBF16:
      return {2, {0x80, 0x3f}};
    default:
      throw std::runtime_error("this sample has float32, float16 and bfloat16 tensors");
  }
}

nvinfer1::Dims dims_of(const std::string& text) {
  nvinfer1::Dims dims{};
  std::stringstream stream(text);
  for (std::string extent; std::getline(stream, extent, 'x');) {
    check(dims.nbDims < nvinfer1::Dims::MAX_DIMS, text + " has too many dims");
    dims.d[dims.nbDims++] = std::stoll(extent);
  }
  return dims;
}

std::string text_of(const nvinfer1::Dims& dims) {
  std::string text;
  for (int32_t i = 0; i < dims.nbDims; ++i) text += (i ? "x" : "") + std::to_string(dims.d[i]);
  return text;
}

size_t count_of(const nvinfer1::Dims& dims) {
  size_t count = 1;
  for (int32_t i = 0; i < dims.nbDims; ++i) count *= static_cast<size_t>(dims.d[i]);
  return count;
}

std::vector<char> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  check(file.good(), "there is no file " + path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void run(const std::string& path, const std::string& plugins, const std::map<std::string, std::string>& shapes) {
  Logger logger;
  nvinfer1::IRuntime* const made = nvinfer1::createInferRuntime(logger);
  // Without a driver TensorRT 11 logs an error and gives out something all the same, which is not even to be deleted.
  check(made != nullptr && !logger.failed, "TensorRT does not start: is there a GPU, and a driver that is new enough?");
  const std::unique_ptr<nvinfer1::IRuntime> runtime(made);
  if (plugins == "-")
    runtime->setEngineHostCodeAllowed(true);  // what is inside the engine is code of the host
  else
    check(runtime->getPluginRegistry().loadLibrary(plugins.c_str()) != nullptr, plugins + " is not taken");
  const std::vector<char> content = read(path);
  const std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime->deserializeCudaEngine(content.data(), content.size()));
  check(engine != nullptr, path + " is not loaded");
  const std::unique_ptr<nvinfer1::IExecutionContext> context(engine->createExecutionContext());
  check(context != nullptr, "there is no memory for a context");

  std::vector<std::string> inputs, outputs;
  for (int32_t i = 0; i < engine->getNbIOTensors(); ++i) {
    const char* const name = engine->getIOTensorName(i);
    (engine->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT ? inputs : outputs).push_back(name);
  }
  for (const auto& [name, shape] : shapes)
    check(std::find(inputs.begin(), inputs.end(), name) != inputs.end(), "there is no input " + name);
  for (const std::string& name : inputs) {
    const auto given = shapes.find(name);
    const nvinfer1::Dims dims =
        given != shapes.end() ? dims_of(given->second)
                              : engine->getProfileShape(name.c_str(), 0, nvinfer1::OptProfileSelector::kOPT);
    check(context->setInputShape(name.c_str(), dims), name + " cannot be " + text_of(dims));
  }
  check(context->inferShapes(0, nullptr) == 0, "nothing says the shapes of the outputs");

  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  std::map<std::string, DeviceMemory> memory;
  for (const std::vector<std::string>* side : {&inputs, &outputs}) {
    for (const std::string& name : *side) {
      const Element element = element_of(engine->getTensorDataType(name.c_str()));
      const size_t count = count_of(context->getTensorShape(name.c_str()));
      DeviceMemory& place = memory[name] = allocate(count * element.size);
      check(context->setTensorAddress(name.c_str(), place.get()), "no address for " + name);
      if (side == &outputs) continue;
      std::vector<uint8_t> ones;
      for (size_t i = 0; i < count; ++i) ones.insert(ones.end(), element.one.begin(), element.one.end());
      check(cudaMemcpyAsync(place.get(), ones.data(), ones.size(), cudaMemcpyHostToDevice, stream), "copy");
    }
  }
  check(context->enqueueV3(stream), "the engine does not run");
  check(cudaStreamSynchronize(stream), "the run");

  for (const std::string& name : outputs) {
    const nvinfer1::Dims dims = context->getTensorShape(name.c_str());
    std::printf("%s [%s]", name.c_str(), text_of(dims).c_str());
    if (engine->getTensorDataType(name.c_str()) == nvinfer1::DataType::kFLOAT) {
      std::vector<float> values(std::min<size_t>(count_of(dims), 4));
      check(cudaMemcpy(values.data(), memory[name].get(), 4 * values.size(), cudaMemcpyDeviceToHost), "copy");
      for (const float value : values) std::printf(" %g", static_cast<double>(value));
    }
    std::printf("\n");
  }
  memory.clear();
  cudaStreamDestroy(stream);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) {
    std::fprintf(stderr, "usage: %s ENGINE libdyndeploy_trt.so|- [INPUT=4x3x32x32 …]\n", arguments[0]);
    return 2;
  }
  try {
    std::map<std::string, std::string> shapes;
    for (int i = 3; i < count; ++i) {
      const std::string given = arguments[i];
      const size_t equals = given.find('=');
      check(equals != std::string::npos, given + " is not INPUT=SHAPE");
      shapes[given.substr(0, equals)] = given.substr(equals + 1);
    }
    run(arguments[1], arguments[2], shapes);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

// Runs a model with dyndeploy's operators in a C++ program, on inputs of ones.
//
//   run_model libonnxruntime.so libdyndeploy_ort.so model.onnx batch=8
//
// The program is not linked with ONNX Runtime but opens the library that it is given, so that one from a Python wheel
// (onnxruntime/capi/libonnxruntime.so.1.*) will do. For dyndeploy one call matters: RegisterCustomOpsLibrary_V2.
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "abi/onnxruntime.h"  // ONNX Runtime's C API; the official header, if it is on the include path

namespace {

const OrtApi* api = nullptr;

void check(OrtStatus* status) {
  if (!status) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error(message);
}

// The C API gives out what it makes in its last argument.
template <class T, class... Parameters, class... Arguments>
T* make(OrtStatusPtr (*function)(Parameters...) noexcept, Arguments... arguments) {
  T* made = nullptr;
  check(function(arguments..., &made));
  return made;
}

// What was made, and how it is released.
template <class T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

const OrtApi* open_onnxruntime(const char* path) {
  void* const library = dlopen(path, RTLD_NOW);
  if (!library) throw std::runtime_error(dlerror());
  using GetBase = const OrtApiBase* (*)();
  const auto get_base = reinterpret_cast<GetBase>(dlsym(library, "OrtGetApiBase"));
  if (!get_base) throw std::runtime_error(dlerror());
  const OrtApi* const found = get_base()->GetApi(18);
  if (!found) throw std::runtime_error("ONNX Runtime is older than 1.18");
  std::printf("ONNX Runtime %s\n", get_base()->GetVersionString());
  return found;
}

std::vector<int64_t> shape_of(const OrtTensorTypeAndShapeInfo* info) {
  size_t rank;
  check(api->GetDimensionsCount(info, &rank));
  std::vector<int64_t> shape(rank);
  check(api->GetDimensions(info, shape.data(), rank));
  return shape;
}

ONNXTensorElementDataType type_of(const OrtTensorTypeAndShapeInfo* info) {
  ONNXTensorElementDataType type;
  check(api->GetTensorElementType(info, &type));
  return type;
}

// Ones for an input of the model. A dim without a size in the model has the one given for its name, or 1.
Owned<OrtValue> ones(const OrtSession* session, size_t input, const std::map<std::string, int64_t>& sizes,
                     OrtAllocator* allocator) {
  const Owned<OrtTypeInfo> type_info(make<OrtTypeInfo>(api->SessionGetInputTypeInfo, session, input),
                                     api->ReleaseTypeInfo);
  const auto* const info = make<const OrtTensorTypeAndShapeInfo>(api->CastTypeInfoToTensorInfo, type_info.get());
  std::vector<int64_t> shape = shape_of(info);
  std::vector<const char*> names(shape.size());
  check(api->GetSymbolicDimensions(info, names.data(), names.size()));
  size_t count = 1;
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] < 0) shape[axis] = sizes.count(names[axis]) ? sizes.at(names[axis]) : 1;
    count *= static_cast<size_t>(shape[axis]);
  }
  const ONNXTensorElementDataType type = type_of(info);
  Owned<OrtValue> value(make<OrtValue>(api->CreateTensorAsOrtValue, allocator, shape.data(), shape.size(), type),
                        api->ReleaseValue);
  void* const data = make<void>(api->GetTensorMutableData, value.get());
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT:
      std::fill_n(static_cast<float*>(data), count, 1.0f);
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16:
      std::fill_n(static_cast<uint16_t*>(data), count, uint16_t{0x3c00});
      break;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16:
      std::fill_n(static_cast<uint16_t*>(data), count, uint16_t{0x3f80});
      break;
    default:
      throw std::runtime_error("this sample makes float32, float16 and bfloat16 inputs");
  }
  return value;
}

void print(const std::string& name, OrtValue* value) {
  const Owned<OrtTensorTypeAndShapeInfo> info(make<OrtTensorTypeAndShapeInfo>(api->GetTensorTypeAndShape, value),
                                              api->ReleaseTensorTypeAndShapeInfo);
  std::printf("%s [", name.c_str());
  for (const char* separator = ""; const int64_t extent : shape_of(info.get())) {
    std::printf("%s%lld", separator, static_cast<long long>(extent));
    separator = ", ";
  }
  std::printf("]");
  size_t count;
  check(api->GetTensorShapeElementCount(info.get(), &count));
  if (type_of(info.get()) == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    const auto* const data = static_cast<const float*>(make<void>(api->GetTensorMutableData, value));
    for (size_t i = 0; i < std::min<size_t>(count, 4); ++i) std::printf(" %g", static_cast<double>(data[i]));
  }
  std::printf("\n");
}

// SessionGetInputName or SessionGetOutputName.
template <class Function>
std::string name_of(Function function, const OrtSession* session, size_t index, OrtAllocator* allocator) {
  char* const given = make<char>(function, session, index, allocator);
  std::string name = given;
  check(api->AllocatorFree(allocator, given));
  return name;
}

void run(const char* operators, const char* model, const std::map<std::string, int64_t>& sizes) {
  const Owned<OrtEnv> env(make<OrtEnv>(api->CreateEnv, ORT_LOGGING_LEVEL_WARNING, "run_model"), api->ReleaseEnv);
  const Owned<OrtSessionOptions> options(make<OrtSessionOptions>(api->CreateSessionOptions),
                                         api->ReleaseSessionOptions);
  check(api->RegisterCustomOpsLibrary_V2(options.get(), operators));  // from here on the operators are known
  const Owned<OrtSession> session(make<OrtSession>(api->CreateSession, env.get(), model, options.get()),
                                  api->ReleaseSession);
  auto* const allocator = make<OrtAllocator>(api->GetAllocatorWithDefaultOptions);  // not ours to release

  size_t inputs, outputs;
  check(api->SessionGetInputCount(session.get(), &inputs));
  check(api->SessionGetOutputCount(session.get(), &outputs));
  std::vector<std::string> names;  // first those of the inputs, then those of the outputs; `values` likewise
  std::vector<Owned<OrtValue>> values;
  for (size_t i = 0; i < inputs; ++i) {
    names.push_back(name_of(api->SessionGetInputName, session.get(), i, allocator));
    values.push_back(ones(session.get(), i, sizes, allocator));
  }
  for (size_t i = 0; i < outputs; ++i)
    names.push_back(name_of(api->SessionGetOutputName, session.get(), i, allocator));

  std::vector<const char*> name_pointers;
  std::vector<OrtValue*> value_pointers;
  for (const auto& name : names) name_pointers.push_back(name.c_str());
  for (const auto& value : values) value_pointers.push_back(value.get());
  value_pointers.resize(inputs + outputs);  // the outputs are nullptr: ONNX Runtime makes them
  check(api->Run(session.get(), nullptr, name_pointers.data(), value_pointers.data(), inputs,
                 name_pointers.data() + inputs, outputs, value_pointers.data() + inputs));
  for (size_t i = inputs; i < inputs + outputs; ++i) {
    values.emplace_back(value_pointers[i], api->ReleaseValue);
    print(names[i], values[i].get());
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 4) {
    std::fprintf(stderr, "usage: %s libonnxruntime.so libdyndeploy_ort.so model.onnx [DIM=SIZE …]\n", arguments[0]);
    return 2;
  }
  try {
    std::map<std::string, int64_t> sizes;
    for (int i = 4; i < count; ++i) {
      const std::string given = arguments[i];
      const size_t equals = given.find('=');
      if (equals == std::string::npos) throw std::runtime_error(given + " is not DIM=SIZE");
      sizes[given.substr(0, equals)] = std::stoll(given.substr(equals + 1));
    }
    api = open_onnxruntime(arguments[1]);
    run(arguments[2], arguments[3], sizes);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

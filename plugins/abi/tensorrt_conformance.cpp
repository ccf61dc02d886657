// Compares the declarations of abi/tensorrt.h with the official headers: names as linkers see them, sizes, offsets,
// values of enumerations, and where in a class's table each virtual function stands.
//
//   cmake -S plugins -B build/conformance -DTENSORRT_INCLUDE_DIR=…/include && cmake --build build/conformance --target
//   tensorrt_conformance && build/conformance/tensorrt_conformance
//
// prints both sides of every comparison, and fails where they differ.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <type_traits>
#include <typeinfo>

namespace own {
#define DYNDEPLOY_OWN_DECLARATIONS
#include "abi/tensorrt.h"
}  // namespace own

#include <NvInferRuntime.h>

namespace {

int compared = 0, different = 0;

void compare(const std::string& what, long long mine, long long official) {
  ++compared;
  different += mine != official;
  std::printf("%-72s %6lld %6lld%s\n", what.c_str(), mine, official, mine == official ? "" : "   DIFFERENT");
}

// Of a function: a virtual one has no address in its pointer to member, but the offset of its place in the table, plus
// 1 (Itanium C++ ABI, 2.3).
template <class Function>
long long slot(Function function) {
  static_assert(std::is_member_function_pointer_v<Function>);
  intptr_t parts[2];
  static_assert(sizeof parts == sizeof function);
  std::memcpy(parts, &function, sizeof parts);
  return parts[0] % 2 == 1 ? static_cast<long long>((parts[0] - 1) / static_cast<intptr_t>(sizeof(void*))) : -1;
}

// Types are alike when a call passes them alike: the same numbers, enumerations of one size, addresses of anything.
template <class A, class B>
constexpr bool alike() {
  if constexpr ((std::is_pointer_v<A> || std::is_reference_v<A>) && (std::is_pointer_v<B> || std::is_reference_v<B>))
    return true;
  else if constexpr (std::is_enum_v<A> && std::is_enum_v<B>)
    return std::is_same_v<std::underlying_type_t<A>, std::underlying_type_t<B>>;
  else if constexpr (std::is_class_v<A> && std::is_class_v<B>)
    return sizeof(A) == sizeof(B) && std::is_trivially_copyable_v<A> && std::is_trivially_copyable_v<B>;
  else
    return std::is_same_v<A, B>;
}

template <class Mine, class Official>
constexpr bool kSameFunction = false;
#define SAME_FUNCTION(qualifiers, official_qualifiers)                                               \
  template <class C, class D, class R, class S, class... A, class... B>                              \
  constexpr bool kSameFunction<R (C::*)(A...) qualifiers, S (D::*)(B...) official_qualifiers> = [] { \
    if constexpr (sizeof...(A) == sizeof...(B))                                                      \
      return alike<R, S>() && (alike<A, B>() && ...);                                                \
    else                                                                                             \
      return false;                                                                                  \
  }()
SAME_FUNCTION(noexcept, noexcept);
SAME_FUNCTION(const noexcept, const noexcept);
SAME_FUNCTION(, );
SAME_FUNCTION(const, const);

// The name by which libraries tell types apart. Mine are in namespace own.
template <class Mine, class Official>
void compare_names(const char* what) {
  std::string mine = typeid(Mine).name();
  if (const size_t at = mine.find("3own"); at != std::string::npos) mine.erase(at, 4);
  const std::string official = typeid(Official).name();
  compare(std::string("name of ") + what + ": " + official, mine == official, 1);
}

#define CLASS(type)                                                            \
  compare("sizeof " #type, sizeof(own::nvinfer1::type), sizeof(nvinfer1::type)); \
  compare_names<own::nvinfer1::type, nvinfer1::type>(#type)

#define MEMBER(type, member)                                                                           \
  static_assert(sizeof(own::nvinfer1::type::member) == sizeof(nvinfer1::type::member));                \
  compare("offset of " #type "::" #member, offsetof(own::nvinfer1::type, member), offsetof(nvinfer1::type, member))

#define VIRTUAL(type, function)                                                                              \
  static_assert(kSameFunction<decltype(&own::nvinfer1::type::function), decltype(&nvinfer1::type::function)>); \
  compare("slot of " #type "::" #function, slot(&own::nvinfer1::type::function), slot(&nvinfer1::type::function))

#define VALUE(type, name)                                                                                  \
  compare(#type "::" #name, static_cast<long long>(own::nvinfer1::type::name), \
          static_cast<long long>(nvinfer1::type::name))

void compare_values() {
  VALUE(DataType, kFLOAT);
  VALUE(DataType, kHALF);
  VALUE(DataType, kINT8);
  VALUE(DataType, kINT32);
  VALUE(DataType, kBOOL);
  VALUE(DataType, kUINT8);
  VALUE(DataType, kFP8);
  VALUE(DataType, kBF16);
  VALUE(DataType, kINT64);
  VALUE(TensorFormat, kLINEAR);
  VALUE(TensorFormat, kCHW2);
  VALUE(TensorFormat, kHWC8);
  VALUE(TensorFormat, kCHW4);
  VALUE(TensorFormat, kCHW16);
  VALUE(TensorFormat, kCHW32);
  VALUE(TensorFormat, kHWC);
  VALUE(PluginFieldType, kFLOAT16);
  VALUE(PluginFieldType, kFLOAT32);
  VALUE(PluginFieldType, kFLOAT64);
  VALUE(PluginFieldType, kINT8);
  VALUE(PluginFieldType, kINT16);
  VALUE(PluginFieldType, kINT32);
  VALUE(PluginFieldType, kCHAR);
  VALUE(PluginFieldType, kDIMS);
  VALUE(PluginFieldType, kUNKNOWN);
  VALUE(PluginFieldType, kBF16);
  VALUE(PluginFieldType, kINT64);
  VALUE(TensorRTPhase, kBUILD);
  VALUE(TensorRTPhase, kRUNTIME);
  VALUE(PluginCapabilityType, kCORE);
  VALUE(PluginCapabilityType, kBUILD);
  VALUE(PluginCapabilityType, kRUNTIME);
  VALUE(APILanguage, kCPP);
  VALUE(APILanguage, kPYTHON);
  VALUE(DimensionOperation, kSUM);
  VALUE(DimensionOperation, kPROD);
  VALUE(DimensionOperation, kMAX);
  VALUE(DimensionOperation, kMIN);
  VALUE(DimensionOperation, kSUB);
  VALUE(DimensionOperation, kEQUAL);
  VALUE(DimensionOperation, kLESS);
  VALUE(DimensionOperation, kFLOOR_DIV);
  VALUE(DimensionOperation, kCEIL_DIV);
  VALUE(Dims, MAX_DIMS);
  VALUE(IPluginV3OneBuild, kDEFAULT_FORMAT_COMBINATION_LIMIT);
  compare("ILogger::Severity::kERROR", own::dyndeploy::tensorrt::abi::kError,
          static_cast<long long>(nvinfer1::ILogger::Severity::kERROR));
}

void compare_structs() {
  CLASS(Dims64);
  MEMBER(Dims64, nbDims);
  MEMBER(Dims64, d);
  CLASS(PluginTensorDesc);
  MEMBER(PluginTensorDesc, dims);
  MEMBER(PluginTensorDesc, type);
  MEMBER(PluginTensorDesc, format);
  MEMBER(PluginTensorDesc, scale);
  CLASS(DynamicPluginTensorDesc);
  MEMBER(DynamicPluginTensorDesc, desc);
  MEMBER(DynamicPluginTensorDesc, min);
  MEMBER(DynamicPluginTensorDesc, max);
  MEMBER(DynamicPluginTensorDesc, opt);
  CLASS(PluginField);
  MEMBER(PluginField, name);
  MEMBER(PluginField, data);
  MEMBER(PluginField, type);
  MEMBER(PluginField, length);
  CLASS(PluginFieldCollection);
  MEMBER(PluginFieldCollection, nbFields);
  MEMBER(PluginFieldCollection, fields);
  CLASS(InterfaceInfo);
  MEMBER(InterfaceInfo, kind);
  MEMBER(InterfaceInfo, major);
  MEMBER(InterfaceInfo, minor);
  CLASS(DimsExprs);
  MEMBER(DimsExprs, nbDims);
  MEMBER(DimsExprs, d);
}

void compare_expressions() {
  CLASS(IDimensionExpr);
  CLASS(IExprBuilder);
  CLASS(apiv::VDimensionExpr);
  VIRTUAL(apiv::VDimensionExpr, isConstant);
  VIRTUAL(apiv::VDimensionExpr, getConstantValue);
  VIRTUAL(apiv::VDimensionExpr, isSizeTensor);
  CLASS(apiv::VExprBuilder);
  VIRTUAL(apiv::VExprBuilder, constant);
  VIRTUAL(apiv::VExprBuilder, operation);
  VIRTUAL(apiv::VExprBuilder, declareSizeTensor);
}

// Where the implementation's address lies in an expression. Both are protected.
struct OwnExpression : own::nvinfer1::IExprBuilder {
  static size_t implementation() { return offset_of(&OwnExpression::mImpl); }
  template <class M>
  static size_t offset_of(M member) {
    size_t offset;
    std::memcpy(&offset, &member, sizeof offset);
    return offset;
  }
};
struct OfficialExpression : nvinfer1::IExprBuilder {
  static size_t implementation() { return OwnExpression::offset_of(&OfficialExpression::mImpl); }
};

void compare_interfaces() {
  CLASS(IVersionedInterface);
  VIRTUAL(IVersionedInterface, getAPILanguage);
  VIRTUAL(IVersionedInterface, getInterfaceInfo);
  CLASS(IPluginCapability);
  CLASS(IPluginV3);
  VIRTUAL(IPluginV3, getInterfaceInfo);
  VIRTUAL(IPluginV3, getCapabilityInterface);
  VIRTUAL(IPluginV3, clone);
  CLASS(IPluginV3OneCore);
  VIRTUAL(IPluginV3OneCore, getPluginName);
  VIRTUAL(IPluginV3OneCore, getPluginVersion);
  VIRTUAL(IPluginV3OneCore, getPluginNamespace);
  CLASS(v_1_0::IPluginV3OneBuild);
  VIRTUAL(IPluginV3OneBuild, configurePlugin);
  VIRTUAL(IPluginV3OneBuild, getOutputDataTypes);
  VIRTUAL(IPluginV3OneBuild, getOutputShapes);
  VIRTUAL(IPluginV3OneBuild, supportsFormatCombination);
  VIRTUAL(IPluginV3OneBuild, getNbOutputs);
  VIRTUAL(IPluginV3OneBuild, getWorkspaceSize);
  VIRTUAL(IPluginV3OneBuild, getValidTactics);
  VIRTUAL(IPluginV3OneBuild, getNbTactics);
  VIRTUAL(IPluginV3OneBuild, getTimingCacheID);
  VIRTUAL(IPluginV3OneBuild, getFormatCombinationLimit);
  VIRTUAL(IPluginV3OneBuild, getMetadataString);
  CLASS(IPluginV3OneRuntime);
  VIRTUAL(IPluginV3OneRuntime, setTactic);
  VIRTUAL(IPluginV3OneRuntime, onShapeChange);
  VIRTUAL(IPluginV3OneRuntime, enqueue);
  VIRTUAL(IPluginV3OneRuntime, attachToContext);
  VIRTUAL(IPluginV3OneRuntime, getFieldsToSerialize);
  CLASS(IPluginCreatorInterface);
  CLASS(IPluginCreatorV3One);
  VIRTUAL(IPluginCreatorV3One, createPlugin);
  VIRTUAL(IPluginCreatorV3One, getFieldNames);
  VIRTUAL(IPluginCreatorV3One, getPluginName);
  VIRTUAL(IPluginCreatorV3One, getPluginVersion);
  VIRTUAL(IPluginCreatorV3One, getPluginNamespace);
  compare("offset of IExprBuilder::mImpl", static_cast<long long>(OwnExpression::implementation()),
          static_cast<long long>(OfficialExpression::implementation()));
}

// What an interface says of itself, by which TensorRT knows what it may call. The functions look at no object, and the
// classes are abstract: there is none.
template <class Mine, class Official>
void compare_answers(const char* what) {
  alignas(Official) static const std::byte nothing[sizeof(Official)]{};
  const auto mine = reinterpret_cast<const Mine*>(nothing)->Mine::getInterfaceInfo();
  const auto official = reinterpret_cast<const Official*>(nothing)->Official::getInterfaceInfo();
  compare(std::string("kind of ") + what + ": " + official.kind, std::strcmp(mine.kind, official.kind), 0);
  compare(std::string("version of ") + what, mine.major * 100 + mine.minor, official.major * 100 + official.minor);
}
#define ANSWERS(type) compare_answers<own::nvinfer1::type, nvinfer1::type>(#type)

void compare_all_answers() {
  ANSWERS(IPluginV3);
  ANSWERS(IPluginV3OneCore);
  ANSWERS(v_1_0::IPluginV3OneBuild);
  ANSWERS(IPluginV3OneRuntime);
  ANSWERS(IPluginCreatorV3One);
}

void compare_loggers() {
#if NV_TENSORRT_MAJOR >= 11
  using own::dyndeploy::tensorrt::abi::Logger11;
  using own::dyndeploy::tensorrt::abi::LoggerFinder11;
  compare("slot of ILogger::log", slot(&Logger11::log), slot(&nvinfer1::ILogger::log));
  compare("slot of ILoggerFinder::findLogger", slot(&LoggerFinder11::findLogger),
          slot(&nvinfer1::ILoggerFinder::findLogger));
#else
  using own::dyndeploy::tensorrt::abi::Logger10;
  using own::dyndeploy::tensorrt::abi::LoggerFinder10;
  compare("slot of ILogger::log", slot(&Logger10::log), slot(&nvinfer1::ILogger::log));
  compare("slot of ILoggerFinder::findLogger", slot(&LoggerFinder10::findLogger),
          slot(&nvinfer1::ILoggerFinder::findLogger));
#endif
}

}  // namespace

int main() {
  std::printf("%-72s %6s %6s\n", "", "own", NV_TENSORRT_MAJOR >= 11 ? "11" : "10");
  compare_values();
  compare_structs();
  compare_expressions();
  compare_interfaces();
  compare_all_answers();
  compare_loggers();
  std::printf("TensorRT %d.%d.%d: %d compared, %d different\n", NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, NV_TENSORRT_PATCH,
              compared, different);
  return different != 0;
}

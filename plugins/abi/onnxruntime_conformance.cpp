// Compares the declarations of abi/onnxruntime.h with the official header, member by member, while it compiles.
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace own {
#define DYNDEPLOY_OWN_DECLARATIONS
#include "abi/onnxruntime.h"
}  // namespace own

#include <onnxruntime_c_api.h>

// The official functions' results must be used, which is no part of their types.
#pragma GCC diagnostic ignored "-Wignored-attributes"

// The version that plugins/common/onnxruntime_op.h asks for has to be in it.
static_assert(ORT_API_VERSION >= 18);

namespace {

// Functions are alike when they pass the same things: the same numbers, enumerations of one size, pointers to anything.
// The two headers' structs and enumerations are different types to the compiler.
template <class A, class B>
constexpr bool alike() {
  if constexpr (std::is_pointer_v<A> && std::is_pointer_v<B>)
    return true;
  else if constexpr (std::is_enum_v<A> && std::is_enum_v<B>)
    return sizeof(A) == sizeof(B);
  else
    return std::is_same_v<A, B>;
}

template <class Own, class Official>
constexpr bool kSameFunction = false;
template <class R, class... A, class S, class... B>
constexpr bool kSameFunction<R (*)(A...), S (*)(B...)> = [] {
  if constexpr (sizeof...(A) == sizeof...(B))
    return alike<R, S>() && (alike<A, B>() && ...);
  else
    return false;
}();
// `noexcept` may stand on either side.
template <class R, class... A, class S, class... B>
constexpr bool kSameFunction<R (*)(A...) noexcept, S (*)(B...) noexcept> = kSameFunction<R (*)(A...), S (*)(B...)>;

#define SAME(type, member)                                                    \
  static_assert(offsetof(own::type, member) == offsetof(::type, member));     \
  static_assert(kSameFunction<decltype(own::type::member), decltype(::type::member)>)

SAME(OrtApi, CreateStatus);
SAME(OrtApi, GetErrorMessage);
SAME(OrtApi, CreateEnv);
SAME(OrtApi, CreateSession);
SAME(OrtApi, Run);
SAME(OrtApi, CreateSessionOptions);
SAME(OrtApi, CreateCustomOpDomain);
SAME(OrtApi, CustomOpDomain_Add);
SAME(OrtApi, AddCustomOpDomain);
SAME(OrtApi, SessionGetInputCount);
SAME(OrtApi, SessionGetOutputCount);
SAME(OrtApi, SessionGetInputTypeInfo);
SAME(OrtApi, SessionGetInputName);
SAME(OrtApi, SessionGetOutputName);
SAME(OrtApi, CreateTensorAsOrtValue);
SAME(OrtApi, GetTensorMutableData);
SAME(OrtApi, CastTypeInfoToTensorInfo);
SAME(OrtApi, GetTensorElementType);
SAME(OrtApi, GetDimensionsCount);
SAME(OrtApi, GetDimensions);
SAME(OrtApi, GetSymbolicDimensions);
SAME(OrtApi, GetTensorShapeElementCount);
SAME(OrtApi, GetTensorTypeAndShape);
SAME(OrtApi, AllocatorAlloc);
SAME(OrtApi, AllocatorFree);
SAME(OrtApi, GetAllocatorWithDefaultOptions);
SAME(OrtApi, KernelInfoGetAttribute_float);
SAME(OrtApi, KernelInfoGetAttribute_int64);
SAME(OrtApi, KernelContext_GetInput);
SAME(OrtApi, KernelContext_GetOutput);
SAME(OrtApi, ReleaseEnv);
SAME(OrtApi, ReleaseStatus);
SAME(OrtApi, ReleaseSession);
SAME(OrtApi, ReleaseValue);
SAME(OrtApi, ReleaseTypeInfo);
SAME(OrtApi, ReleaseTensorTypeAndShapeInfo);
SAME(OrtApi, ReleaseSessionOptions);
SAME(OrtApi, ReleaseCustomOpDomain);
SAME(OrtApi, ReleaseAllocator);
SAME(OrtApi, KernelInfoGetAttributeArray_int64);
SAME(OrtApi, RegisterCustomOpsLibrary_V2);
SAME(OrtApi, KernelInfo_GetNodeName);
SAME(OrtApi, KernelInfoGetConstantInput_tensor);
SAME(OrtApi, KernelContext_ParallelFor);
SAME(OrtApi, KernelInfoGetAllocator);

SAME(OrtApiBase, GetApi);
SAME(OrtApiBase, GetVersionString);

static_assert(offsetof(own::OrtCustomOp, version) == offsetof(::OrtCustomOp, version));
SAME(OrtCustomOp, GetName);
SAME(OrtCustomOp, GetExecutionProviderType);
SAME(OrtCustomOp, GetInputType);
SAME(OrtCustomOp, GetInputTypeCount);
SAME(OrtCustomOp, GetOutputType);
SAME(OrtCustomOp, GetOutputTypeCount);
SAME(OrtCustomOp, KernelDestroy);
SAME(OrtCustomOp, GetInputCharacteristic);
SAME(OrtCustomOp, GetOutputCharacteristic);
SAME(OrtCustomOp, GetInputMemoryType);
SAME(OrtCustomOp, CreateKernelV2);
SAME(OrtCustomOp, KernelComputeV2);
SAME(OrtCustomOp, GetStartVersion);
SAME(OrtCustomOp, GetEndVersion);

#define SAME_VALUE(name) static_assert(static_cast<int>(own::name) == static_cast<int>(::name))

SAME_VALUE(ORT_FAIL);
SAME_VALUE(ORT_INVALID_ARGUMENT);
SAME_VALUE(ORT_NOT_IMPLEMENTED);
SAME_VALUE(ORT_LOGGING_LEVEL_WARNING);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
SAME_VALUE(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16);
SAME_VALUE(OrtMemTypeDefault);
SAME_VALUE(INPUT_OUTPUT_REQUIRED);

}  // namespace

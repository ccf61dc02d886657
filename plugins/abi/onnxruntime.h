// The part of ONNX Runtime's C API that is used here. The official header is taken when it is on the include path.
//
// The wheels of ONNX Runtime come without headers, and a compiler shall be enough to build this library. The structs
// below have the names and the layout of the official ones, which only ever grow at their end. What is not used is a
// gap with a slot number. onnxruntime_conformance.cpp compares all of it with the official header.
#pragma once

#if __has_include(<onnxruntime_c_api.h>) && !defined(DYNDEPLOY_OWN_DECLARATIONS)

#include <onnxruntime_c_api.h>

#else

#include <cstddef>
#include <cstdint>

struct OrtAllocator;
struct OrtCustomOpDomain;
struct OrtEnv;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;

using OrtStatusPtr = OrtStatus*;  // nullptr is success

enum OrtErrorCode { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2, ORT_NOT_IMPLEMENTED = 9 };

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_WARNING = 2 };

// ONNX's numbers of the element types.
enum ONNXTensorElementDataType {
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 = 10,
  ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 = 16,
};

enum OrtMemType { OrtMemTypeDefault = 0 };

enum OrtCustomOpInputOutputCharacteristic { INPUT_OUTPUT_REQUIRED = 0 };

struct OrtApi {
  OrtStatusPtr (*CreateStatus)(OrtErrorCode code, const char* message) noexcept;  // slot 0
  void* gap_1;
  const char* (*GetErrorMessage)(const OrtStatus* status) noexcept;  // 2
  OrtStatusPtr (*CreateEnv)(OrtLoggingLevel level, const char* name, OrtEnv** out) noexcept;
  void* gap_4[3];
  OrtStatusPtr (*CreateSession)(const OrtEnv* env, const char* path, const OrtSessionOptions* options,
                                OrtSession** out) noexcept;  // 7
  void* gap_8;
  OrtStatusPtr (*Run)(OrtSession* session, const OrtRunOptions* options, const char* const* input_names,
                      const OrtValue* const* inputs, size_t input_count, const char* const* output_names,
                      size_t output_count, OrtValue** outputs) noexcept;  // 9
  OrtStatusPtr (*CreateSessionOptions)(OrtSessionOptions** out) noexcept;
  void* gap_11[15];
  OrtStatusPtr (*CreateCustomOpDomain)(const char* name, OrtCustomOpDomain** out) noexcept;  // 26
  OrtStatusPtr (*CustomOpDomain_Add)(OrtCustomOpDomain* domain, const struct OrtCustomOp* op) noexcept;
  OrtStatusPtr (*AddCustomOpDomain)(OrtSessionOptions* options, OrtCustomOpDomain* domain) noexcept;
  void* gap_29;
  OrtStatusPtr (*SessionGetInputCount)(const OrtSession* session, size_t* out) noexcept;  // 30
  OrtStatusPtr (*SessionGetOutputCount)(const OrtSession* session, size_t* out) noexcept;
  void* gap_32;
  OrtStatusPtr (*SessionGetInputTypeInfo)(const OrtSession* session, size_t index, OrtTypeInfo** out) noexcept;  // 33
  void* gap_34[2];
  OrtStatusPtr (*SessionGetInputName)(const OrtSession* session, size_t index, OrtAllocator* allocator,
                                      char** out) noexcept;  // 36
  OrtStatusPtr (*SessionGetOutputName)(const OrtSession* session, size_t index, OrtAllocator* allocator,
                                       char** out) noexcept;
  void* gap_38[10];
  OrtStatusPtr (*CreateTensorAsOrtValue)(OrtAllocator* allocator, const int64_t* extents, size_t rank,
                                         ONNXTensorElementDataType type, OrtValue** out) noexcept;  // 48
  void* gap_49[2];
  OrtStatusPtr (*GetTensorMutableData)(OrtValue* value, void** out) noexcept;  // 51
  void* gap_52[3];
  OrtStatusPtr (*CastTypeInfoToTensorInfo)(const OrtTypeInfo* info,
                                           const OrtTensorTypeAndShapeInfo** out) noexcept;  // 55
  void* gap_56[4];
  OrtStatusPtr (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo* info,
                                       ONNXTensorElementDataType* out) noexcept;  // 60
  OrtStatusPtr (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info, size_t* out) noexcept;
  OrtStatusPtr (*GetDimensions)(const OrtTensorTypeAndShapeInfo* info, int64_t* extents, size_t rank) noexcept;
  OrtStatusPtr (*GetSymbolicDimensions)(const OrtTensorTypeAndShapeInfo* info, const char** names,
                                        size_t rank) noexcept;
  OrtStatusPtr (*GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo* info, size_t* out) noexcept;
  OrtStatusPtr (*GetTensorTypeAndShape)(const OrtValue* value, OrtTensorTypeAndShapeInfo** out) noexcept;  // 65
  void* gap_66[9];
  OrtStatusPtr (*AllocatorAlloc)(OrtAllocator* allocator, size_t bytes, void** out) noexcept;  // 75
  OrtStatusPtr (*AllocatorFree)(OrtAllocator* allocator, void* memory) noexcept;
  void* gap_77;
  OrtStatusPtr (*GetAllocatorWithDefaultOptions)(OrtAllocator** out) noexcept;  // 78
  void* gap_79[6];
  OrtStatusPtr (*KernelInfoGetAttribute_float)(const OrtKernelInfo* info, const char* name, float* out) noexcept;  // 85
  OrtStatusPtr (*KernelInfoGetAttribute_int64)(const OrtKernelInfo* info, const char* name, int64_t* out) noexcept;
  void* gap_87[3];
  OrtStatusPtr (*KernelContext_GetInput)(const OrtKernelContext* context, size_t index,
                                         const OrtValue** out) noexcept;  // 90
  OrtStatusPtr (*KernelContext_GetOutput)(OrtKernelContext* context, size_t index, const int64_t* extents, size_t rank,
                                          OrtValue** out) noexcept;
  void (*ReleaseEnv)(OrtEnv* env);
  void (*ReleaseStatus)(OrtStatus* status);
  void* gap_94;
  void (*ReleaseSession)(OrtSession* session);  // 95
  void (*ReleaseValue)(OrtValue* value);
  void* gap_97;
  void (*ReleaseTypeInfo)(OrtTypeInfo* info);  // 98
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo* info);
  void (*ReleaseSessionOptions)(OrtSessionOptions* options);
  void (*ReleaseCustomOpDomain)(OrtCustomOpDomain* domain);  // 101
  void* gap_102[30];
  void (*ReleaseAllocator)(OrtAllocator* allocator);  // 132
  void* gap_133[30];
  OrtStatusPtr (*KernelInfoGetAttributeArray_int64)(const OrtKernelInfo* info, const char* name, int64_t* out,
                                                    size_t* count) noexcept;  // 163
  void* gap_164[64];
  OrtStatusPtr (*RegisterCustomOpsLibrary_V2)(OrtSessionOptions* options, const char* path) noexcept;  // 228
  void* gap_229[15];
  OrtStatusPtr (*KernelInfo_GetNodeName)(const OrtKernelInfo* info, char* out, size_t* bytes) noexcept;  // 244
  void* gap_245[4];
  OrtStatusPtr (*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo* info, size_t index, int* is_constant,
                                                    const OrtValue** out) noexcept;  // 249
  void* gap_250[24];
  OrtStatusPtr (*KernelContext_ParallelFor)(const OrtKernelContext* context, void (*function)(void*, size_t),
                                            size_t total, size_t batches, void* data) noexcept;  // 274
  void* gap_275[3];
  OrtStatusPtr (*KernelInfoGetAllocator)(const OrtKernelInfo* info, OrtMemType type,
                                         OrtAllocator** out) noexcept;  // 278, since version 18
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version) noexcept;  // nullptr: this ONNX Runtime is older than that
  const char* (*GetVersionString)() noexcept;
};

struct OrtCustomOp {
  uint32_t version;  // of the API that the op was written for: by it ONNX Runtime knows how far to read
  void* gap_1;
  const char* (*GetName)(const OrtCustomOp* op);
  const char* (*GetExecutionProviderType)(const OrtCustomOp* op);
  ONNXTensorElementDataType (*GetInputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp* op);
  ONNXTensorElementDataType (*GetOutputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp* op);
  void* gap_8;
  void (*KernelDestroy)(void* kernel);
  OrtCustomOpInputOutputCharacteristic (*GetInputCharacteristic)(const OrtCustomOp* op, size_t index);
  OrtCustomOpInputOutputCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp* op, size_t index);
  OrtMemType (*GetInputMemoryType)(const OrtCustomOp* op, size_t index);
  void* gap_13[4];
  OrtStatusPtr (*CreateKernelV2)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel);
  OrtStatusPtr (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  void* gap_19;
  int (*GetStartVersion)(const OrtCustomOp* op);
  int (*GetEndVersion)(const OrtCustomOp* op);
  void* gap_22[4];
};

#endif

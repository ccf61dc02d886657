// An operator of the C ABI as a custom op of ONNX Runtime.
//
// plugins/<op>/onnxruntime.cpp describes its operator with a struct:
//
//   struct Op {
//     using Attributes = dyndeploy_op;
//     static constexpr const char* kName = "OpType";
//     static constexpr int kInputs = 5;  // where there are not four
//     static constexpr int kWeight = 2;  // the input that can be packed beforehand, or kNoWeight
//     static void read(NodeAttributes& node, Attributes& a) { node("strides", a.strides); … }
//     static constexpr auto output = dyndeploy_op_output;
//     static constexpr auto workspace = dyndeploy_op_cpu_forward_workspace;
//     static constexpr auto forward = dyndeploy_op_cpu_forward;
//     static constexpr auto packed_bytes = dyndeploy_op_cpu_packed_bytes;  // with a weight
//     static constexpr auto pack = dyndeploy_op_cpu_pack;
//   };
//
// A node becomes a Kernel when a session is made: it reads its attributes and packs a constant weight. `compute` may be
// called by several threads at once, and changes nothing in it. Nothing throws.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <utility>

#include "abi/onnxruntime.h"
#include "common/api.h"
#include "common/cpu/threads.h"

namespace dyndeploy::onnxruntime {

// The oldest that has all functions used here. A newer ONNX Runtime gives it out as well.
inline constexpr uint32_t kApiVersion = 18;
// Of an operator that does not say how many: kInputs.
inline constexpr int kUsualInputs = 4;
template <class Op>
constexpr int input_count() {
  if constexpr (requires { Op::kInputs; })
    return Op::kInputs;
  else
    return kUsualInputs;
}
inline constexpr int kNoWeight = -1;

// Return early when `expression` is not a success.
#define DYNDEPLOY_ORT_TRY(expression) \
  do {                                \
    if (OrtStatus* const dyndeploy_ort_try_status = (expression)) return dyndeploy_ort_try_status; \
  } while (false)

inline OrtStatus* checked(const OrtApi& api, dyndeploy_status status) {
  if (status == DYNDEPLOY_OK) return nullptr;
  return api.CreateStatus(status == DYNDEPLOY_UNSUPPORTED ? ORT_NOT_IMPLEMENTED : ORT_INVALID_ARGUMENT,
                          dyndeploy_message());
}

// What went wrong when a session was made, with the node that it went wrong in: ONNX Runtime names only nodes that run.
inline OrtStatus* with_node(const OrtApi& api, const OrtKernelInfo* info, const char* op, OrtStatus* status) {
  char node[256] = "";
  size_t bytes = sizeof node;
  if (OrtStatus* const failure = api.KernelInfo_GetNodeName(info, node, &bytes)) api.ReleaseStatus(failure);
  char message[1024];
  std::snprintf(message, sizeof message, "%s node '%s': %s", op, node, api.GetErrorMessage(status));
  api.ReleaseStatus(status);
  return api.CreateStatus(ORT_INVALID_ARGUMENT, message);
}

// Reads the attributes that Op::read names, up to the first one that is not there.
class NodeAttributes {
 public:
  NodeAttributes(const OrtApi& api, const OrtKernelInfo* info) : api_(api), info_(info) {}

  void operator()(const char* name, int64_t& value) {
    if (!status_) status_ = api_.KernelInfoGetAttribute_int64(info_, name, &value);
  }
  void operator()(const char* name, float& value) {
    if (!status_) status_ = api_.KernelInfoGetAttribute_float(info_, name, &value);
  }
  template <size_t N>
  void operator()(const char* name, int64_t (&values)[N]) {
    size_t count = 0;
    if (!status_) status_ = api_.KernelInfoGetAttributeArray_int64(info_, name, nullptr, &count);
    if (!status_ && count != N) status_ = checked(api_, bad_argument("%s has %zu values, not %zu", name, count, N));
    if (!status_) status_ = api_.KernelInfoGetAttributeArray_int64(info_, name, values, &count);
  }
  OrtStatus* status() const { return status_; }

 private:
  const OrtApi& api_;
  const OrtKernelInfo* info_;
  OrtStatus* status_ = nullptr;
};

// A dense tensor; of more than four dims only the first four are filled in, which the operator refuses.
inline void set_dense_strides(dyndeploy_tensor& tensor) {
  int64_t stride = 1;
  for (int axis = std::min(tensor.rank, 4); axis-- > 0;) {
    tensor.strides[axis] = stride;
    stride *= std::max<int64_t>(tensor.extents[axis], 1);
  }
}

inline OrtStatus* view(const OrtApi& api, const OrtValue* value, dyndeploy_tensor& tensor) {
  OrtTensorTypeAndShapeInfo* info;
  DYNDEPLOY_ORT_TRY(api.GetTensorTypeAndShape(value, &info));
  ONNXTensorElementDataType type{};
  size_t rank = 0;
  OrtStatus* status = api.GetTensorElementType(info, &type);
  if (!status) status = api.GetDimensionsCount(info, &rank);
  if (!status) status = api.GetDimensions(info, tensor.extents, std::min<size_t>(rank, 4));
  api.ReleaseTensorTypeAndShapeInfo(info);
  DYNDEPLOY_ORT_TRY(status);
  tensor.rank = static_cast<int32_t>(rank);
  tensor.dtype = type;  // both are ONNX's numbers
  set_dense_strides(tensor);
  return api.GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data);
}

// The threads of the session in whose call a kernel runs.
class SessionThreads {
 public:
  SessionThreads(const OrtApi& api, const OrtKernelContext* context) : api_(api), context_(context) {}
  ~SessionThreads() {
    if (failure_) api_.ReleaseStatus(failure_);
  }
  SessionThreads(const SessionThreads&) = delete;

  // How many threads the session has cannot be asked. One per CPU is the most that is worth it; a session of fewer runs
  // some lanes after others, when these have left them no tasks.
  dyndeploy_threads threads() { return {sizeof(dyndeploy_threads), cpus(), this, run}; }

  OrtStatus* take_failure() { return std::exchange(failure_, nullptr); }

 private:
  struct Lanes {
    void (*lane)(void*, int32_t);
    void* work;
  };

  static void run(void* pool, int32_t count, void (*lane)(void*, int32_t), void* work) {
    auto& self = *static_cast<SessionThreads*>(pool);
    if (self.failure_) return;
    Lanes lanes{lane, work};
    const auto function = [](void* data, size_t index) {
      const auto& call = *static_cast<Lanes*>(data);
      call.lane(call.work, static_cast<int32_t>(index));
    };
    self.failure_ = self.api_.KernelContext_ParallelFor(self.context_, function, static_cast<size_t>(count), 0, &lanes);
  }

  const OrtApi& api_;
  const OrtKernelContext* context_;
  OrtStatus* failure_ = nullptr;
};

// Memory of the session's arena for the time of one call.
class Scratch {
 public:
  Scratch(const OrtApi& api, OrtAllocator* allocator) : api_(api), allocator_(allocator) {}
  ~Scratch() {
    if (!memory_) return;
    if (OrtStatus* const status = api_.AllocatorFree(allocator_, memory_)) api_.ReleaseStatus(status);
  }
  Scratch(const Scratch&) = delete;

  OrtStatus* allocate(uint64_t bytes) { return bytes ? api_.AllocatorAlloc(allocator_, bytes, &memory_) : nullptr; }
  void* memory() const { return memory_; }

 private:
  const OrtApi& api_;
  OrtAllocator* allocator_;
  void* memory_ = nullptr;
};

template <class Op>
class Kernel {
 public:
  explicit Kernel(const OrtApi& api) : api_(api) { attributes_.size = sizeof attributes_; }
  ~Kernel() {
    if (allocator_) api_.ReleaseAllocator(allocator_);
    std::free(packed_);
  }
  Kernel(const Kernel&) = delete;

  OrtStatus* prepare(const OrtKernelInfo* info) {
    NodeAttributes node(api_, info);
    Op::read(node, attributes_);
    DYNDEPLOY_ORT_TRY(node.status());
    DYNDEPLOY_ORT_TRY(api_.KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator_));
    if constexpr (Op::kWeight != kNoWeight) DYNDEPLOY_ORT_TRY(pack(info));
    return nullptr;
  }

  OrtStatus* compute(OrtKernelContext* context) const {
    dyndeploy_tensor inputs[input_count<Op>()]{};
    for (int i = 0; i < input_count<Op>(); ++i) {
      const OrtValue* value;
      DYNDEPLOY_ORT_TRY(api_.KernelContext_GetInput(context, static_cast<size_t>(i), &value));
      DYNDEPLOY_ORT_TRY(view(api_, value, inputs[i]));
    }
    dyndeploy_tensor output{};
    output.rank = 4;
    output.dtype = inputs[0].dtype;
    DYNDEPLOY_ORT_TRY(checked(api_, Op::output(&attributes_, inputs, output.extents)));
    set_dense_strides(output);
    OrtValue* value;
    DYNDEPLOY_ORT_TRY(api_.KernelContext_GetOutput(context, 0, output.extents, 4, &value));
    DYNDEPLOY_ORT_TRY(api_.GetTensorMutableData(value, &output.data));

    SessionThreads session(api_, context);
    const dyndeploy_threads threads = session.threads();
    dyndeploy_resources resources{};
    resources.size = sizeof resources;
    resources.threads = &threads;
    resources.packed = packed_;
    resources.packed_bytes = packed_bytes_;
    DYNDEPLOY_ORT_TRY(
        checked(api_, Op::workspace(&attributes_, inputs, &output, &resources, &resources.workspace_bytes)));
    Scratch scratch(api_, allocator_);
    DYNDEPLOY_ORT_TRY(scratch.allocate(resources.workspace_bytes));
    resources.workspace = scratch.memory();
    DYNDEPLOY_ORT_TRY(checked(api_, Op::forward(&attributes_, inputs, &output, &resources)));
    return session.take_failure();
  }

 private:
  // The packed weight is a copy: ONNX Runtime keeps the initializer too.
  OrtStatus* pack(const OrtKernelInfo* info) {
    int is_constant = 0;
    const OrtValue* value = nullptr;
    DYNDEPLOY_ORT_TRY(api_.KernelInfoGetConstantInput_tensor(info, Op::kWeight, &is_constant, &value));
    if (!is_constant) return nullptr;
    dyndeploy_tensor weight{};
    DYNDEPLOY_ORT_TRY(view(api_, value, weight));
    DYNDEPLOY_ORT_TRY(checked(api_, Op::packed_bytes(&attributes_, &weight, &packed_bytes_)));
    if (!packed_bytes_) return nullptr;
    packed_ = std::aligned_alloc(64, (packed_bytes_ + 63) / 64 * 64);
    if (!packed_) return api_.CreateStatus(ORT_FAIL, "there is no memory left for the packed weights");
    return checked(api_, Op::pack(&attributes_, &weight, packed_, packed_bytes_));
  }

  const OrtApi& api_;
  typename Op::Attributes attributes_{};
  OrtAllocator* allocator_ = nullptr;
  void* packed_ = nullptr;
  uint64_t packed_bytes_ = 0;
};

// The operator for tensors of one element type.
template <class Op>
struct CustomOp : OrtCustomOp {
  const ONNXTensorElementDataType type;

  explicit CustomOp(ONNXTensorElementDataType element) : OrtCustomOp{}, type(element) {
    const auto element_type = [](const OrtCustomOp* op, size_t) { return static_cast<const CustomOp*>(op)->type; };
    const auto required = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    const auto first_version = [](const OrtCustomOp*) { return 1; };
    version = kApiVersion;
    GetName = [](const OrtCustomOp*) { return Op::kName; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
    GetInputType = element_type;
    GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return input_count<Op>(); };
    GetInputCharacteristic = required;
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetOutputType = element_type;
    GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
    GetOutputCharacteristic = required;
    GetStartVersion = first_version;
    GetEndVersion = first_version;
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info,
                        void** kernel) -> OrtStatusPtr {
      auto* const made = new (std::nothrow) Kernel<Op>(*api);
      if (!made) return api->CreateStatus(ORT_FAIL, "there is no memory left for a kernel");
      if (OrtStatus* const status = made->prepare(info)) {
        delete made;
        return with_node(*api, info, Op::kName, status);
      }
      *kernel = made;
      return nullptr;
    };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) -> OrtStatusPtr {
      return static_cast<const Kernel<Op>*>(kernel)->compute(context);
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel<Op>*>(kernel); };
  }
};

// Adds the operator to a domain, for all element types. ONNX Runtime takes a registered operator before a function body
// of its name even where the operator lacks the type, and then does not load the model.
template <class Op>
OrtStatus* add(const OrtApi& api, OrtCustomOpDomain* domain) {
  static const CustomOp<Op> ops[] = {CustomOp<Op>(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT),
                                     CustomOp<Op>(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16),
                                     CustomOp<Op>(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16)};
  for (const auto& op : ops) DYNDEPLOY_ORT_TRY(api.CustomOpDomain_Add(domain, &op));
  return nullptr;
}

OrtStatus* add_dcnv2(const OrtApi& api, OrtCustomOpDomain* domain);
OrtStatus* add_ddf(const OrtApi& api, OrtCustomOpDomain* domain);
OrtStatus* add_drconv(const OrtApi& api, OrtCustomOpDomain* domain);
OrtStatus* add_drconv_mix(const OrtApi& api, OrtCustomOpDomain* domain);
OrtStatus* add_dgc(const OrtApi& api, OrtCustomOpDomain* domain);

}  // namespace dyndeploy::onnxruntime

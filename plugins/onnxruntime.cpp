// The one function that libdyndeploy_ort.so exports. ONNX Runtime calls it when a program registers the library.
#include <mutex>
#include <new>
#include <vector>

#include "common/onnxruntime_op.h"

namespace dyndeploy::onnxruntime {
namespace {

// A domain has to outlive all sessions that use it, and nobody says when the last one is gone. So there is one until the
// process ends: one per copy of ONNX Runtime in the process, because it belongs to the copy that made it.
class Domains {
 public:
  OrtStatus* get(const OrtApi& api, OrtCustomOpDomain** domain) {
    const std::lock_guard lock(mutex_);
    for (const Entry& entry : entries_)
      if (entry.api == &api) {
        *domain = entry.domain;
        return nullptr;
      }
    entries_.reserve(entries_.size() + 1);  // throws before there is something to lose
    OrtCustomOpDomain* made;
    DYNDEPLOY_ORT_TRY(api.CreateCustomOpDomain("dyndeploy", &made));
    OrtStatus* status = nullptr;
    for (const auto add_op : {add_dcnv2, add_ddf, add_drconv, add_drconv_mix, add_dgc})
      if (!status) status = add_op(api, made);
    if (status) {
      api.ReleaseCustomOpDomain(made);
      return status;
    }
    entries_.push_back({&api, made});
    *domain = made;
    return nullptr;
  }

 private:
  struct Entry {
    const OrtApi* api;
    OrtCustomOpDomain* domain;
  };
  std::mutex mutex_;
  std::vector<Entry> entries_;
};

}  // namespace
}  // namespace dyndeploy::onnxruntime

extern "C" DYNDEPLOY_API OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  using namespace dyndeploy::onnxruntime;
  const OrtApi* const api = base->GetApi(kApiVersion);
  if (!api) {
    // Every version has CreateStatus.
    const OrtApi* const oldest = base->GetApi(1);
    return oldest ? oldest->CreateStatus(ORT_FAIL, "dyndeploy needs ONNX Runtime 1.18 or newer") : nullptr;
  }
  try {
    static auto* const domains = new Domains;  // never destroyed: ONNX Runtime may be unloaded by then
    OrtCustomOpDomain* domain = nullptr;
    DYNDEPLOY_ORT_TRY(domains->get(*api, &domain));
    return api->AddCustomOpDomain(options, domain);
  } catch (const std::bad_alloc&) {
    return api->CreateStatus(ORT_FAIL, "there is no memory left to register the operators");
  }
}

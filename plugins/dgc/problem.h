// What the C ABI hands to the kernels once everything is checked, and the kernels of every instruction set.
#pragma once

#include "common/isa.h"
#include "common/problem.h"
#include "common/threads.h"
#include "dgc/kernels.h"

namespace dyndeploy {
namespace dgc {

// Order of inputs[].
enum { kX, kSaliency, kW, kB };

struct Problem {
  Window window;
  int64_t N, C, O;
  int64_t heads, inactive;
  float threshold;
  bool shuffle, relu;
  int32_t dtype;

  int64_t head_outputs() const { return O / heads; }
  // Of the product of one head that keeps everything: tap-major, then channels.
  int64_t depth() const { return window.taps() * C; }
};

}  // namespace dgc

// Of a Problem only what follows from W and the attributes is looked at by the first three.
DYNDEPLOY_DECLARE(uint64_t dgc_packed_bytes(const dgc::Problem& problem))
DYNDEPLOY_DECLARE(void dgc_pack(const dgc::Problem& problem, const dyndeploy_tensor& W, void* packed))
DYNDEPLOY_DECLARE(bool dgc_is_packed(const dgc::Problem& problem, const void* packed, uint64_t bytes))

DYNDEPLOY_DECLARE(uint64_t dgc_forward_workspace(const dgc::Problem& problem, const dyndeploy_resources* resources))
DYNDEPLOY_DECLARE(void dgc_forward(const dgc::Problem& problem, const dyndeploy_tensor* inputs,
                                   const dyndeploy_tensor& Y, const dyndeploy_resources* resources))

}  // namespace dyndeploy

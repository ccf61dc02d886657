// A call with filters that are mixed of banks: problem.h, and what it has besides.
#pragma once

#include "drconv/problem.h"

namespace dyndeploy::drconv::mix {

// Order of inputs[].
enum { kX, kShare, kBanks, kGuide, kB, kCount };

inline constexpr const char* kInputs[] = {"X", "share", "banks", "guide", "B"};

struct Problem {
  drconv::Problem convolution;
  int64_t bases;

  MapExtents of_output() const { return convolution.of_output(); }
  // Of a filter bank, and so of one region's filters.
  int64_t filter_elements() const { return convolution.O * convolution.depth(); }
};

// The filters of one sample are no more than a tensor may have.
dyndeploy_status resolve(const dyndeploy_drconv* a, const dyndeploy_tensor* inputs, Problem* problem);

// Filters of some samples, dense: [samples, regions * outputs, depth].
dyndeploy_tensor filters_of(const Problem& problem, int64_t samples, int64_t outputs, int32_t dtype, void* data);

// Samples first, first + 1, … of a tensor whose first dim they are.
dyndeploy_tensor samples_of(const dyndeploy_tensor& tensor, int64_t first, int64_t count);

}  // namespace dyndeploy::drconv::mix

// Extents of an output as TensorRT wants to have them: as expressions in the extents of the inputs.
#pragma once

#include <array>

#include "abi/tensorrt.h"

namespace dyndeploy::tensorrt {

// An extent, or a computation with extents. Where TensorRT cannot build one, all that is computed from it is missing,
// too.
class Extent {
 public:
  Extent() = default;
  Extent(nvinfer1::IExprBuilder& builder, const nvinfer1::IDimensionExpr* value) : builder_(&builder), value_(value) {}

  const nvinfer1::IDimensionExpr* get() const { return value_; }

  friend Extent operator+(Extent a, Extent b) { return a.with(nvinfer1::DimensionOperation::kSUM, b); }
  friend Extent operator*(Extent a, Extent b) { return a.with(nvinfer1::DimensionOperation::kPROD, b); }
  // Rounds down.
  friend Extent operator/(Extent a, Extent b) { return a.with(nvinfer1::DimensionOperation::kFLOOR_DIV, b); }
  friend Extent operator-(Extent a, Extent b) { return a.with(nvinfer1::DimensionOperation::kSUB, b); }

  friend Extent operator+(Extent a, int64_t b) { return b == 0 ? a : a + a.constant(b); }
  friend Extent operator*(Extent a, int64_t b) { return b == 1 ? a : a * a.constant(b); }
  friend Extent operator/(Extent a, int64_t b) { return b == 1 ? a : a / a.constant(b); }

 private:
  Extent constant(int64_t value) const { return builder_ ? Extent(*builder_, builder_->constant(value)) : Extent(); }
  Extent with(nvinfer1::DimensionOperation operation, Extent other) const {
    if (!value_ || !other.value_) return {};
    return {*builder_, builder_->operation(operation, *value_, *other.value_)};
  }

  nvinfer1::IExprBuilder* builder_ = nullptr;
  const nvinfer1::IDimensionExpr* value_ = nullptr;
};

// Of a tensor of up to four dims.
using Shape = std::array<Extent, 4>;

// Ho or Wo, by the arithmetic of a convolution. `axis`: 0 is H, 1 is W.
template <class Attributes>
Extent window_extent(const Attributes& a, int axis, Extent size, Extent taps) {
  const int64_t stride = a.strides[axis], dilation = a.dilations[axis], pads = a.pads[axis] + a.pads[axis + 2];
  return (size + (pads + dilation - 1) - taps * dilation) / stride + 1;
}
template <class Attributes>
Extent window_extent(const Attributes& a, int axis, Extent size, int64_t taps) {
  const int64_t reach = a.dilations[axis] * (taps - 1) + 1;
  return (size + (a.pads[axis] + a.pads[axis + 2] - reach)) / a.strides[axis] + 1;
}

}  // namespace dyndeploy::tensorrt

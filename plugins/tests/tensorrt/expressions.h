// Expressions in extents, as TensorRT has them while it puts a network together: some extents are numbers, some are not
// known before a call.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "abi/tensorrt.h"
#include "check.h"

namespace dyndeploy::test {

// An extent: a number, or something that is computed from extents that get their numbers later.
class Expression final : public nvinfer1::IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
 public:
  Expression(bool constant, std::function<int64_t()> value) : constant_(constant), value_(std::move(value)) {
    mImpl = this;
  }
  int64_t value() const { return value_(); }

 private:
  bool isConstant() const override { return constant_; }
  int64_t getConstantValue() const override {
    CHECK(constant_);  // nobody may ask before it is known
    return value_();
  }
  bool isSizeTensor() const override { return false; }

  bool constant_;
  std::function<int64_t()> value_;
};

class ExpressionBuilder final : public nvinfer1::IExprBuilder, private nvinfer1::apiv::VExprBuilder {
 public:
  ExpressionBuilder() { mImpl = this; }

  // An extent of an input: `value` is read when it is asked for.
  const Expression* extent(const int64_t& value, bool known) {
    return keep(known, [&value] { return value; });
  }

 private:
  using Operation = nvinfer1::DimensionOperation;

  const nvinfer1::IDimensionExpr* constant(int64_t value) override {
    return keep(true, [value] { return value; });
  }
  const nvinfer1::IDimensionExpr* operation(Operation op, const nvinfer1::IDimensionExpr& first,
                                            const nvinfer1::IDimensionExpr& second) override {
    const auto &a = static_cast<const Expression&>(first), &b = static_cast<const Expression&>(second);
    return keep(first.isConstant() && second.isConstant(), [op, &a, &b] { return compute(op, a.value(), b.value()); });
  }
  const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr&,
                                                    const nvinfer1::IDimensionExpr&) override {
    CHECK(!"no operator has an output whose size depends on values");
    return nullptr;
  }

  static int64_t compute(Operation op, int64_t a, int64_t b) {
    switch (op) {
      case Operation::kSUM:
        return a + b;
      case Operation::kPROD:
        return a * b;
      case Operation::kSUB:
        return a - b;
      case Operation::kFLOOR_DIV:
        CHECK(a >= 0 && b > 0);
        return a / b;
      default:
        CHECK(!"an operation that no operator needs");
        return 0;
    }
  }
  const Expression* keep(bool known, std::function<int64_t()> value) {
    all_.push_back(std::make_unique<Expression>(known, std::move(value)));
    return all_.back().get();
  }

  std::vector<std::unique_ptr<Expression>> all_;
};

}  // namespace dyndeploy::test

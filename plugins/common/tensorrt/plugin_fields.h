// The attributes of an operator as fields of a TensorRT plugin: one table serves the names that the parser asks for,
// reading what it found, what an engine keeps, and reading that again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "abi/tensorrt.h"
#include "common/api.h"

namespace dyndeploy::tensorrt {

// Filled by plugins/<op>/tensorrt.cpp, which calls it for every attribute of its struct `a`:
//
//   node("strides", a.strides, 1);       at least 1, each of the two
//   node("sigmoid", a.sigmoid, 0, 1);    0 or 1
//   node("mask_scale", a.mask_scale);    any float
//
// The order is that of the attributes in the operator's OpSpec; ranges are the same as there.
class AttributeTable {
 public:
  static constexpr int kMost = 16;         // attributes
  static constexpr int kMostNumbers = 32;  // in all of them
  static constexpr int kMostBytes = 192;   // of the struct

  explicit AttributeTable(const void* attributes) : base_(static_cast<const std::byte*>(attributes)) {}

  void operator()(const char* name, const int64_t& value, int64_t low = kLeast, int64_t high = kLargest) {
    add({name, offset(&value), 1, false, false, low, high});
  }
  void operator()(const char* name, const float& value) { add({name, offset(&value), 1, true, false, 0, 0}); }
  template <size_t N>
  void operator()(const char* name, const int64_t (&values)[N], int64_t low = kLeast, int64_t high = kLargest) {
    add({name, offset(values), N, false, false, low, high});
  }
  // From here on: attributes that a node may leave out, as those of ONNX's own operators. They keep what the struct
  // has.
  void optional_from_here() { optional_ = true; }

  // Reads all fields into the struct. Refused, with a message: a field that is not an attribute or comes twice, one of
  // another type, length or range, and an attribute that is left out.
  dyndeploy_status read(const nvinfer1::PluginFieldCollection& fields, void* attributes) const;

  // Names and types, without data: what a creator can be asked for. Into `fields`, of kMost.
  nvinfer1::PluginFieldCollection names(nvinfer1::PluginField* fields) const;

  // What `read` makes the same struct of. `fields` points into `numbers`: both belong to the caller, kMost and
  // kMostNumbers of them.
  union Number {
    int32_t integer;
    float real;
  };
  nvinfer1::PluginFieldCollection write(const void* attributes, nvinfer1::PluginField* fields, Number* numbers) const;

  // All names with their values, for a cache of what was timed.
  void write_text(const void* attributes, char* text, size_t bytes) const;

 private:
  // TensorRT's parser hands integers over in 32 bits, so an engine keeps no more.
  static constexpr int64_t kLeast = std::numeric_limits<int32_t>::min(), kLargest = std::numeric_limits<int32_t>::max();

  struct Attribute {
    const char* name;
    size_t offset;
    int count;
    bool real;
    bool optional;
    int64_t low, high;
  };

  size_t offset(const void* value) const { return static_cast<size_t>(static_cast<const std::byte*>(value) - base_); }
  void add(Attribute attribute) {
    attribute.optional = optional_;
    attributes_[count_++] = attribute;
  }
  const Attribute* find(const char* name) const;
  static dyndeploy_status read_one(const Attribute& attribute, const nvinfer1::PluginField& field, std::byte* to);

  const std::byte* base_;
  Attribute attributes_[kMost]{};
  int count_ = 0;
  bool optional_ = false;
};

}  // namespace dyndeploy::tensorrt

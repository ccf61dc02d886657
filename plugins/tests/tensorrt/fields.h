// Fields of a plugin with memory of their own, as TensorRT's parser makes them from a node and as an engine keeps them.
#pragma once

#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "abi/tensorrt.h"
#include "check.h"

namespace dyndeploy::test {

class Fields {
 public:
  using Type = nvinfer1::PluginFieldType;

  Fields() = default;
  // Of what getFieldsToSerialize gave out, whose plugin may be gone later.
  explicit Fields(const nvinfer1::PluginFieldCollection& fields) {
    for (int32_t i = 0; i < fields.nbFields; ++i) {
      const nvinfer1::PluginField& field = fields.fields[i];
      CHECK(field.type == Type::kINT32 || field.type == Type::kFLOAT32);
      add(field.name, field.type, field.data, static_cast<size_t>(field.length) * 4, field.length);
    }
  }

  // The parser has integers in 32 bits.
  Fields& ints(const char* name, const std::vector<int64_t>& values) {
    const std::vector<int32_t> narrow(values.begin(), values.end());
    return add(name, Type::kINT32, narrow.data(), narrow.size() * sizeof(int32_t), static_cast<int32_t>(narrow.size()));
  }
  Fields& real(const char* name, float value) { return add(name, Type::kFLOAT32, &value, sizeof value, 1); }
  Fields& wide(const char* name, const std::vector<int64_t>& values) {
    return add(name, Type::kINT64, values.data(), values.size() * sizeof(int64_t), static_cast<int32_t>(values.size()));
  }

  Fields without(const std::string& name) const {
    Fields rest;
    for (const Field& f : all_)
      if (f.name != name) rest.add(f.name.c_str(), f.type, f.bytes.data(), f.bytes.size(), f.length);
    return rest;
  }

  // Points into this object.
  std::vector<nvinfer1::PluginField> list() const {
    std::vector<nvinfer1::PluginField> list;
    for (const Field& f : all_) list.push_back({f.name.c_str(), f.bytes.data(), f.type, f.length});
    return list;
  }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const Field& f : all_) names.push_back(f.name);
    return names;
  }

  bool operator==(const Fields& other) const {
    return std::equal(all_.begin(), all_.end(), other.all_.begin(), other.all_.end(), [](const Field& a, const Field& b) {
      return a.name == b.name && a.type == b.type && a.length == b.length && a.bytes == b.bytes;
    });
  }

 private:
  struct Field {
    std::string name;
    Type type;
    std::vector<unsigned char> bytes;
    int32_t length;
  };

  Fields& add(const char* name, Type type, const void* data, size_t bytes, int32_t length) {
    const auto* const begin = static_cast<const unsigned char*>(data);
    all_.push_back({name, type, {begin, begin + bytes}, length});
    return *this;
  }

  std::deque<Field> all_;
};

}  // namespace dyndeploy::test

#include "common/tensorrt/plugin_fields.h"

#include <cinttypes>
#include <cstdio>
#include <cstring>

#include "common/status.h"

namespace dyndeploy::tensorrt {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

namespace {

template <class T>
T load(const void* from, int index) {
  T value;
  std::memcpy(&value, static_cast<const std::byte*>(from) + static_cast<size_t>(index) * sizeof(T), sizeof value);
  return value;
}

template <class T>
void store(std::byte* to, int index, T value) {
  std::memcpy(to + static_cast<size_t>(index) * sizeof(T), &value, sizeof value);
}

}  // namespace

const AttributeTable::Attribute* AttributeTable::find(const char* name) const {
  for (int i = 0; name && i < count_; ++i)
    if (std::strcmp(attributes_[i].name, name) == 0) return &attributes_[i];
  return nullptr;
}

dyndeploy_status AttributeTable::read(const PluginFieldCollection& fields, void* attributes) const {
  if (fields.nbFields < 0 || (fields.nbFields > 0 && !fields.fields)) return bad_argument("the fields are not there");
  bool found[kMost] = {};
  for (int i = 0; i < fields.nbFields; ++i) {
    const PluginField& field = fields.fields[i];
    const Attribute* const attribute = find(field.name);
    if (!attribute) return bad_argument("unknown attribute %s", field.name ? field.name : "without a name");
    bool& seen = found[attribute - attributes_];
    if (seen) return bad_argument("attribute %s is there twice", field.name);
    seen = true;
    DYNDEPLOY_TRY(read_one(*attribute, field, static_cast<std::byte*>(attributes) + attribute->offset));
  }
  for (int i = 0; i < count_; ++i)
    if (!found[i] && !attributes_[i].optional) return bad_argument("attribute %s is missing", attributes_[i].name);
  return DYNDEPLOY_OK;
}

dyndeploy_status AttributeTable::read_one(const Attribute& attribute, const PluginField& field, std::byte* to) {
  const char* const name = attribute.name;
  if (field.length != attribute.count)
    return bad_argument("attribute %s has %d values, not %d", name, field.length, attribute.count);
  if (!field.data) return bad_argument("attribute %s has no values", name);
  if (attribute.real) {
    if (field.type != PluginFieldType::kFLOAT32)
      return bad_argument("attribute %s has field type %d, not float32", name, static_cast<int>(field.type));
    store(to, 0, load<float>(field.data, 0));
    return DYNDEPLOY_OK;
  }
  const bool wide = field.type == PluginFieldType::kINT64;
  if (!wide && field.type != PluginFieldType::kINT32)
    return bad_argument("attribute %s has field type %d, not int32 or int64", name, static_cast<int>(field.type));
  for (int i = 0; i < attribute.count; ++i) {
    const int64_t value = wide ? load<int64_t>(field.data, i) : load<int32_t>(field.data, i);
    if (value < attribute.low || value > attribute.high)
      return bad_argument("attribute %s = %" PRId64 " is outside %" PRId64 "..%" PRId64, name, value, attribute.low,
                          attribute.high);
    store(to, i, value);
  }
  return DYNDEPLOY_OK;
}

PluginFieldCollection AttributeTable::names(PluginField* fields) const {
  for (int i = 0; i < count_; ++i)
    fields[i] = {attributes_[i].name, nullptr, attributes_[i].real ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32,
                 attributes_[i].count};
  return {count_, fields};
}

PluginFieldCollection AttributeTable::write(const void* attributes, PluginField* fields, Number* numbers) const {
  names(fields);
  for (int i = 0; i < count_; ++i) {
    const Attribute& attribute = attributes_[i];
    const auto* const from = static_cast<const std::byte*>(attributes) + attribute.offset;
    fields[i].data = numbers;
    for (int j = 0; j < attribute.count; ++j, ++numbers)
      if (attribute.real)
        numbers->real = load<float>(from, j);
      else
        numbers->integer = static_cast<int32_t>(load<int64_t>(from, j));
  }
  return {count_, fields};
}

void AttributeTable::write_text(const void* attributes, char* text, size_t bytes) const {
  size_t end = 0;
  const auto append = [&](const char* format, auto... values) {
    const int length = std::snprintf(text + end, bytes - end, format, values...);
    if (length > 0) end = end + static_cast<size_t>(length) < bytes ? end + static_cast<size_t>(length) : bytes - 1;
  };
  for (int i = 0; i < count_; ++i) {
    const Attribute& attribute = attributes_[i];
    const auto* const from = static_cast<const std::byte*>(attributes) + attribute.offset;
    append("%s%s=", i ? " " : "", attribute.name);
    for (int j = 0; j < attribute.count; ++j)
      if (attribute.real)
        append("%a", static_cast<double>(load<float>(from, j)));
      else
        append("%s%" PRId64, j ? "," : "", load<int64_t>(from, j));
  }
}

}  // namespace dyndeploy::tensorrt

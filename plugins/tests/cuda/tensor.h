// Tensors of the tests in device memory.
#pragma once

#include "cuda/device.h"
#include "tests/tensor.h"

namespace dyndeploy::test {

// Exactly so many bytes of rubbish in device memory, `past` bytes after an address aligned as the device's are.
class DeviceBytes {
 public:
  DeviceBytes(uint64_t count, uint64_t past, int rubbish, const char* name = "bytes")
      : memory_(name, count, past, DeviceMemory::Use::scratch) {
    const std::vector<unsigned char> bytes(count, static_cast<unsigned char>(rubbish));
    memory_.upload(bytes.data());
  }
  unsigned char* data() const { return memory_.data(); }
  uint64_t count() const { return memory_.size(); }

  std::vector<unsigned char> bytes() const {
    std::vector<unsigned char> bytes(count());
    memory_.download(bytes.data());
    return bytes;
  }
  void check_all(unsigned char value) const {
    for (const unsigned char byte : bytes()) CHECK_EQ(int{byte}, int{value});
  }

 private:
  DeviceMemory memory_;
};

// As Tensor (tests/tensor.h), whose copy on the host it is filled from and read back into.
class DeviceTensor {
 public:
  static DeviceTensor input(Random& random, int32_t dtype, Layout layout, const Doubles& values) {
    return {Tensor::input(random, dtype, layout, values), DeviceMemory::Use::input};
  }
  static DeviceTensor output(Random& random, int32_t dtype, Layout layout, const std::vector<int64_t>& extents) {
    return {Tensor::output(random, dtype, layout, extents), DeviceMemory::Use::output};
  }

  const dyndeploy_tensor& view() const { return view_; }
  Doubles values() const { return host_.values(); }

  void clear() {
    host_.clear();
    upload();
  }
  // An input: the same values elsewhere.
  void shuffle(Random& random) {
    host_.shuffle(random);
    upload();
  }

  // An input.
  void check_unchanged() const {
    std::vector<unsigned char> bytes(memory_.size());
    memory_.download(bytes.data());
    CHECK(std::equal(host_.memory(), host_.memory() + host_.size(), bytes.begin()));
  }
  void check_untouched() const { downloaded().check_untouched(); }
  void check_gaps() const { downloaded().check_gaps(); }
  void check_close(const Reals& expected) const { downloaded().check_close(expected); }
  void check_same_bits(const std::vector<unsigned char>& other) const { downloaded().check_same_bits(other); }
  std::vector<unsigned char> elements() const { return downloaded().elements(); }

 private:
  DeviceTensor(Tensor host, DeviceMemory::Use use)
      : host_(std::move(host)), view_(host_.view()), memory_(name_of(use), readable(use), 0, use) {
    if (view_.data) view_.data = memory_.data() + host_.offset();
    upload();
  }

  static const char* name_of(DeviceMemory::Use use) {
    return use == DeviceMemory::Use::input ? "an input" : "an output";
  }

  // An input that can be read 16 bytes at a time, pixel by pixel, has whole 16 bytes behind its last pixel, too.
  uint64_t readable(DeviceMemory::Use use) const {
    const int64_t* s = view_.strides;
    const int64_t bytes = element_bytes(view_.dtype), size = host_.size();
    bool sixteen = use == DeviceMemory::Use::input && view_.rank == 4 && s[1] == 1 && host_.offset() % 16 == 0;
    for (const int axis : {0, 2, 3}) sixteen = sixteen && (view_.extents[axis] <= 1 || s[axis] % (16 / bytes) == 0);
    return static_cast<uint64_t>(sixteen ? (size + 15) / 16 * 16 : size);
  }

  void upload() {
    std::vector<unsigned char> bytes(memory_.size(), 0xff);  // NaN, in every type
    if (host_.size()) std::memcpy(bytes.data(), host_.memory(), static_cast<size_t>(host_.size()));
    memory_.upload(bytes.data());
  }
  const Tensor& downloaded() const {
    std::vector<unsigned char> bytes(memory_.size());
    memory_.download(bytes.data());
    if (host_.size()) std::memcpy(host_.memory(), bytes.data(), static_cast<size_t>(host_.size()));
    return host_;
  }

  Tensor host_;
  dyndeploy_tensor view_;
  DeviceMemory memory_;
};

}  // namespace dyndeploy::test

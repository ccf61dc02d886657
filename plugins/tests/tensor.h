// Tensors of the tests: in any layout, in memory of their own whose end and whose gaps are watched.
#pragma once

#include <memory>

#include "check.h"
#include "common/api.h"
#include "reference/real.h"
#include "storage.h"

namespace dyndeploy::test {

enum class Layout {
  map,  // the stride along C or along W is 1
  any,  // any order of the dims, gaps anywhere
  // Without gaps, their data aligned to 16 bytes; the latter two of four dims:
  nchw,
  channels_last,
  hwc8,  // channels last; from pixel to pixel it is C rounded up to 8
};

inline std::string text_of(const dyndeploy_tensor& tensor) {
  std::ostringstream out;
  out << dtype_name(tensor.dtype) << std::vector<int64_t>(tensor.extents, tensor.extents + tensor.rank) << " strides "
      << std::vector<int64_t>(tensor.strides, tensor.strides + tensor.rank);
  return out.str();
}

class Tensor {
 public:
  // An input: its memory ends where its elements end, so that a sanitizer sees what is read beyond; gaps are NaN.
  static Tensor input(Random& random, int32_t dtype, Layout layout, const Doubles& values) {
    Tensor tensor(random, dtype, layout, values.extents(), random.chance(0.1), 0);
    const int64_t bytes = element_bytes(dtype);
    const int64_t front = tensor.offset_ / bytes;
    for (int64_t i = 0; i < front + tensor.reach_; ++i) store_element(dtype, tensor.memory_.get() + i * bytes, NAN);
    tensor.for_each([&](int64_t i, unsigned char* element) { store_element(dtype, element, values.flat(i)); });
    return tensor;
  }

  // An output: what is around and between its elements is checked afterwards.
  static Tensor output(Random& random, int32_t dtype, Layout layout, const std::vector<int64_t>& extents) {
    Tensor tensor(random, dtype, layout, extents, false, kCanary);
    tensor.clear();
    return tensor;
  }

  // Puts other elements in the place of each. Gaps stay.
  void shuffle(Random& random) {
    std::vector<unsigned char*> places;
    for_each([&](int64_t, unsigned char* element) { places.push_back(element); });
    for (size_t i = places.size(); i > 1; --i) {
      unsigned char* other = places[static_cast<size_t>(random.integer(0, static_cast<int64_t>(i) - 1))];
      if (places[i - 1] != other) std::swap_ranges(other, other + element_bytes(view_.dtype), places[i - 1]);
    }
  }

  // One in the same layout.
  Tensor another() const {
    Tensor tensor = Tensor(extents_, view_, offset_, reach_, size_);
    tensor.clear();
    return tensor;
  }

  const dyndeploy_tensor& view() const { return view_; }

  // All of its memory; the first element is `offset` bytes after the beginning.
  unsigned char* memory() const { return memory_.get(); }
  int64_t size() const { return size_; }
  int64_t offset() const { return offset_; }

  // As stored, that is, rounded.
  Doubles values() const {
    Doubles result(extents_);
    for_each([&](int64_t i, unsigned char* element) { result.flat(i) = load_element(view_.dtype, element); });
    return result;
  }

  void clear() { std::memset(memory_.get(), kFill, static_cast<size_t>(size_)); }

  void check_untouched() const {
    for (int64_t i = 0; i < size_; ++i)
      if (memory_[static_cast<size_t>(i)] != kFill) CHECK_EQ("written", "byte " + std::to_string(i - offset_));
  }

  // Nothing was written but elements.
  void check_gaps() const {
    std::vector<unsigned char> copy(memory_.get(), memory_.get() + size_);
    for_each([&](int64_t, unsigned char* element) {
      std::memset(copy.data() + (element - memory_.get()), kFill, static_cast<size_t>(element_bytes(view_.dtype)));
    });
    for (int64_t i = 0; i < size_; ++i)
      if (copy[static_cast<size_t>(i)] != kFill)
        CHECK_EQ("a gap was written", "byte " + std::to_string(i - offset_) + " from the first element");
  }

  // Within the errors of `expected`, and of rounding to the dtype.
  void check_close(const Reals& expected) const {
    CHECK_EQ(extents_, expected.extents());
    for_each([&](int64_t i, unsigned char* element) {
      const double got = load_element(view_.dtype, element), unit = rounding_unit(view_.dtype);
      const Real real = expected.flat(i);
      const double error = std::fabs(got - real.v), bound = real.e + unit * (std::fabs(real.v) + real.e) + smallest(view_.dtype);
      const bool right = std::isnan(real.v) ? std::isnan(got) : std::isinf(real.v) ? got == real.v : error <= bound;
      if (right) return;
      const Note note("element ", i, " of ", text_of(view_), ": error ", error, ", bound ", bound);
      CHECK_EQ(got, real.v);
    });
  }

  // The same bits; of a NaN only that it is one, since IEEE 754 leaves its sign to the order of an instruction's operands.
  void check_same_bits(const std::vector<unsigned char>& other) const {
    const std::vector<unsigned char> bits = elements();
    const size_t size = static_cast<size_t>(element_bytes(view_.dtype));
    for (size_t i = 0; i < bits.size(); i += size) {
      if (std::memcmp(&bits[i], &other[i], size) == 0) continue;
      const bool both_nan = std::isnan(load_element(view_.dtype, &bits[i])) && std::isnan(load_element(view_.dtype, &other[i]));
      if (!both_nan) CHECK_EQ("other bits", "element " + std::to_string(i / size));
    }
  }

  // The bits of all elements.
  std::vector<unsigned char> elements() const {
    std::vector<unsigned char> bits;
    for_each([&](int64_t, unsigned char* e) { bits.insert(bits.end(), e, e + element_bytes(view_.dtype)); });
    return bits;
  }

 private:
  static constexpr int64_t kCanary = 128;
  static constexpr unsigned char kFill = 0xa5;

  Tensor(Random& random, int32_t dtype, Layout layout, const std::vector<int64_t>& extents, bool repeated, int64_t canary)
      : extents_(extents), view_{} {
    view_.rank = static_cast<int32_t>(extents.size());
    view_.dtype = dtype;
    const bool tight = layout != Layout::map && layout != Layout::any;
    const std::vector<int> order = axes_from_the_innermost(random, layout);
    int64_t stride = layout == Layout::any && random.chance(0.2) ? random.integer(2, 3) : 1, count = 1;
    for (const int axis : order) {
      const int64_t extent = extents[static_cast<size_t>(axis)];
      view_.extents[axis] = extent;
      count *= extent;
      if (tight) {
        view_.strides[axis] = stride;
        stride *= layout == Layout::hwc8 && axis == 1 ? (extent + 7) / 8 * 8 : std::max<int64_t>(extent, 1);
        continue;
      }
      // The stride of a dim with one element is nobody's business.
      view_.strides[axis] = extent > 1 ? stride : random.pick<int64_t>({0, 1, stride, -7, 1 << 30, INT64_MAX, INT64_MIN});
      // Or all along a dim are one element, as in an expanded tensor. Only where that leaves a map a map.
      if (repeated && extent > 1 && (layout == Layout::any || axis == 0) && random.chance(0.5)) {
        view_.strides[axis] = 0;
        continue;
      }
      const int64_t gap = random.chance(0.3) ? random.integer(1, 5) : 0;
      stride = stride * std::max<int64_t>(extent, 1) + gap;
    }
    reach_ = count ? 1 : 0;
    for (int axis = 0; count && axis < view_.rank; ++axis)
      if (view_.extents[axis] > 1) reach_ += (view_.extents[axis] - 1) * view_.strides[axis];
    // Aligned to the element and often to nothing more.
    offset_ = canary + (!tight && random.chance(0.5) ? random.integer(1, 3) * element_bytes(dtype) : 0);
    size_ = offset_ + reach_ * element_bytes(dtype) + canary;
    allocate();
    if (count == 0 && random.chance(0.5)) view_.data = nullptr;
  }

  Tensor(const std::vector<int64_t>& extents, const dyndeploy_tensor& view, int64_t offset, int64_t reach, int64_t size)
      : extents_(extents), view_(view), offset_(offset), reach_(reach), size_(size) {
    allocate();
  }

  void allocate() {
    memory_.reset(new unsigned char[static_cast<size_t>(size_)]);
    view_.data = memory_.get() + offset_;
  }

  std::vector<int> axes_from_the_innermost(Random& random, Layout layout) const {
    if (layout == Layout::channels_last || layout == Layout::hwc8) return {1, 3, 2, 0};
    std::vector<int> order;
    for (int axis = static_cast<int>(extents_.size()) - 1; axis >= 0; --axis) order.push_back(axis);
    if (layout == Layout::nchw) return order;
    if (order.size() == 4 && random.chance(0.35)) return {1, 3, 2, 0};  // channels last
    if (random.chance(0.5)) return order;
    for (size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[static_cast<size_t>(random.integer(0, static_cast<int64_t>(i) - 1))]);
    if (layout == Layout::map) {
      const int innermost = random.chance(0.5) ? 1 : 3;
      std::swap(order[0], *std::find(order.begin(), order.end(), innermost));
    }
    return order;
  }

  // body(index in row-major order, address)
  template <class Body>
  void for_each(Body body) const {
    int64_t count = 1;
    for (const int64_t extent : extents_) count *= extent;
    for (int64_t i = 0; i < count; ++i) {
      int64_t rest = i, sum = 0;
      for (int axis = view_.rank - 1; axis >= 0; --axis) {
        const int64_t index = rest % view_.extents[axis];
        rest /= view_.extents[axis];
        if (index) sum += index * view_.strides[axis];
      }
      body(i, memory_.get() + offset_ + sum * element_bytes(view_.dtype));
    }
  }

  std::vector<int64_t> extents_;
  dyndeploy_tensor view_;
  std::unique_ptr<unsigned char[]> memory_;
  int64_t offset_ = 0, reach_ = 0, size_ = 0;  // bytes before the first element; elements; bytes
};

}  // namespace dyndeploy::test

// common/cpu/simd.h, gemm.h and layout.h, compiled for one instruction set like the kernels.
#include <memory>

#include "check.h"
#include "common/cpu/gemm.h"
#include "common/cpu/layout.h"
#include "storage.h"

namespace dyndeploy::DYNDEPLOY_ISA {
namespace {

using test::Note;
using test::Random;

// Memory of exactly so many floats: a sanitizer sees the first one beyond.
class Buffer {
 public:
  explicit Buffer(int64_t count) : memory_(new float[static_cast<size_t>(count)]), count_(count) {}
  Buffer(int64_t count, Random& random) : Buffer(count) {
    for (int64_t i = 0; i < count; ++i) memory_[static_cast<size_t>(i)] = static_cast<float>(random.normal());
  }
  Buffer(const Buffer& other) : Buffer(other.count_) {
    std::memcpy(get(), other.get(), static_cast<size_t>(count_) * sizeof(float));
  }
  float* get() { return memory_.get(); }
  const float* get() const { return memory_.get(); }
  float& operator[](int64_t i) { return memory_[static_cast<size_t>(i)]; }
  float operator[](int64_t i) const { return memory_[static_cast<size_t>(i)]; }

 private:
  std::unique_ptr<float[]> memory_;
  int64_t count_;
};

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// --- simd.h

void test_vectors() {
  Random random(1);
  for (int64_t count = 0; count < kWidth; ++count) {
    const Buffer from(count, random);
    const Vector v = load_first(from.get(), count);
    for (int i = 0; i < kWidth; ++i) CHECK(same_bits(v[i], i < count ? from[i] : 0.0f));
    Buffer to(count);
    store_first(to.get(), splat(3) + v, count);
    for (int64_t i = 0; i < count; ++i) CHECK_EQ(to[i], 3 + from[i]);
  }
  Buffer from(kWidth + 1, random), to(kWidth + 1, random);
  const float first = to[0];
  store(to.get() + 1, load(from.get() + 1));  // aligned to a float only
  CHECK_EQ(to[0], first);
  for (int i = 1; i <= kWidth; ++i) CHECK(same_bits(to[i], from[i]));
}

void test_relu() {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const float value : {0.0f, -0.0f, 1.5f, -1.5f, inf, -inf, 1e-45f, -1e-45f}) {
    CHECK_EQ(relu(splat(value))[kWidth - 1], value > 0 ? value : 0);
    CHECK_EQ(relu<1>(Floats<1>{value})[0], value > 0 ? value : 0);
  }
  CHECK(std::isnan(relu(splat(nan))[0]));
  CHECK(std::isnan(relu(splat(-nan))[0]));
}

// Every element at least once, none beyond, nothing narrower than it has to be.
template <int Lanes>
void check_cover() {
  for (int64_t begin = 0; begin <= 2; ++begin)
    for (int64_t end = begin; end <= begin + 3 * Lanes + 1; ++end) {
      const Note note("cover<", Lanes, "> of ", begin, "..", end);
      std::vector<int> seen(static_cast<size_t>(end));
      cover<Lanes>(begin, end, [&](auto lanes, int64_t i) {
        constexpr int kLanes = decltype(lanes)::value;
        CHECK(kLanes <= Lanes && i >= begin && i + kLanes <= end);
        CHECK(2 * kLanes > Lanes || 2 * kLanes > end - begin);
        for (int64_t j = i; j < i + kLanes; ++j) ++seen[static_cast<size_t>(j)];
      });
      for (int64_t i = begin; i < end; ++i) CHECK(seen[static_cast<size_t>(i)] >= 1);
    }
}

template <int Lanes>
void check_lanes() {
  Random random(6);
  const Buffer from(Lanes + 1, random);
  Buffer to(Lanes + 1, random);
  const float first = to[0];
  store<Lanes>(to.get() + 1, load<Lanes>(from.get() + 1));
  CHECK_EQ(to[0], first);
  for (int i = 1; i <= Lanes; ++i) CHECK(same_bits(to[i], from[i]));
}

void test_lanes() {
  check_lanes<1>();
  check_lanes<2>();
  check_lanes<kWidth>();
  check_lanes<2 * kWidth>();
  check_cover<1>();
  check_cover<4>();
  check_cover<kWidth>();
  check_cover<4 * kWidth>();
}

uint16_t bits_of(float16 value) {
  uint16_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
uint16_t bits_of(bfloat16 value) { return value.bits; }

template <class T>
void check_rounding(test::Half type, float value) {
  const T got = from_float<T>(value);
  if (std::isnan(value))
    CHECK(std::isnan(to_float(got)));
  else
    CHECK_EQ(bits_of(got), test::half_bits(type, value));
}

template <class T>
void check_half(test::Half type) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    T value;
    std::memcpy(&value, &half, sizeof value);
    const double expected = test::half_value(type, half);
    if (std::isnan(expected))
      CHECK(std::isnan(to_float(value)));
    else
      CHECK(same_bits(to_float(value), static_cast<float>(expected)));
    check_rounding<T>(type, to_float(value));
    // The middle of this number and the next, where ties are, and what is beside it.
    const float middle = static_cast<float>((expected + test::half_value(type, half + 1)) / 2);
    if (!std::isfinite(middle)) continue;
    check_rounding<T>(type, middle);
    check_rounding<T>(type, std::nextafter(middle, HUGE_VALF));
    check_rounding<T>(type, std::nextafter(middle, -HUGE_VALF));
  }
  Random random(2);
  for (int i = 0; i < 20000; ++i) check_rounding<T>(type, float_of(static_cast<uint32_t>(random.next())));
  // Up to where numbers end, and beyond.
  for (const float sign : {1.0f, -1.0f})
    for (const float value : {65503.0f, 65504.0f, 65519.0f, 65519.99f, 65520.0f, 65536.0f, 3.3895314e38f, 3.3961775e38f,
                              3.4028235e38f, HUGE_VALF, NAN, 1e-45f, 2.98e-8f, 2.99e-8f, 5.96e-8f})
      check_rounding<T>(type, sign * value);
}

// --- gemm.h

void test_packing() {
  Random random(3);
  for (int64_t columns = 0; columns <= 4 * kColumns + 1; ++columns)
    for (const int64_t depth : {0, 1, 3, 10}) {
      const Note note("depth ", depth, ", ", columns, " columns");
      CHECK_EQ(padded_columns(columns) % kWidth, 0);
      CHECK(padded_columns(columns) >= columns && padded_columns(columns) < columns + kWidth);
      CHECK_EQ(packed_floats(depth, columns), depth * padded_columns(columns));
      const Buffer b(depth * columns, random);
      Buffer packed(packed_floats(depth, columns));
      for (int64_t p = 0; p < panel_count(columns); ++p)
        pack_panel(p, depth, columns, [&](int64_t d, int64_t c) { return b[d * columns + c]; }, packed.get());
      for (int64_t p = 0, c = 0; p < panel_count(columns); c += panel_columns(p++, columns))
        for (int64_t d = 0; d < depth; ++d)
          for (int64_t i = 0; i < panel_columns(p, columns); ++i) {
            const float expected = c + i < columns ? b[d * columns + c + i] : 0.0f;
            CHECK(same_bits(packed[panel_offset(p, depth) + d * panel_columns(p, columns) + i], expected));
          }
    }
}

// C, with one gap column behind, that all panels together give.
Buffer multiplied(const Buffer& a, int64_t lda, const Buffer& packed, int64_t packed_depth, const int32_t* index,
                  Buffer c, int64_t ldc, int64_t first_row, int64_t rows, int64_t columns, int64_t depth) {
  for (int64_t p = 0; p < panel_count(columns); ++p)
    multiply_panel(p, columns, rows, depth, a.get() + first_row * lda, lda, packed.get(), packed_depth, index,
                   c.get() + first_row * ldc, ldc);
  return c;
}

void check_multiply(Random& random, int64_t rows, int64_t columns, int64_t depth, bool indexed) {
  const int64_t packed_depth = indexed ? depth + random.integer(0, 3) : depth;
  const int64_t lda = depth + random.integer(0, 3), ldc = padded_columns(columns) + random.integer(0, 3);
  const Note note(rows, " rows, ", columns, " columns, depth ", depth, " of ", packed_depth, indexed ? ", indexed" : "",
                  ", lda ", lda, ", ldc ", ldc);
  const Buffer a((rows - 1) * lda + depth, random), b(packed_depth * columns, random);
  const Buffer c((rows - 1) * ldc + padded_columns(columns), random);
  std::unique_ptr<int32_t[]> index;
  if (indexed) {
    index.reset(new int32_t[static_cast<size_t>(depth)]);
    for (int64_t d = 0; d < depth; ++d) index[static_cast<size_t>(d)] = static_cast<int32_t>(random.integer(0, packed_depth - 1));
  }
  Buffer packed(packed_floats(packed_depth, columns));
  for (int64_t p = 0; p < panel_count(columns); ++p)
    pack_panel(p, packed_depth, columns, [&](int64_t d, int64_t j) { return b[d * columns + j]; }, packed.get());

  const Buffer got = multiplied(a, lda, packed, packed_depth, index.get(), c, ldc, 0, rows, columns, depth);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < columns; ++j) {
      double sum = c[r * ldc + j], magnitude = std::fabs(sum);
      for (int64_t d = 0; d < depth; ++d) {
        const double product = static_cast<double>(a[r * lda + d]) * b[(indexed ? index[static_cast<size_t>(d)] : d) * columns + j];
        sum += product;
        magnitude += std::fabs(product);
      }
      // depth + 1 roundings of sums and, where multiply and add are not one instruction, depth of products.
      const double bound = static_cast<double>(2 * depth + 1) * 0x1p-24 * magnitude;
      const double error = std::fabs(got[r * ldc + j] - sum);
      if (!(error <= bound)) {
        const Note where("C[", r, "][", j, "]");
        CHECK_EQ(got[r * ldc + j], sum);
      }
    }
    // Padding of C times zeros of B leaves what was there; what lies between rows is not touched.
    for (int64_t j = columns; j < ldc && r * ldc + j < (rows - 1) * ldc + padded_columns(columns); ++j)
      CHECK(same_bits(got[r * ldc + j], c[r * ldc + j]));
  }

  // A division of the rows, and one of the depth, give the same bits: sums have one order.
  const int64_t cut = random.integer(0, rows), step = random.integer(0, depth);
  const Buffer upper = multiplied(a, lda, packed, packed_depth, index.get(), c, ldc, 0, cut, columns, depth);
  const Buffer again =
      multiplied(a, lda, packed, packed_depth, index.get(), upper, ldc, cut, rows - cut, columns, depth);
  for (int64_t i = 0; i < (rows - 1) * ldc + padded_columns(columns); ++i) CHECK(same_bits(again[i], got[i]));
  if (indexed) {
    Buffer halves = multiplied(a, lda, packed, packed_depth, index.get(), c, ldc, 0, rows, columns, step);
    for (int64_t p = 0; p < panel_count(columns); ++p)
      multiply_panel(p, columns, rows, depth - step, a.get() + step, lda, packed.get(), packed_depth, index.get() + step,
                     halves.get(), ldc);
    for (int64_t i = 0; i < (rows - 1) * ldc + padded_columns(columns); ++i) CHECK(same_bits(halves[i], got[i]));
  }
}

void test_multiply() {
  Random random(4);
  for (int64_t rows = 1; rows <= 2 * kRows + 1; ++rows)
    for (int64_t columns = 1; columns <= 4 * kColumns + 1; columns += columns < 2 * kColumns + 2 ? 1 : kWidth / 2 + 1)
      check_multiply(random, rows, columns, random.pick<int64_t>({1, 2, 3, 9, 17}), random.chance(0.5));
  for (const int64_t depth : {0, 1, 100, 577})
    for (const bool indexed : {false, true})
      for (const int64_t rows : {1, kRows - 1, kRows, 2 * kRows + 1}) check_multiply(random, rows, 3 * kWidth, depth, indexed && depth);
}

// --- layout.h

void test_transpose() {
  Random random(5);
  for (int64_t rows = 0; rows <= 13; ++rows)
    for (int64_t columns = 0; columns <= 13; ++columns) {
      const Note note(rows, " x ", columns);
      const int64_t from_ld = columns + random.integer(0, 2), to_ld = rows + random.integer(0, 2);
      const Buffer from(rows ? (rows - 1) * from_ld + columns : 0, random);
      const int64_t count = columns ? (columns - 1) * to_ld + rows : 0;
      const Buffer before(count, random);
      Buffer to = before;
      transpose(rows, columns, from.get(), from_ld, to.get(), to_ld);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t r = i % to_ld, c = i / to_ld;
        CHECK(same_bits(to[i], r < rows ? from[r * from_ld + c] : before[i]));
      }
    }
}

template <class T>
struct Dtype;
template <>
struct Dtype<float> {
  static constexpr int32_t number = DYNDEPLOY_FLOAT32;
};
template <>
struct Dtype<float16> {
  static constexpr int32_t number = DYNDEPLOY_FLOAT16;
};
template <>
struct Dtype<bfloat16> {
  static constexpr int32_t number = DYNDEPLOY_BFLOAT16;
};

// A map in exactly the memory that it needs.
template <class T>
class TestMap {
 public:
  TestMap(Random& random, int64_t n, int64_t c, int64_t h, int64_t w) : tensor_{} {
    const int64_t extents[4] = {n, c, h, w};
    // The axes from the innermost on: along C or along W the stride is 1.
    static constexpr int kOrders[][4] = {{3, 2, 1, 0}, {1, 3, 2, 0}, {3, 1, 2, 0}, {1, 2, 3, 0}, {3, 2, 0, 1}, {1, 0, 2, 3}};
    int64_t stride = 1;
    for (const int axis : kOrders[random.integer(0, 5)]) {
      tensor_.strides[axis] = extents[axis] > 1 ? stride : random.pick<int64_t>({0, 1, -5, 77});
      stride = stride * extents[axis] + (random.chance(0.3) ? random.integer(1, 3) : 0);
    }
    int64_t reach = 1;
    for (int axis = 0; axis < 4; ++axis) {
      tensor_.extents[axis] = extents[axis];
      if (extents[axis] > 1) reach += (extents[axis] - 1) * tensor_.strides[axis];
    }
    count_ = reach;
    memory_.reset(new T[static_cast<size_t>(count_)]);
    for (int64_t i = 0; i < count_; ++i) test::store_element(Dtype<T>::number, &memory_[static_cast<size_t>(i)], random.normal());
    tensor_.data = memory_.get();
    tensor_.rank = 4;
    tensor_.dtype = Dtype<T>::number;
  }

  const dyndeploy_tensor& tensor() const { return tensor_; }
  int64_t count() const { return count_; }
  const T* data() const { return memory_.get(); }
  int64_t index(int64_t n, int64_t c, int64_t h, int64_t w) const {
    const int64_t at[4] = {n, c, h, w};
    int64_t sum = 0;
    for (int axis = 0; axis < 4; ++axis) sum += tensor_.extents[axis] > 1 ? at[axis] * tensor_.strides[axis] : 0;
    return sum;
  }
  float value(int64_t i) const { return static_cast<float>(test::load_element(Dtype<T>::number, &memory_[static_cast<size_t>(i)])); }
  std::vector<int64_t> strides() const { return {tensor_.strides, tensor_.strides + 4}; }

 private:
  dyndeploy_tensor tensor_;
  std::unique_ptr<T[]> memory_;
  int64_t count_ = 0;
};

template <class T>
void check_read_row(Random& random) {
  const int64_t N = random.integer(1, 2), C = random.size(70), H = random.integer(1, 3), W = random.size(40);
  const TestMap<T> map(random, N, C, H, W);
  const int64_t ld = C + random.integer(0, 3), n = random.integer(0, N - 1), h = random.integer(0, H - 1);
  const Note note("read_row of ", N, "x", C, "x", H, "x", W, ", strides ", map.strides(), ", ld ", ld);
  const int64_t count = (W - 1) * ld + C;
  const Buffer before(count, random);
  Buffer to = before;
  read_row(Map<const T>(map.tensor()), n, h, W, C, to.get(), ld);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t w = i / ld, c = i % ld;
    CHECK(same_bits(to[i], c < C ? map.value(map.index(n, c, h, w)) : before[i]));
  }
}

template <class T>
void check_read_tile(Random& random) {
  const int64_t N = random.integer(1, 2), C = random.size(70), H = random.integer(1, 4), W = random.size(20);
  const TestMap<T> map(random, N, C, H, W);
  const int64_t first = random.integer(0, C), channels = random.integer(0, C - first), n = random.integer(0, N - 1);
  const int64_t begin = random.integer(0, H * W), end = random.integer(begin, H * W);
  const int64_t ld = channels + random.integer(0, 3);
  const Note note("read_tile of ", N, "x", C, "x", H, "x", W, ", strides ", map.strides(), ", channels ", first, "..",
                  first + channels, ", pixels ", begin, "..", end, ", ld ", ld);
  const int64_t count = begin < end ? (end - begin - 1) * ld + channels : 0;
  const Buffer before(count, random);
  Buffer to = before;
  read_tile(Map<const T>(map.tensor()), n, W, begin, end, first, channels, to.get(), ld);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t pixel = begin + i / ld, c = i % ld;
    CHECK(same_bits(to[i], c < channels ? map.value(map.index(n, first + c, pixel / W, pixel % W)) : before[i]));
  }
}

template <class T>
void check_write_tile(Random& random) {
  const int64_t N = random.integer(1, 2), C = random.size(70), H = random.integer(1, 4), W = random.size(20);
  const TestMap<T> map(random, N, C, H, W);
  // Channels first, first + step, … as far as they go; pixels of one row or across rows.
  const int64_t step = random.chance(0.6) ? 1 : random.integer(1, C), first = random.integer(0, C - 1);
  const int64_t channels = random.integer(0, (C - 1 - first) / step + 1);
  const int64_t begin = random.integer(0, H * W), end = random.integer(begin, H * W), n = random.integer(0, N - 1);
  const int64_t ld = channels + random.integer(0, 3);
  const bool with_relu = random.chance(0.5);
  const Note note("write_tile to ", N, "x", C, "x", H, "x", W, ", strides ", map.strides(), ", channels ", first, " + ",
                  step, " * 0..", channels - 1, ", pixels ", begin, "..", end, with_relu ? ", relu" : "", ", ld ", ld);
  std::vector<float> expected;
  for (int64_t i = 0; i < map.count(); ++i) expected.push_back(map.value(i));
  Buffer tile(begin < end ? (end - begin - 1) * ld + channels : 0, random);
  for (int64_t p = begin; p < end; ++p)
    for (int64_t c = 0; c < channels; ++c) {
      float value = tile[(p - begin) * ld + c];
      if (with_relu && value < 0) value = 0;
      T stored;
      test::store_element(Dtype<T>::number, &stored, value);
      expected[static_cast<size_t>(map.index(n, first + c * step, p / W, p % W))] =
          static_cast<float>(test::load_element(Dtype<T>::number, &stored));
    }
  write_tile(Map<T>(map.tensor()), n, W, begin, end, first, step, channels, with_relu, tile.get(), ld);
  for (int64_t i = 0; i < map.count(); ++i) {
    const Note where("element ", i);
    CHECK(same_bits(map.value(i), expected[static_cast<size_t>(i)]));
  }
}

template <class T>
void check_layout(Random& random) {
  check_read_row<T>(random);
  check_read_tile<T>(random);
  check_write_tile<T>(random);
}

}  // namespace

void test_all(int argc, char** argv) {
  test_vectors();
  test_lanes();
  test_relu();
  check_half<float16>(test::kFloat16);
  check_half<bfloat16>(test::kBfloat16);
  test_packing();
  test_multiply();
  test_transpose();
  test::fuzz(argc, argv, 300, [](Random& random) {
    check_layout<float>(random);
    check_layout<float16>(random);
    check_layout<bfloat16>(random);
  });
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

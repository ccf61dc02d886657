// common/problem.h: what all operators check and resolve.
#include <algorithm>

#include "check.h"
#include "common/problem.h"

namespace dyndeploy::test {
namespace {

dyndeploy_tensor dense(std::vector<int64_t> extents) {
  static float data[4];
  dyndeploy_tensor tensor{};
  tensor.data = data;
  tensor.rank = static_cast<int32_t>(extents.size());
  tensor.dtype = DYNDEPLOY_FLOAT32;
  uint64_t stride = 1;  // unsigned: of extents that are refused the product is more than any number
  for (int axis = tensor.rank - 1; axis >= 0; --axis) {
    tensor.extents[axis] = extents[static_cast<size_t>(axis)];
    tensor.strides[axis] = static_cast<int64_t>(stride);
    stride *= static_cast<uint64_t>(tensor.extents[axis]);
  }
  return tensor;
}

void test_tensors() {
  const auto check = [](const dyndeploy_tensor& t, std::initializer_list<int64_t> extents) {
    return check_tensor("op", "T", t, DYNDEPLOY_FLOAT32, extents);
  };
  CHECK_OK(check(dense({2, 3}), {2, 3}));
  CHECK_OK(check(dense({2, 3}), {-1, -1}));
  CHECK_OK(check(dense({0, 3}), {0, 3}));
  CHECK_OK(check(dense({int64_t{1} << 31}), {-1}));
  CHECK_REFUSED(check(dense({(int64_t{1} << 31) + 1}), {-1}), "op", "T", "dim 0");
  CHECK_REFUSED(check(dense({-1, 3}), {-1, 3}), "op", "T", "dim 0");
  CHECK_REFUSED(check(dense({2, 4}), {2, 3}), "op", "T", "dim 1");
  CHECK_REFUSED(check(dense({2, 3, 1}), {2, 3}), "op", "T", "dims");
  CHECK_REFUSED(check_tensor("op", "T", dense({2}), DYNDEPLOY_BFLOAT16, {2}), "op", "T", "type");
  // As many elements as index arithmetic bears, and more, also where a dim of 0 hides them.
  const int64_t half = int64_t{1} << 22;
  CHECK_OK(check(dense({half, half}), {half, half}));
  CHECK_REFUSED(check(dense({half, 2 * half}), {-1, -1}), "op", "T");
  CHECK_REFUSED(check(dense({0, half, half, half}), {-1, -1, -1, -1}), "op", "T");
  dyndeploy_tensor tensor = dense({2, 1});
  tensor.strides[1] = INT64_MAX;  // of one element: not looked at
  CHECK_OK(check(tensor, {2, 1}));
  for (const int64_t stride : {INT64_MIN, INT64_MAX, int64_t{1} << 44, -(int64_t{1} << 44)}) {
    tensor.strides[0] = stride;
    CHECK_REFUSED(check(tensor, {2, 1}), "op", "T", "stride");
  }
}

void test_maps() {
  dyndeploy_tensor map = dense({2, 3, 4, 5});
  CHECK_OK(check_map("op", "T", map));
  std::swap(map.strides[1], map.strides[3]);
  CHECK_OK(check_map("op", "T", map));
  CHECK(channels_last(map));
  map.strides[1] = 2;
  CHECK_REFUSED(check_map("op", "T", map), "op", "T");
  map.extents[3] = 1;  // then the stride along W is nobody's
  CHECK_OK(check_map("op", "T", map));
  map.extents[3] = 5, map.extents[1] = 1;
  CHECK_OK(check_map("op", "T", map));
}

void test_data() {
  dyndeploy_tensor tensor = dense({2, 3});
  CHECK_OK(check_data("op", "T", tensor));
  tensor.data = static_cast<char*>(tensor.data) + 2;
  CHECK_REFUSED(check_data("op", "T", tensor), "op", "T", "aligned");
  tensor.dtype = DYNDEPLOY_FLOAT16;
  CHECK_OK(check_data("op", "T", tensor));
  tensor.data = nullptr;
  CHECK_REFUSED(check_data("op", "T", tensor), "op", "T", "NULL");
  tensor.extents[0] = 0;
  CHECK_OK(check_data("op", "T", tensor));
}

void test_windows() {
  const auto resolve = [](int64_t H, int64_t W, int64_t kh, int64_t kw, std::vector<int64_t> strides,
                          std::vector<int64_t> pads, std::vector<int64_t> dilations, Window* window) {
    return resolve_window("op", dense({1, 1, H, W}), kh, kw, strides.data(), pads.data(), dilations.data(), window);
  };
  Window window;
  CHECK_OK(resolve(9, 7, 3, 2, {2, 1}, {1, 2, 3, 4}, {2, 3}, &window));
  CHECK_EQ(window.Ho, (9 + 1 + 3 - 5) / 2 + 1);
  CHECK_EQ(window.Wo, 7 + 2 + 4 - 4 + 1);
  CHECK_EQ(window.top, 1);
  CHECK_EQ(window.left, 2);
  CHECK_EQ(window.taps(), 6);
  CHECK_OK(resolve(0, 1, 2, 1, {1, 1}, {1, 0, 1, 0}, {1, 1}, &window));
  CHECK_EQ(window.Ho, 1);
  CHECK_REFUSED(resolve(4, 9, 3, 3, {1, 1}, {0, 0, 0, 0}, {2, 1}, &window), "op", "kernel", "H");
  CHECK_REFUSED(resolve(9, 4, 3, 3, {1, 1}, {0, 0, 0, 0}, {1, 2}, &window), "op", "kernel", "W");
  for (const int64_t wrong : {INT64_MIN, int64_t{-1}, (int64_t{1} << 31) + 1, INT64_MAX}) {
    CHECK_REFUSED(resolve(9, 9, wrong, 3, {1, 1}, {0, 0, 0, 0}, {1, 1}, &window), "op", "kernel");
    CHECK_REFUSED(resolve(9, 9, 3, wrong, {1, 1}, {0, 0, 0, 0}, {1, 1}, &window), "op", "kernel");
    for (size_t i = 0; i < 4; ++i) {
      std::vector<int64_t> strides{1, 1}, pads{0, 0, 0, 0}, dilations{1, 1};
      pads[i] = wrong;
      CHECK_REFUSED(resolve(9, 9, 3, 3, strides, pads, dilations, &window), "op", "pads");
      pads[i] = 0, strides[i % 2] = wrong;
      CHECK_REFUSED(resolve(9, 9, 3, 3, strides, pads, dilations, &window), "op", "strides");
      strides[i % 2] = 1, dilations[i % 2] = wrong;
      CHECK_REFUSED(resolve(9, 9, 3, 3, strides, pads, dilations, &window), "op", "dilations");
    }
  }
  // The largest that is let through.
  const int64_t most = int64_t{1} << 31;
  CHECK_OK(resolve(most, most, 1, 1, {1, 1}, {most, most, most, most}, {most, most}, &window));
  CHECK_EQ(window.Ho, 3 * most);
  CHECK_REFUSED(resolve(most, most, most, most, {1, 1}, {most, most, most, most}, {most, most}, &window), "op", "kernel");
}

void test_outputs() {
  const dyndeploy_tensor Y = dense({2, 3, 4, 5});
  const MapExtents extents{2, 3, 4, 5};
  CHECK_OK(check_output("op", "Y", &Y, DYNDEPLOY_FLOAT32, extents));
  CHECK_REFUSED(check_output("op", "Y", nullptr, DYNDEPLOY_FLOAT32, extents), "op", "Y", "NULL");
  CHECK_REFUSED(check_output("op", "Y", &Y, DYNDEPLOY_FLOAT16, extents), "op", "Y", "type");
  CHECK_REFUSED(check_output("op", "Y", &Y, DYNDEPLOY_FLOAT32, {2, 3, 4, 6}), "op", "Y", "dim 3");
  dyndeploy_tensor strided = Y;
  strided.strides[1] = strided.strides[3] = 2;
  CHECK_REFUSED(check_output("op", "Y", &strided, DYNDEPLOY_FLOAT32, extents), "op", "Y", "strides");
}

// Those that nobody wants may be anything; the others are of their inputs' shapes.
void test_gradients() {
  constexpr const char* kNames[] = {"of X", "of a", "of b", "of c"};
  const dyndeploy_tensor inputs[] = {dense({2, 3, 4, 5}), dense({2, 3}), dense({3, 1, 1}), dense({3})};
  dyndeploy_tensor gradients[4];
  const auto check = [&] { return check_gradients("op", kNames, inputs, gradients); };
  CHECK_REFUSED(check_gradients("op", kNames, inputs, nullptr), "op", "gradients", "NULL");
  std::copy(inputs, inputs + 4, gradients);
  CHECK_OK(check());
  CHECK_OK(check_gradients_data("op", kNames, gradients));
  for (int i = 0; i < 4; ++i) {
    std::copy(inputs, inputs + 4, gradients);
    ++gradients[i].extents[0];
    CHECK_REFUSED(check(), "op", kNames[i], "dim 0");
    gradients[i] = inputs[i];
    gradients[i].dtype = DYNDEPLOY_FLOAT16;
    CHECK_REFUSED(check(), "op", kNames[i], "type");
    gradients[i].rank = 2;
    gradients[i].data = nullptr;
    CHECK_OK(check());
    CHECK_OK(check_gradients_data("op", kNames, gradients));
    gradients[i] = inputs[i];
    gradients[i].data = static_cast<char*>(inputs[i].data) + 1;
    CHECK_OK(check());
    CHECK_REFUSED(check_gradients_data("op", kNames, gradients), "op", kNames[i], "aligned");
  }
  std::copy(inputs, inputs + 4, gradients);
  gradients[0].strides[1] = gradients[0].strides[3] = 2;
  CHECK_REFUSED(check(), "op", "of X", "strides");
}

void test_answers() {
  uint64_t bytes = 0;
  CHECK_OK(answer("op", uint64_t{7}, &bytes));
  CHECK_EQ(bytes, uint64_t{7});
  CHECK_REFUSED(answer("op", uint64_t{7}, nullptr), "op", "bytes", "NULL");
  int64_t extents[4] = {};
  CHECK_OK(answer("op", MapExtents{2, 3, 4, 5}, extents));
  CHECK_EQ(extents[3], int64_t{5});
  CHECK_REFUSED(answer("op", MapExtents{2, 3, 4, 5}, nullptr), "op", "extents", "NULL");
}

// Pieces begin at cache lines, do not overlap, and end within what the query said.
void test_workspace() {
  for (uintptr_t at = 4096; at < 4096 + 130; ++at) {
    Workspace query, workspace(reinterpret_cast<void*>(at));
    uintptr_t end = at;
    for (const int64_t count : {0, 1, 15, 16, 17, 1000}) {
      query.take<float>(count);
      const auto piece = reinterpret_cast<uintptr_t>(workspace.take<float>(count));
      CHECK(piece % 64 == 0 && piece >= end);
      end = piece + static_cast<uintptr_t>(count) * sizeof(float);
    }
    CHECK(end <= at + query.bytes());
  }
  dyndeploy_resources resources{sizeof resources, nullptr, nullptr, 100, nullptr, 0};
  CHECK_OK(check_workspace("op", resources, 0));
  CHECK_REFUSED(check_workspace("op", resources, 100), "op", "workspace", "NULL");
  resources.workspace = &resources;
  CHECK_OK(check_workspace("op", resources, 100));
  CHECK_REFUSED(check_workspace("op", resources, 101), "op", "workspace", "100", "101");
}

}  // namespace
}  // namespace dyndeploy::test

int main() {
  using namespace dyndeploy::test;
  test_tensors();
  test_maps();
  test_data();
  test_windows();
  test_outputs();
  test_gradients();
  test_answers();
  test_workspace();
}

// The plugins, driven as TensorRT drives them: from a node to an engine and to contexts that run, in all types and
// formats, by one thread and by several.
#include <thread>

#include "host.h"
#include "refusals.h"

namespace dyndeploy::test {
namespace {

// How many runs there were in each layout of Y.
int linear = 0, channels_last = 0, padded = 0;

void run_protocol(Random& random) {
  const Node node = some_node(random);
  const int32_t dtype = some_dtype(random);
  const Note note(node.op, " ", node.version, " ", dtype_name(dtype));
  const Engine engine = build_engine(random, node, dtype);
  const std::vector<int64_t> expected = node.reference(node.inputs, dtype).extents();
  CHECK_EQ(output_extents(random, create(node, node.fields, TensorRTPhase::kBUILD), extents_of(node.inputs)), expected);
  Context context(random, engine);
  const std::vector<unsigned char> bits = context.run();
  CHECK(context.run() == bits);
  ++(engine.formats.back() == TensorFormat::kHWC8  ? padded
     : engine.formats.back() == TensorFormat::kHWC ? channels_last
                                                   : linear);
}

// Contexts of one engine, and of others, at the same time.
void run_threads(Random& random) {
  std::vector<Engine> engines;
  for (int i = 0; i < 2; ++i) engines.push_back(build_engine(random, some_node(random), some_dtype(random)));
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&engine = engines[static_cast<size_t>(i) % 2], seed = random.next()] {
      Random own(seed);
      const Note note("in a thread: ", engine.node.op, " ", dtype_name(engine.dtype));
      Context context(own, engine);
      const std::vector<unsigned char> bits = context.run();
      for (int again = 0; again < 2; ++again) CHECK(context.run() == bits);
    });
  for (std::thread& thread : threads) thread.join();
}

// A value of an attribute that it does not have in `text`.
std::vector<int64_t> another_value(const std::string& name, const std::string& text) {
  if (name == "pads") return {7, 7, 7, 7};
  if (name == "strides" || name == "dilations") return {7, 7};
  if (name == "sigmoid" || name == "relu") return {text.find(name + "=1") == text.npos};
  return {7};
}

// What is timed for one node serves another exactly if their attributes and versions are the same.
void test_timing_cache() {
  Random random(1);
  const Node exact = dcnv2_node(random);
  const auto id = [](const Node& node, const Fields& fields) {
    return std::string(build(create(node, fields, TensorRTPhase::kBUILD)).getTimingCacheID());
  };
  const std::string first = id(exact, exact.fields);
  CHECK_EQ(first, id(exact, exact.fields));
  for (const std::string& name : exact.fields.names()) {
    Fields other = exact.fields.without(name);
    if (name == "mask_scale")
      other.real("mask_scale", 0.1f);
    else
      other.ints(name.c_str(), another_value(name, first));
    CHECK(id(exact, other) != first);
  }
  Node tf32 = exact;
  tf32.version = "1-tf32";
  CHECK(id(tf32, exact.fields) != first);
}

}  // namespace
}  // namespace dyndeploy::test

// What the plugins ask the library that a logger comes from.
extern "C" __attribute__((visibility("default"))) int32_t getInferLibVersion() {
  return dyndeploy::test::tensorrt_version;
}

int main(int argc, char** argv) {
  using namespace dyndeploy::test;
  fuzz(argc, argv, 160, run_protocol);
  std::printf("Y linear %d times, kHWC %d, kHWC8 %d\n", linear, channels_last, padded);
  fuzz(argc, argv, 12, run_threads);
  test_timing_cache();
  test_refusals();
}

// What must work: every built-in of emulator/cuda.h against a plain computation, tensor cores against products in
// double.
#include <bit>
#include <cmath>
#include <cstring>
#include <ctime>
#include <limits>
#include <set>
#include <thread>
#include <vector>

#include "check.h"
#include "common/cuda/mma.cuh"
#include "emulator/emulator.h"

using namespace dyndeploy::cuda;
using namespace dyndeploy::test;
namespace emulator = dyndeploy::emulator;

namespace {

using emulator::Order;
using emulator::Schedule;

const Schedule kSchedules[] = {{Order::forward}, {Order::backward}, {Order::random, 1}, {Order::random, 2}};

// Memory that the checker knows, as long as the test that has it.
template <class T>
struct Memory {
  std::vector<T> values;
  emulator::Buffer buffer;

  explicit Memory(size_t count, T value = {})
      : values(count, value),
        buffer(values.data(), count * sizeof(T), "memory", emulator::Access::read_write,
               emulator::Contents::initialised) {}
  T* data() { return values.data(); }
  T& operator[](size_t i) { return values[i]; }
};

template <class... Parameters>
void run(const char* name, dim3 blocks, int threads, int shared_bytes, void (*kernel)(Parameters...),
         std::type_identity_t<Parameters>... arguments) {
  CHECK_OK(launch({name, blocks, threads, shared_bytes, nullptr}, kernel, arguments...));
}

bool same_bits(float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); }

// --- threads and blocks

__global__ void count_visits(int* visits, unsigned* shape) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  visits[block * blockDim.x + threadIdx.x] += 1 + static_cast<int>(threadIdx.y + threadIdx.z);
  if (block == 0 && threadIdx.x == 0) {
    shape[0] = gridDim.x * 100 + gridDim.y * 10 + gridDim.z;
    shape[1] = blockDim.x * 100 + blockDim.y * 10 + blockDim.z;
  }
}

void test_grids() {
  for (const int threads : {1, 31, 32, 33, 64, 257, 1024})
    for (const Schedule schedule : kSchedules) {
      emulator::set_schedule(schedule);
      const dim3 blocks(3, 2, 4);
      Memory<int> visits(24 * static_cast<size_t>(threads));
      Memory<unsigned> shape(2);
      run("count_visits", blocks, threads, 0, count_visits, visits.data(), shape.data());
      for (const int n : visits.values) CHECK_EQ(n, 1);
      CHECK_EQ(shape[0], 324u);
      CHECK_EQ(shape[1], static_cast<unsigned>(threads) * 100 + 11);
    }
}

__global__ void do_nothing() {}

void test_limits() {
  const auto refused = [](dim3 blocks, int threads, int shared_bytes, const char* words) {
    CHECK_EQ(launch({"do_nothing", blocks, threads, shared_bytes, nullptr}, do_nothing), DYNDEPLOY_FAILED);
    CHECK(std::strstr(dyndeploy_message(), words));
    CHECK(std::strstr(dyndeploy_message(), "do_nothing"));
  };
  refused(1, 1025, 0, "invalid configuration argument");
  refused(1, 0, 0, "invalid configuration argument");
  refused(1, -32, 0, "invalid configuration argument");
  refused(0x80000000u, 32, 0, "invalid configuration argument");
  refused(dim3(1, 65536), 32, 0, "invalid configuration argument");
  refused(dim3(1, 1, 65536), 32, 0, "invalid configuration argument");
  refused(1, 32, kMostSharedBytes + 1, "invalid argument");
  refused(1, 32, -1, "invalid argument");
  run("do_nothing", dim3(2, 65535, 1), 1, 0, do_nothing);
  run("do_nothing", 1, 1024, kMostSharedBytes, do_nothing);
  run("do_nothing", dim3(0, 1, 1), 32, 0, do_nothing);
}

struct Everything {
  unsigned char bytes[kMostSharedBytes];
};

__global__ void fill_everything(unsigned* sum) {
  Everything& all = shared_memory<Everything>();
  for (int i = static_cast<int>(threadIdx.x); i < kMostSharedBytes; i += static_cast<int>(blockDim.x))
    all.bytes[i] = static_cast<unsigned char>(i);
  __syncthreads();
  unsigned own = 0;
  for (int i = static_cast<int>(threadIdx.x) * 99; i < static_cast<int>(threadIdx.x + 1) * 99; ++i) own += all.bytes[i];
  atomicAdd(sum, own);
}

void test_all_of_shared_memory() {
  Memory<unsigned> sum(1);
  run("fill_everything", 1, 1024, sizeof(Everything), fill_everything, sum.data());
  unsigned expected = 0;
  for (int i = 0; i < kMostSharedBytes; ++i) expected += static_cast<unsigned>(i) & 255;
  CHECK_EQ(sum[0], expected);
}

// In what order threads pass two stretches between barriers.
__global__ void record_order(int* next, int* order) {
  order[atomicAdd(next, 1)] = static_cast<int>(blockIdx.x * 1000 + threadIdx.x);
  __syncthreads();
  order[atomicAdd(next, 1)] = static_cast<int>(blockIdx.x * 1000 + threadIdx.x);
}

void test_schedules() {
  const auto orders = [](Schedule schedule) {
    emulator::set_schedule(schedule);
    Memory<int> next(1), order(4 * 96);
    run("record_order", 2, 96, 0, record_order, next.data(), order.data());
    return order.values;
  };
  const std::vector<int> forward = orders({Order::forward}), backward = orders({Order::backward});
  for (int i = 0; i < 4 * 96; ++i) {
    CHECK_EQ(forward[static_cast<size_t>(i)], i / 192 * 1000 + i % 96);
    CHECK_EQ(backward[static_cast<size_t>(i)], (1 - i / 192) * 1000 + 95 - i % 96);
  }
  std::set<std::vector<int>> different{forward, backward};
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const std::vector<int> random = orders({Order::random, seed});
    CHECK(random == orders({Order::random, seed}));
    different.insert(random);
  }
  CHECK_EQ(different.size(), 10u);
}

struct Tree {
  int values[256];
};

__global__ void reduce(const int* input, int* output) {
  Tree& tree = shared_memory<Tree>();
  tree.values[threadIdx.x] = input[blockIdx.x * 256 + threadIdx.x];
  for (unsigned half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) tree.values[threadIdx.x] += tree.values[threadIdx.x + half];
  }
  if (threadIdx.x == 0) output[blockIdx.x] = tree.values[0];
}

void test_barriers() {
  for (const Schedule schedule : kSchedules) {
    emulator::set_schedule(schedule);
    Memory<int> input(8 * 256), output(8);
    Random random(3);
    for (int& v : input.values) v = static_cast<int>(random.integer(-1000, 1000));
    run("reduce", 8, 256, sizeof(Tree), reduce, input.data(), output.data());
    for (size_t block = 0; block < 8; ++block) {
      int sum = 0;
      for (size_t i = 0; i < 256; ++i) sum += input[block * 256 + i];
      CHECK_EQ(output[block], sum);
    }
  }
}

// Each thread of the operating system has a machine of its own; the checker lets one run at a time.
void test_several_hosts() {
  std::vector<std::thread> hosts;
  for (int host = 0; host < 3; ++host)
    hosts.emplace_back([] {
      for (int i = 0; i < 3; ++i) test_barriers();
    });
  for (std::thread& host : hosts) host.join();
}

// --- shuffles and votes

struct Shuffles {
  int index[32], up[32], down[32], exclusive[32];
  float as_float;
  unsigned as_unsigned;
};

__global__ void shuffle_all(Shuffles* out, int width, int by) {
  const int lane = static_cast<int>(threadIdx.x);
  out->index[lane] = __shfl_sync(~0u, lane, by, width);
  out->up[lane] = __shfl_up_sync(~0u, lane, static_cast<unsigned>(by), width);
  out->down[lane] = __shfl_down_sync(~0u, lane, static_cast<unsigned>(by), width);
  out->exclusive[lane] = __shfl_xor_sync(~0u, lane, by, width);
  const float f = __shfl_sync(~0u, static_cast<float>(lane) + 0.5f, 7);
  const unsigned u = __shfl_sync(~0u, 0x80000000u + threadIdx.x, 9);
  if (lane == 0) {
    out->as_float = f;
    out->as_unsigned = u;
  }
}

void test_shuffles() {
  for (const int width : {2, 4, 8, 16, 32})
    for (int by = 0; by < 32; ++by) {
      Memory<Shuffles> out(1);
      run("shuffle_all", 1, 32, 0, shuffle_all, out.data(), width, by);
      for (int lane = 0; lane < 32; ++lane) {
        const int first = lane / width * width, last = first + width - 1;
        CHECK_EQ(out[0].index[lane], first + by % width);
        CHECK_EQ(out[0].up[lane], lane - by < first ? lane : lane - by);
        CHECK_EQ(out[0].down[lane], lane + by > last ? lane : lane + by);
        CHECK_EQ(out[0].exclusive[lane], (lane ^ by) > last ? lane : lane ^ by);
      }
      CHECK_EQ(out[0].as_float, 7.5f);
      CHECK_EQ(out[0].as_unsigned, 0x80000009u);
    }
}

__global__ void vote(unsigned bits, unsigned mask, unsigned* out) {
  const unsigned lane = threadIdx.x % 32;
  if (!(mask >> lane & 1)) return;
  const int yes = static_cast<int>(bits >> lane & 1);
  out[3 * threadIdx.x] = __ballot_sync(mask, yes);
  out[3 * threadIdx.x + 1] = static_cast<unsigned>(__any_sync(mask, yes));
  out[3 * threadIdx.x + 2] = static_cast<unsigned>(__all_sync(mask, yes));
}

void test_votes() {
  Random random(5);
  for (int i = 0; i < 200; ++i) {
    unsigned mask = static_cast<unsigned>(random.next()) | 1u, bits = static_cast<unsigned>(random.next());
    if (i % 4 == 0) mask = ~0u;
    if (i % 5 == 0) bits = 0;
    if (i % 7 == 0) bits = ~0u;
    Memory<unsigned> out(3 * 64);
    run("vote", 1, 64, 0, vote, bits, mask, out.data());
    for (unsigned t = 0; t < 64; ++t) {
      const bool votes = mask >> t % 32 & 1;
      CHECK_EQ(out[3 * t], votes ? bits & mask : 0);
      CHECK_EQ(out[3 * t + 1], votes ? unsigned{(bits & mask) != 0} : 0);
      CHECK_EQ(out[3 * t + 2], votes ? unsigned{(bits & mask) == mask} : 0);
    }
  }
}

// A warp of fewer than 32 threads: a full mask names those that there are.
__global__ void partial_warp(int* out) {
  const unsigned ballot = __ballot_sync(~0u, 1);
  __syncwarp();
  out[threadIdx.x] = static_cast<int>(ballot) + __shfl_xor_sync(~0u, static_cast<int>(threadIdx.x), 1);
}

void test_partial_warps() {
  Memory<int> out(38);
  run("partial_warp", 1, 38, 0, partial_warp, out.data());
  for (int i = 0; i < 38; ++i) CHECK_EQ(out[static_cast<size_t>(i)], (i < 32 ? -1 : 63) + (i ^ 1));
}

// Two halves of a warp that go ways of their own.
__global__ void two_ways(int* out) {
  const unsigned lane = threadIdx.x;
  int v = static_cast<int>(lane);
  if (lane < 16) {
    for (unsigned d = 1; d < 16; d *= 2) v += __shfl_xor_sync(0xffffu, v, static_cast<int>(d));
  } else {
    v = __shfl_sync(0xffff0000u, v, 31);
    __syncwarp(0xffff0000u);
  }
  __syncwarp();
  out[lane] = v + __shfl_sync(~0u, v, 31 - static_cast<int>(lane));
}

void test_two_ways() {
  for (const Schedule schedule : kSchedules) {
    emulator::set_schedule(schedule);
    Memory<int> out(32);
    run("two_ways", 1, 32, 0, two_ways, out.data());
    for (const int v : out.values) CHECK_EQ(v, 120 + 31);
  }
}

// --- numbers

// The value of a number with `fraction` bits of fraction and `exponent` bits of exponent, by its definition.
double value_of(uint32_t bits, int exponent, int fraction) {
  const int bias = (1 << (exponent - 1)) - 1;
  const int e = static_cast<int>(bits >> fraction) & ((1 << exponent) - 1);
  const double f = static_cast<double>(bits & ((1u << fraction) - 1)) * std::ldexp(1.0, -fraction);
  const double sign = bits >> (exponent + fraction) & 1 ? -1 : 1;
  if (e == (1 << exponent) - 1) return f == 0 ? sign * HUGE_VAL : NAN;
  return sign * (e == 0 ? std::ldexp(f, 1 - bias) : std::ldexp(1 + f, e - bias));
}

// Checks a rounding of v to half, whose neighbours' bits are one apart.
void check_nearest(float v, uint16_t bits, int exponent, int fraction) {
  const double got = value_of(bits, exponent, fraction);
  if (std::isnan(v)) {
    CHECK_EQ(bits, 0x7fff);
    return;
  }
  CHECK_EQ(bits >> 15, std::signbit(v) ? 1 : 0);
  // Infinity is the neighbour of the largest number, as far away as if there were an exponent more.
  const uint16_t infinity = static_cast<uint16_t>(((1u << exponent) - 1) << fraction);
  const auto place = [&](uint16_t b) {
    const double most = value_of(infinity - 1u, exponent, fraction);
    const double step = most - value_of(infinity - 2u, exponent, fraction);
    return b == infinity ? most + step : value_of(b, exponent, fraction);
  };
  const double size = std::fabs(static_cast<double>(v));
  const uint16_t magnitude = bits & 0x7fff;
  if (std::isinf(v)) {
    CHECK_EQ(magnitude, infinity);
    return;
  }
  CHECK(magnitude <= infinity);
  const double error = std::fabs(place(magnitude) - size);
  for (const int step : {-1, 1}) {
    if ((step < 0 && magnitude == 0) || (step > 0 && magnitude == infinity)) continue;
    const double other = std::fabs(place(static_cast<uint16_t>(magnitude + step)) - size);
    if (!(error < other || (error == other && magnitude % 2 == 0)))
      fail(__FILE__, __LINE__, both("not the nearest", v, got));
  }
}

void test_halves() {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const double a = value_of(bits, 5, 10), b = value_of(bits, 8, 7);
    const float x = float_of_float16(half), y = float_of_bfloat16(half);
    CHECK(std::isnan(a) ? std::isnan(x) : a == x && std::signbit(x) == (bits >> 15 != 0));
    CHECK(std::isnan(b) ? std::isnan(y) : b == y && std::signbit(y) == (bits >> 15 != 0));
    // There and back, and the middle between neighbours with what lies next to it.
    for (const auto& [value, exponent, fraction] : {std::tuple(x, 5, 10), std::tuple(y, 8, 7)}) {
      const auto round = exponent == 5 ? bits_of_float16 : bits_of_bfloat16;
      check_nearest(value, round(value), exponent, fraction);
      if (!std::isfinite(value)) continue;
      const double next = value_of(bits + 1, exponent, fraction);
      const auto middle = static_cast<float>(std::isinf(next) ? value * (1 + std::ldexp(1.0, -fraction - 2))
                                                              : (static_cast<double>(value) + next) / 2);
      for (const float v : {middle, std::nextafter(middle, HUGE_VALF), std::nextafter(middle, -HUGE_VALF)})
        check_nearest(v, round(v), exponent, fraction);
    }
  }
  Random random(1);
  for (int i = 0; i < 300000; ++i) {
    const float v = std::bit_cast<float>(static_cast<uint32_t>(random.next()));
    check_nearest(v, bits_of_float16(v), 5, 10);
    check_nearest(v, bits_of_bfloat16(v), 8, 7);
    if (std::isnan(v)) {
      CHECK_EQ(round_to_tf32(v), 0x7fffffffu);
      continue;
    }
    // To the nearest multiple of 2^13 in the bits, a tie away from zero.
    const uint32_t bits = std::bit_cast<uint32_t>(v), rounded = round_to_tf32(v);
    CHECK_EQ(rounded % 0x2000, 0u);
    CHECK(rounded >= bits ? rounded - bits <= 0x1000 : bits - rounded < 0x1000);
  }
  for (const float v : {0.0f, -0.0f, HUGE_VALF, -HUGE_VALF}) CHECK_EQ(round_to_tf32(v), std::bit_cast<uint32_t>(v));
}

void test_sixteen_bytes() {
  Random random(2);
  for (int i = 0; i < 100; ++i) {
    float values[8], back[8];
    for (float& v : values) v = static_cast<float>(random.integer(-128, 128));
    unpack<float16>(pack<float16>(values), back);
    for (int k = 0; k < 8; ++k) CHECK_EQ(values[k], back[k]);
    unpack<bfloat16>(pack<bfloat16>(values), back);
    for (int k = 0; k < 8; ++k) CHECK_EQ(values[k], back[k]);
    CHECK_EQ(pack<float16>(values).words[1] >> 16, uint32_t{bits_of_float16(values[3])});
  }
}

void test_functions() {
  CHECK_EQ(__float_as_uint(1.0f), 0x3f800000u);
  CHECK_EQ(__float_as_int(-2.0f), static_cast<int>(0xc0000000u));
  CHECK_EQ(__uint_as_float(0x40400000u), 3.0f);
  CHECK_EQ(__int_as_float(0x40400000), 3.0f);
  CHECK_EQ(__popc(0xf0f0u), 8);
  CHECK_EQ(__ffs(0), 0);
  CHECK_EQ(__ffs(8), 4);
  CHECK_EQ(__clz(0), 32);
  CHECK_EQ(__clz(1), 31);
  CHECK_EQ(__clz(-1), 0);
  CHECK_EQ(rsqrtf(4.0f), 0.5f);
  CHECK_EQ(__frcp_rn(8.0f), 0.125f);
  CHECK_EQ(__expf(0.0f), 1.0f);
  CHECK_EQ(min(-1, 2), -1);
  CHECK_EQ(max(-1, 2), 2);
  CHECK_EQ(max(int64_t{5}, int64_t{1} << 40), int64_t{1} << 40);
  CHECK_EQ(min(3u, 4u), 3u);
  CHECK_EQ(min(-1, 4u), 4u);  // as in CUDA C++: both as unsigned
  CHECK_EQ(max(1.0f, std::numeric_limits<float>::quiet_NaN()), 1.0f);
  CHECK_EQ(min(1.0f, -2.0f), -2.0f);
  CHECK_EQ(make_float4(1, 2, 3, 4).w, 4.0f);
  CHECK_EQ(make_int2(1, 2).y, 2);
  CHECK_EQ(make_uint4(1, 2, 3, 4).z, 3u);
  CHECK_EQ(sizeof(float4), 16u);
  CHECK_EQ(alignof(float4), 16u);
  CHECK_EQ(alignof(int2), 8u);
}

// --- atomics

struct Totals {
  int sum, most, least;
  unsigned bits, highest, lowest;
  float real;
};

__global__ void add_up(const int* values, Totals* totals, int* before) {
  Totals& block = shared_memory<Totals>();
  if (threadIdx.x == 0) block = {0, -2147483647 - 1, 2147483647, 0, 0, ~0u, 0};
  __syncthreads();
  const int v = values[blockIdx.x * blockDim.x + threadIdx.x];
  before[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(&block.sum, v);
  atomicMax(&block.most, v);
  atomicMin(&block.least, v);
  atomicAdd(&block.bits, static_cast<unsigned>(v));
  atomicMax(&block.highest, static_cast<unsigned>(v));
  atomicMin(&block.lowest, static_cast<unsigned>(v));
  atomicAdd(&block.real, static_cast<float>(v % 64));
  __syncthreads();
  if (threadIdx.x != 0) return;
  atomicAdd(&totals->sum, block.sum);
  atomicMax(&totals->most, block.most);
  atomicMin(&totals->least, block.least);
  atomicAdd(&totals->bits, block.bits);
  atomicMax(&totals->highest, block.highest);
  atomicMin(&totals->lowest, block.lowest);
  atomicAdd(&totals->real, block.real);
}

void test_atomics() {
  Random random(7);
  for (const Schedule schedule : kSchedules) {
    emulator::set_schedule(schedule);
    Memory<int> values(4 * 64), before(4 * 64);
    Totals expected{0, -2147483647 - 1, 2147483647, 0, 0, ~0u, 0};
    Memory<Totals> totals(1, expected);
    for (int& v : values.values) {
      v = static_cast<int>(static_cast<uint32_t>(random.next()));
      expected.bits += static_cast<unsigned>(v);
      expected.most = std::max(expected.most, v);
      expected.least = std::min(expected.least, v);
      expected.highest = std::max(expected.highest, static_cast<unsigned>(v));
      expected.lowest = std::min(expected.lowest, static_cast<unsigned>(v));
      expected.real += static_cast<float>(v % 64);
    }
    run("add_up", 4, 64, sizeof(Totals), add_up, values.data(), totals.data(), before.data());
    CHECK_EQ(static_cast<unsigned>(totals[0].sum), expected.bits);
    CHECK_EQ(totals[0].bits, expected.bits);
    CHECK_EQ(totals[0].most, expected.most);
    CHECK_EQ(totals[0].least, expected.least);
    CHECK_EQ(totals[0].highest, expected.highest);
    CHECK_EQ(totals[0].lowest, expected.lowest);
    CHECK_EQ(totals[0].real, expected.real);
    // What each thread got is the sum of those before it: one of them got 0, and no two got the same unless a value is
    // 0.
    for (size_t block = 0; block < 4; ++block) {
      std::multiset<unsigned> got, sums{0};
      std::set<unsigned> seen;
      for (size_t i = 0; i < 64; ++i) got.insert(static_cast<unsigned>(before[block * 64 + i]));
      CHECK_EQ(got.count(0) >= 1, true);
      for (size_t i = 0; i < 64; ++i) {
        const unsigned after =
            static_cast<unsigned>(before[block * 64 + i]) + static_cast<unsigned>(values[block * 64 + i]);
        seen.insert(after);
      }
      // All but one of the sums after an addition are what another one found.
      int last = 0;
      for (const unsigned after : seen) last += got.count(after) == 0;
      CHECK(last <= 1);
    }
  }
}

// --- asynchronous copies

struct Stages {
  float values[3][4 * 64];
};

// out[i] = sum over chunks of input, by a pipeline of three stages whose chunks are read by the other warp.
__global__ void pipeline(const float* input, float* out, int chunks, int valid) {
  Stages& stages = shared_memory<Stages>();
  const int own = 4 * static_cast<int>(threadIdx.x);
  const auto fetch = [&](int chunk) {
    const bool there = chunk < chunks && chunk * 256 + own < valid;
    copy_async_sixteen(&stages.values[chunk % 3][own], there ? input + chunk * 256 + own : nullptr, there);
    copy_async_commit();
  };
  fetch(0);
  fetch(1);
  float sums[4] = {};
  for (int chunk = 0; chunk < chunks; ++chunk) {
    copy_async_wait<1>();
    __syncthreads();
    fetch(chunk + 2);
    const int other = own ^ 128;
    for (int i = 0; i < 4; ++i) sums[i] += stages.values[chunk % 3][other + i];
  }
  copy_async_wait<0>();
  for (int i = 0; i < 4; ++i) out[own + i] = sums[i];
}

// What lies at the destination while a copy is under way.
__global__ void peek(const float* input, uint32_t* before, float* after) {
  Stages& stages = shared_memory<Stages>();
  float* const own = &stages.values[0][4 * threadIdx.x];
  copy_async_sixteen(own, input + 4 * threadIdx.x, true);
  copy_async_commit();
  copy_async_wait<1>();
  before[threadIdx.x] = __float_as_uint(own[3]);
  copy_async_wait<0>();
  after[threadIdx.x] = own[3];
}

void test_copies() {
  for (const Schedule schedule : kSchedules)
    for (const int chunks : {1, 2, 3, 4, 7}) {
      emulator::set_schedule(schedule);
      const int valid = chunks * 256 - 60;
      Memory<float> input(static_cast<size_t>(valid)), out(256);
      Random random(static_cast<uint64_t>(chunks));
      for (float& v : input.values) v = static_cast<float>(random.integer(-99, 99));
      run("pipeline", 1, 64, sizeof(Stages), pipeline, input.data(), out.data(), chunks, valid);
      for (int i = 0; i < 256; ++i) {
        float sum = 0;
        for (int chunk = 0; chunk < chunks; ++chunk) {
          const int at = chunk * 256 + (i ^ 128);
          if (at < valid) sum += input[static_cast<size_t>(at)];
        }
        CHECK_EQ(out[static_cast<size_t>(i)], sum);
      }
    }
  if (emulator::checked()) return;  // which lets nobody peek
  Memory<float> input(256), after(64);
  Memory<uint32_t> before(64);
  for (size_t i = 0; i < 256; ++i) input[i] = static_cast<float>(i);
  run("peek", 1, 64, sizeof(Stages), peek, input.data(), before.data(), after.data());
  for (size_t i = 0; i < 64; ++i) {
    CHECK_EQ(before[i], ~0u);
    CHECK_EQ(after[i], static_cast<float>(4 * i + 3));
  }
}

// --- tensor cores

// The element of a fragment that a lane has in its register i, as the PTX ISA tells it for m16n8k16 of 16-bit types and
// m16n8k8 of TF32: groupID = lane >> 2, threadID_in_group = lane % 4.
struct Element {
  int row, column;
};
Element a_of_halves(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  return {(0 <= i && i < 2) || (4 <= i && i < 6) ? group : group + 8, thread * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
}
Element b_of_halves(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  return {thread * 2 + (i & 1) + (i >= 2 ? 8 : 0), group};
}
Element a_of_tf32(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  return {i == 0 || i == 2 ? group : group + 8, i == 0 || i == 1 ? thread : thread + 4};
}
Element b_of_tf32(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  return {i == 0 ? thread : thread + 4, group};
}
Element d_of(int lane, int i) {
  const int group = lane >> 2, thread = lane % 4;
  return {i < 2 ? group : group + 8, thread * 2 + (i & 1)};
}

struct Fragments {
  uint32_t a[32][4], b[32][2];
  float d[32][4];
};

template <class Type>
__global__ void multiply(Fragments* fragments) {
  const unsigned lane = threadIdx.x % 32;
  Fragments& own = fragments[threadIdx.x / 32];
  mma_16x8<Type>(own.d[lane], own.a[lane], own.b[lane]);
}

template <class Type>
void test_product() {
  constexpr bool halves = !std::is_same_v<Type, tf32>;
  constexpr int depth = halves ? 16 : 8;
  Random random(11);
  for (int round = 0; round < 20; ++round) {
    Memory<Fragments> fragments(2);
    double expected[2][16][8], magnitude[2][16][8];
    for (int w = 0; w < 2; ++w) {
      double a[16][16], b[16][8];
      const auto draw = [&](uint32_t& bits) {
        const auto v = static_cast<float>(random.normal());
        if constexpr (halves) {
          const Type h = from_float<Type>(v);
          bits = h.bits;
          return static_cast<double>(to_float(h));
        } else {
          bits = round_to_tf32(v);
          const double value = std::bit_cast<float>(bits);
          if (round % 2) bits |= static_cast<uint32_t>(random.integer(0, 0x1fff));  // is not looked at
          return value;
        }
      };
      for (int lane = 0; lane < 32; ++lane) {
        Fragments& f = fragments[static_cast<size_t>(w)];
        for (int i = 0; i < (halves ? 8 : 4); ++i) {
          const Element e = halves ? a_of_halves(lane, i) : a_of_tf32(lane, i);
          uint32_t bits;
          a[e.row][e.column] = draw(bits);
          if (halves)
            f.a[lane][i / 2] |= bits << 16 * (i % 2);
          else
            f.a[lane][i] = bits;
        }
        for (int i = 0; i < (halves ? 4 : 2); ++i) {
          const Element e = halves ? b_of_halves(lane, i) : b_of_tf32(lane, i);
          uint32_t bits;
          b[e.row][e.column] = draw(bits);
          if (halves)
            f.b[lane][i / 2] |= bits << 16 * (i % 2);
          else
            f.b[lane][i] = bits;
        }
        for (int i = 0; i < 4; ++i) {
          const Element e = d_of(lane, i);
          f.d[lane][i] = static_cast<float>(random.normal());
          expected[w][e.row][e.column] = f.d[lane][i];
        }
      }
      for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 8; ++j) {
          magnitude[w][i][j] = std::fabs(expected[w][i][j]);
          for (int k = 0; k < depth; ++k) {
            expected[w][i][j] += a[i][k] * b[k][j];
            magnitude[w][i][j] += std::fabs(a[i][k] * b[k][j]);
          }
        }
    }
    run("multiply", 1, 64, 0, multiply<Type>, fragments.data());
    for (int w = 0; w < 2; ++w)
      for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i) {
          const Element e = d_of(lane, i);
          const double error = fragments[static_cast<size_t>(w)].d[lane][i] - expected[w][e.row][e.column];
          CHECK(std::fabs(error) <= depth * 0x1p-24 * magnitude[w][e.row][e.column]);
        }
  }
}

struct Operands {
  alignas(16) float16 a[16][16];
  alignas(16) float16 b[16][16];  // rows of depth
};

// D = A * B, 16 x 16 x 16, by way of shared memory: A as it lies, B transposed by its load.
__global__ void multiply_matrices(const float16* a, const float16* b, float* d) {
  Operands& operands = shared_memory<Operands>();
  for (unsigned i = threadIdx.x; i < 256; i += 32) {
    operands.a[i / 16][i % 16] = a[i];
    operands.b[i / 16][i % 16] = b[i];
  }
  __syncwarp();
  const unsigned lane = threadIdx.x, row = lane % 8, matrix = lane / 8;
  uint32_t of_a[4], of_b[4];
  load_matrices(of_a, &operands.a[row + 8 * (matrix % 2)][8 * (matrix / 2)]);
  load_matrices_transposed(of_b, &operands.b[row + 8 * (matrix % 2)][8 * (matrix / 2)]);
  for (unsigned half = 0; half < 2; ++half) {
    float sums[4] = {};
    const uint32_t columns[2] = {of_b[2 * half], of_b[2 * half + 1]};
    mma_16x8<float16>(sums, of_a, columns);
    for (unsigned i = 0; i < 4; ++i) d[(lane / 4 + 8 * (i / 2)) * 16 + 8 * half + 2 * (lane % 4) + i % 2] = sums[i];
  }
}

void test_matrices() {
  Random random(13);
  for (const Schedule schedule : kSchedules) {
    emulator::set_schedule(schedule);
    Memory<float16> a(256), b(256);
    Memory<float> d(256);
    for (size_t i = 0; i < 256; ++i) {
      a[i] = from_float<float16>(static_cast<float>(random.integer(-9, 9)));
      b[i] = from_float<float16>(static_cast<float>(random.integer(-9, 9)));
    }
    run("multiply_matrices", 1, 32, sizeof(Operands), multiply_matrices, a.data(), b.data(), d.data());
    for (size_t i = 0; i < 16; ++i)
      for (size_t j = 0; j < 16; ++j) {
        double sum = 0;
        for (size_t k = 0; k < 16; ++k) sum += double{to_float(a[i * 16 + k])} * double{to_float(b[k * 16 + j])};
        CHECK_EQ(d[i * 16 + j], sum);
      }
  }
}

// Infinity and NaN go through a product as they do through arithmetic.
void test_special_products() {
  const float infinity = HUGE_VALF;
  Memory<Fragments> fragments(1);
  const uint32_t one = pack_pair<float16>(1, 1);
  for (int lane = 0; lane < 32; ++lane) {
    for (uint32_t& a : fragments[0].a[lane]) a = one;
    for (uint32_t& b : fragments[0].b[lane]) b = one;
  }
  fragments[0].a[4][0] = pack_pair<float16>(infinity, 1);  // row 1, depth 0
  fragments[0].b[20][1] = pack_pair<float16>(NAN, 1);      // column 5, depth 8
  run("multiply", 1, 32, 0, multiply<float16>, fragments.data());
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const Element e = d_of(lane, i);
      const float v = fragments[0].d[lane][i];
      CHECK(e.column == 5 ? std::isnan(v) : same_bits(v, e.row == 1 ? infinity : 16.0f));
    }
}

// --- speed

__global__ void meet_often(int rounds, int* out) {
  int v = 1;
  for (int i = 0; i < rounds; ++i) v = __shfl_xor_sync(~0u, v, 1);
  out[threadIdx.x] = v;
}

void measure() {
  emulator::set_schedule({Order::forward});
  Memory<int> out(256);
  const uint64_t before = emulator::counts().switches;
  const std::clock_t start = std::clock();
  run("meet_often", 1, 256, 0, meet_often, 4000, out.data());
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  std::printf("%.3g switches of a thread per second\n",
              static_cast<double>(emulator::counts().switches - before) / seconds);
}

}  // namespace

int main() {
  test_grids();
  test_limits();
  test_all_of_shared_memory();
  test_schedules();
  test_barriers();
  test_several_hosts();
  test_shuffles();
  test_votes();
  test_partial_warps();
  test_two_ways();
  test_halves();
  test_sixteen_bytes();
  test_functions();
  test_atomics();
  test_copies();
  test_product<float16>();
  test_product<bfloat16>();
  test_product<tf32>();
  test_matrices();
  test_special_products();
  measure();
}

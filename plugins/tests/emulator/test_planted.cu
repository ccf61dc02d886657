// Kernels with a bug in them, which the emulator must find, and the same kernels without it, which must pass.
//
// Every kernel is a template over `Bug`. It runs in a child process under three schedules; its numbers are compared. A
// bug is found when the child ends with the expected words in what it wrote, "wrong numbers" where only those tell.
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "check.h"
#include "common/cuda/mma.cuh"
#include "emulator/emulator.h"

using namespace dyndeploy::cuda;
using namespace dyndeploy::test;
namespace emulator = dyndeploy::emulator;

namespace {

constexpr int kThreads = 64;
constexpr int kInputs = 256, kOutputs = 256;

struct Data {
  const float* input;  // 0, 1, 2, …
  float* output;       // 0 in the beginning
  float* workspace;    // as long as output, never written
};

struct Row {
  float values[kThreads];
};

// The row of shared memory is 0 everywhere, and all threads have seen that.
__device__ Row& cleared_row() {
  Row& row = shared_memory<Row>();
  row.values[threadIdx.x] = 0;
  __syncthreads();
  return row;
}

// --- waiting for each other

template <bool Bug>
__global__ void missing_barrier(Data data) {
  Row& row = cleared_row();
  row.values[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (!Bug) __syncthreads();
  data.output[threadIdx.x] = row.values[kThreads - 1 - threadIdx.x];
}

template <bool Bug>
__global__ void barrier_not_for_all(Data data) {
  if (Bug && threadIdx.x >= 40) return;
  __syncthreads();
  data.output[threadIdx.x] = 1;
}

template <bool Bug>
__global__ void two_barriers(Data data) {
  if (Bug && threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  data.output[threadIdx.x] = 1;
}

template <bool Bug>
__global__ void barrier_and_shuffle(Data data) {
  float v = 1;
  if (!Bug || threadIdx.x % 32 < 16) v = __shfl_xor_sync(~0u, v, 1);
  __syncthreads();
  data.output[threadIdx.x] = v;
}

template <bool Bug>
__global__ void collective_of_half_a_warp(Data data) {
  float v = static_cast<float>(threadIdx.x % 32);
  if (threadIdx.x % 32 < 16) {
    v = __shfl_xor_sync(Bug ? ~0u : 0xffffu, v, 1);
  } else {
    v = __shfl_xor_sync(Bug ? ~0u : 0xffff0000u, v, 1);
  }
  data.output[threadIdx.x] = v;
}

// Three lanes, each of which waits for the next one.
template <bool Bug>
__global__ void circle(Data data) {
  const unsigned lane = threadIdx.x % 32;
  if (lane < 3) __syncwarp(Bug ? 1u << lane | 1u << (lane + 1) % 3 : 7u);
  data.output[threadIdx.x] = 1;
}

template <bool Bug>
__global__ void shuffle_from_outside(Data data) {
  float v = static_cast<float>(threadIdx.x % 32);
  if (threadIdx.x % 32 < 16) v = __shfl_sync(0xffffu, v, Bug ? 20 : 12);
  data.output[threadIdx.x] = v;
}

template <bool Bug>
__global__ void shuffle_with_exited(Data data) {
  if (threadIdx.x % 32 >= 16) return;
  const float v = __shfl_xor_sync(Bug ? ~0u : 0xffffu, static_cast<float>(threadIdx.x), 1);
  data.output[threadIdx.x] = v;
}

template <bool Bug>
__global__ void mask_without_oneself(Data data) {
  __syncwarp(Bug ? 0xffffu : ~0u);
  data.output[threadIdx.x] = 1;
}

// --- memory that is not there, or not like this

template <bool Bug>
__global__ void shared_overrun(Data data) {
  float* const row = cleared_row().values;
  const unsigned at = threadIdx.x + (Bug ? 4 : 0);
  row[at] = 1;
  data.output[threadIdx.x] = row[at];
}

template <bool Bug>
__global__ void global_read_overrun(Data data) {
  const unsigned at = blockIdx.x * kThreads + threadIdx.x + (Bug ? 2 : 0);
  data.output[blockIdx.x * kThreads + threadIdx.x] = data.input[at] * 0;
}

template <bool Bug>
__global__ void global_write_overrun(Data data) {
  data.output[blockIdx.x * kThreads + threadIdx.x + (Bug ? 2 : 0)] = 1;
}

template <bool Bug>
__global__ void write_to_input(Data data) {
  (Bug ? const_cast<float*>(data.input) : data.output)[threadIdx.x] = 1;
}

template <bool Bug>
__global__ void misaligned(Data data) {
  const Sixteen v = load_sixteen(data.input + (Bug ? 2 : 4));
  data.output[threadIdx.x] = __uint_as_float(v.words[0]);
}

struct Halves {
  uint16_t values[4 * 8 * 8];
};

template <bool Bug>
__global__ void misaligned_pointer(Data data) {
  const float4 v = *reinterpret_cast<const float4*>(data.input + (Bug ? 1 : 0));
  data.output[threadIdx.x] = v.y - v.x + v.z + (Bug ? 0 : v.z);
}

template <bool Bug>
__global__ void misaligned_store(Data data) {
  store_sixteen(data.output + 4 * threadIdx.x + (Bug ? 1 : 0), Sixteen{});
}

template <bool Bug>
__global__ void read_only_of_shared(Data data) {
  const float* const row = cleared_row().values;
  data.output[threadIdx.x] = __ldg((Bug ? row : data.input) + threadIdx.x) * 0;
}

template <bool Bug>
__global__ void read_only_of_what_is_written(Data data) {
  data.workspace[threadIdx.x] = static_cast<float>(threadIdx.x);
  const float* const from = &data.workspace[threadIdx.x];
  data.output[threadIdx.x] = Bug ? __ldg(from) : *from;
}

template <bool Bug>
__global__ void misaligned_matrix(Data data) {
  Halves& halves = shared_memory<Halves>();
  for (unsigned i = threadIdx.x; i < 256; i += kThreads) halves.values[i] = static_cast<uint16_t>(i);
  __syncthreads();
  uint32_t words[4];
  load_matrices(words, &halves.values[threadIdx.x % 32 * 8 + (Bug ? 4 : 0)]);
  data.output[threadIdx.x] = static_cast<float>(words[0] & 0xffff);
}

template <bool Bug>
__global__ void matrix_from_global(Data data) {
  Halves& halves = shared_memory<Halves>();
  for (unsigned i = threadIdx.x; i < 256; i += kThreads) halves.values[i] = 0;
  __syncthreads();
  uint32_t words[4];
  load_matrices(words, Bug ? static_cast<const void*>(data.input) : halves.values);
  data.output[threadIdx.x] = static_cast<float>(words[0]);
}

template <bool Bug>
__global__ void more_shared_than_launched(Data data) {
  struct Large {
    float values[kThreads + 4];
  };
  float* const row = Bug ? shared_memory<Large>().values : shared_memory<Row>().values;
  row[threadIdx.x] = 1;
  data.output[threadIdx.x] = row[threadIdx.x];
}

template <bool Bug>
__global__ void local_of_another_thread(Data data) {
  struct Pointers {
    float* of[kThreads];
  };
  Pointers& pointers = shared_memory<Pointers>();
  float own = static_cast<float>(threadIdx.x);
  pointers.of[threadIdx.x] = &own;
  __syncthreads();
  data.output[threadIdx.x] = *pointers.of[Bug ? threadIdx.x ^ 1 : threadIdx.x];
  __syncthreads();
}

template <bool Bug>
__global__ void wild_pointer(Data data) {
  float* const to = Bug ? reinterpret_cast<float*>(uintptr_t{threadIdx.x} * 4) : data.output;
  to[threadIdx.x] = 1;
}

__attribute__((noinline)) float descend(unsigned depth) {
  volatile float frame[64];
  for (unsigned i = 0; i < 64; ++i) frame[i] = static_cast<float>(depth);
  return depth == 0 ? frame[0] : descend(depth - 1) + frame[depth % 64] - static_cast<float>(depth);
}

template <bool Bug>
__global__ void stack_overflow(Data data) {
  data.output[threadIdx.x] = 1 + descend(Bug ? 100000 : 100);
}

// --- numbers that nobody has written

template <bool Bug>
__global__ void uninitialised_shared(Data data) {
  Row& row = shared_memory<Row>();
  if (!Bug || threadIdx.x != 5) row.values[threadIdx.x] = 1;
  __syncthreads();
  data.output[threadIdx.x] = row.values[threadIdx.x ^ 1];
}

template <bool Bug>
__global__ void uninitialised_workspace(Data data) {
  if (!Bug || threadIdx.x != 5) data.workspace[threadIdx.x] = 1;
  __syncthreads();
  data.output[threadIdx.x] = data.workspace[threadIdx.x ^ 1];
}

// --- races

template <bool Bug>
__global__ void race_of_warps(Data data) {
  Row& row = cleared_row();
  row.values[Bug ? threadIdx.x % 32 : threadIdx.x] = static_cast<float>(threadIdx.x / 32);
  __syncthreads();
  data.output[threadIdx.x] = row.values[Bug ? threadIdx.x % 32 : threadIdx.x];
}

template <bool Bug>
__global__ void write_after_read(Data data) {
  Row& row = cleared_row();
  const float before = row.values[(threadIdx.x + 32) % kThreads];
  if (!Bug) __syncthreads();
  row.values[threadIdx.x] = 1;
  data.output[threadIdx.x] = before;
}

template <bool Bug>
__global__ void race_of_lanes(Data data) {
  Row& row = cleared_row();
  row.values[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (!Bug) __syncwarp();
  data.output[threadIdx.x] = row.values[threadIdx.x ^ 1];
}

// A shuffle makes lanes meet; what they wrote need not have arrived.
template <bool Bug>
__global__ void shuffle_for_a_barrier(Data data) {
  Row& row = cleared_row();
  row.values[threadIdx.x] = static_cast<float>(threadIdx.x);
  const float one = __shfl_sync(~0u, 1.0f, 0);
  if (!Bug) __syncwarp();
  data.output[threadIdx.x] = one * row.values[threadIdx.x ^ 1];
}

template <bool Bug>
__global__ void too_few_lanes(Data data) {
  Row& row = cleared_row();
  row.values[threadIdx.x] = static_cast<float>(threadIdx.x);
  const unsigned lane = threadIdx.x % 32;
  __syncwarp(0xfu << (lane & ~3u));
  if (!Bug) __syncwarp(0xffu << (lane & ~7u));
  data.output[threadIdx.x] = row.values[threadIdx.x ^ 4];
}

template <bool Bug>
__global__ void lanes_of_a_chain(Data data) {
  // Lane 0 is known to lane 2 by lane 1, which met both, in this order.
  Row& row = cleared_row();
  const unsigned lane = threadIdx.x % 32;
  if (lane == 0) row.values[threadIdx.x] = 7;
  if (Bug) {
    if (lane == 1 || lane == 2) __syncwarp(6);
    if (lane < 2) __syncwarp(3);
  } else {
    if (lane < 2) __syncwarp(3);
    if (lane == 1 || lane == 2) __syncwarp(6);
  }
  if (lane == 2) data.output[threadIdx.x] = row.values[threadIdx.x - 2];
}

template <bool Bug>
__global__ void race_of_blocks(Data data) {
  if (threadIdx.x == 0) data.output[Bug ? 0 : blockIdx.x] = static_cast<float>(blockIdx.x);
}

template <bool Bug>
__global__ void block_reads_another(Data data) {
  const unsigned own = blockIdx.x * kThreads + threadIdx.x;
  data.workspace[own] = static_cast<float>(own);
  __syncthreads();
  data.output[own] = data.workspace[Bug ? own ^ kThreads : own ^ 1];
}

template <bool Bug>
__global__ void block_writes_what_another_read(Data data) {
  const unsigned own = blockIdx.x * kThreads + threadIdx.x;
  const float before = data.output[Bug ? (own + kThreads) % kOutputs : own];
  __syncthreads();
  data.output[own] = before + 1;
}

template <bool Bug>
__global__ void atomic_and_plain(Data data) {
  if (threadIdx.x != 0) return;
  if (Bug && blockIdx.x == 2)
    data.output[0] += 1;
  else
    atomicAdd(&data.output[0], 1.0f);
}

// --- tensor cores

template <bool Bug>
__global__ void swapped_fragments(Data data) {
  // A[i][k] = i + 20 k, B = identity in its first 8 rows: D[i][j] = A[i][j].
  const unsigned lane = threadIdx.x % 32, r = lane / 4, c = lane % 4;
  const auto element = [](unsigned i, unsigned k) { return static_cast<float>(i + 20 * k); };
  uint32_t a[4], b[2];
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = r + 8 * (Bug ? i / 2 : i % 2), k = 2 * c + 8 * (Bug ? i % 2 : i / 2);
    a[i] = pack_pair<float16>(element(row, k), element(row, k + 1));
  }
  for (unsigned i = 0; i < 2; ++i)
    b[i] = pack_pair<float16>(2 * c + 8 * i == r ? 1.0f : 0.0f, 2 * c + 8 * i + 1 == r ? 1.0f : 0.0f);
  float d[4] = {};
  mma_16x8<float16>(d, a, b);
  if (threadIdx.x >= 32) return;
  for (unsigned i = 0; i < 4; ++i) data.output[(r + 8 * (i / 2)) * 8 + 2 * c + i % 2] = d[i];
}

template <bool Bug>
__global__ void product_of_half_a_warp(Data data) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (!Bug || threadIdx.x % 32 < 16) mma_16x8<float16>(d, a, b);
  data.output[threadIdx.x] = d[0];
}

template <bool Bug>
__global__ void products_in_two_branches(Data data) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (threadIdx.x % (Bug ? 32 : 64) < (Bug ? 16 : 32))
    mma_16x8<float16>(d, a, b);
  else
    mma_16x8<float16>(d, a, b);
  data.output[threadIdx.x] = d[0];
}

// The word that a lane reads was written by another one: the address alone does not say so.
template <bool Bug>
__global__ void matrices_without_barrier(Data data) {
  Halves& halves = shared_memory<Halves>();
  for (unsigned i = 0; i < 4; ++i) halves.values[64 * i + threadIdx.x] = 0;
  __syncthreads();
  const unsigned lane = threadIdx.x;
  if (lane < 32) {
    for (unsigned i = 0; i < 8; ++i) halves.values[8 * lane + i] = static_cast<uint16_t>(8 * lane + i);
    if (!Bug) __syncwarp();
    uint32_t words[4];
    load_matrices(words, &halves.values[8 * lane]);
    data.output[lane] = static_cast<float>(words[0] & 0xffff);
  }
}

// --- asynchronous copies

struct Stage {
  float values[4 * kThreads];
};

template <bool Bug>
__global__ void copy_read_too_early(Data data) {
  Stage& stage = shared_memory<Stage>();
  copy_async_sixteen(&stage.values[4 * threadIdx.x], &data.input[4 * threadIdx.x], true);
  copy_async_commit();
  if (!Bug) copy_async_wait<0>();
  data.output[threadIdx.x] = stage.values[4 * threadIdx.x];
  copy_async_wait<0>();
}

// Waited for, but only by the thread that issued it.
template <bool Bug>
__global__ void copy_without_barrier(Data data) {
  Stage& stage = shared_memory<Stage>();
  copy_async_sixteen(&stage.values[4 * threadIdx.x], &data.input[4 * threadIdx.x], true);
  copy_async_commit();
  copy_async_wait<0>();
  if (!Bug) __syncthreads();
  data.output[threadIdx.x] = stage.values[4 * (threadIdx.x ^ 32)];
}

template <bool Bug>
__global__ void copy_never_waited_for(Data data) {
  Stage& stage = shared_memory<Stage>();
  copy_async_sixteen(&stage.values[4 * threadIdx.x], &data.input[4 * threadIdx.x], true);
  copy_async_commit();
  copy_async_wait<Bug ? 1 : 0>();
  data.output[threadIdx.x] = 1;
}

template <bool Bug>
__global__ void copy_into_what_is_read(Data data) {
  Stage& stage = shared_memory<Stage>();
  for (unsigned i = 0; i < 4; ++i) stage.values[4 * threadIdx.x + i] = 1;
  __syncthreads();
  const float before = stage.values[4 * (threadIdx.x ^ 32)];
  if (!Bug) __syncthreads();
  copy_async_sixteen(&stage.values[4 * threadIdx.x], &data.input[4 * threadIdx.x], true);
  copy_async_commit();
  copy_async_wait<0>();
  data.output[threadIdx.x] = before;
}

template <bool Bug>
__global__ void misaligned_copy(Data data) {
  Stage& stage = shared_memory<Stage>();
  copy_async_sixteen(&stage.values[4 * threadIdx.x], &data.input[Bug ? 2 : 4], true);
  copy_async_commit();
  copy_async_wait<0>();
  data.output[threadIdx.x] = stage.values[4 * threadIdx.x];
}

// --- the cases

// What must be found by kernels compiled plainly, by AddressSanitizer and UBSan in addition, and by the checker. Empty:
// this one cannot see it.
struct Found {
  std::string plainly, sanitized, checked;
};
Found everywhere(const std::string& words) { return {words, words, words}; }

struct Case {
  const char* name;
  void (*planted)(Data);
  void (*twin)(Data);
  unsigned blocks;
  int shared_bytes;
  Found found;
  float (*right)(int i);  // output of the twin
};

float zero(int) { return 0; }
float one(int i) { return i < kThreads ? 1.0f : 0.0f; }
float neighbour(int i) { return i < kThreads ? static_cast<float>(i ^ 1) : 0; }

#define KERNEL(name) #name, name<true>, name<false>
constexpr int kRow = sizeof(Row), kHalves = sizeof(Halves), kStage = sizeof(Stage);
const std::string kOverflow = "heap-buffer-overflow", kWrong = "wrong numbers";

const Case kCases[] = {
    {KERNEL(missing_barrier), 1, kRow, {kWrong, kWrong, "race between two warps"},
     [](int i) { return i < kThreads ? static_cast<float>(kThreads - 1 - i) : 0; }},
    {KERNEL(barrier_not_for_all), 1, 0, everywhere("divergent barrier"), one},
    {KERNEL(two_barriers), 1, 0, everywhere("divergent barrier"), one},
    {KERNEL(barrier_and_shuffle), 1, 0, everywhere("divergent barrier"), one},
    {KERNEL(collective_of_half_a_warp), 1, 0, everywhere("divergent warp"),
     [](int i) { return i < kThreads ? static_cast<float>((i ^ 1) % 32) : 0; }},
    {KERNEL(circle), 1, 0, everywhere("__syncwarp"), one},
    {KERNEL(shuffle_from_outside), 1, 0, everywhere("reads lane 20, which is inactive or not in the mask"),
     [](int i) { return i >= kThreads ? 0 : i % 32 < 16 ? 12.0f : static_cast<float>(i % 32); }},
    {KERNEL(shuffle_with_exited), 1, 0, everywhere("exited"),
     [](int i) { return i < kThreads && i % 32 < 16 ? static_cast<float>(i ^ 1) : 0; }},
    {KERNEL(mask_without_oneself), 1, 0, everywhere("in which the calling lane is not"), one},

    {KERNEL(shared_overrun), 1, kRow, {"", kOverflow, "after the end of shared memory, which has 256 bytes"}, one},
    {KERNEL(global_read_overrun), 4, 0, {"", kOverflow, "after the end of input, which has 1024 bytes"}, zero},
    {KERNEL(global_write_overrun), 4, 0, {"", kOverflow, "after the end of output, which has 1024 bytes"},
     [](int) { return 1.0f; }},
    {KERNEL(write_to_input), 1, 0, {kWrong, kWrong, "write to a buffer that may only be read: input + 0"}, one},
    {KERNEL(misaligned), 1, 0, everywhere("misaligned address: a load of 16 bytes"),
     [](int i) { return i < kThreads ? 4.0f : 0; }},
    {KERNEL(misaligned_store), 1, 0, everywhere("misaligned address: a store of 16 bytes"), zero},
    {KERNEL(misaligned_pointer), 1, 0, {"", "misaligned address", ""},
     [](int i) { return i < kThreads ? 5.0f : 0; }},
    {KERNEL(read_only_of_shared), 1, kRow, everywhere("read-only path from shared memory"), zero},
    {KERNEL(read_only_of_what_is_written), 1, 0, {"", "", "read-only path of what the same launch has written"},
     [](int i) { return i < kThreads ? static_cast<float>(i) : 0; }},
    {KERNEL(misaligned_matrix), 1, kHalves, everywhere("load_matrices from"),
     [](int i) { return i < kThreads ? static_cast<float>(8 * (i % 32 / 4) + 2 * (i % 4)) : 0; }},
    {KERNEL(matrix_from_global), 1, kHalves, everywhere("not in the block's shared memory"), zero},
    {KERNEL(more_shared_than_launched), 1, kRow,
     everywhere("uses 272 bytes of shared memory, of which its launch asked for 256"), one},
    {KERNEL(local_of_another_thread), 1, 512, {kWrong, kWrong, "local memory of another thread"},
     [](int i) { return i < kThreads ? static_cast<float>(i) : 0; }},

    {KERNEL(wild_pointer), 1, 0, {"segmentation fault", "SEGV", "out of bounds"}, one},
    {KERNEL(stack_overflow), 1, 0, {"of stack overflow", "stack-overflow", "of stack overflow"}, one},

    {KERNEL(uninitialised_shared), 1, kRow,
     {kWrong, kWrong, "uninitialised shared memory is read: shared memory + 20"}, one},
    {KERNEL(uninitialised_workspace), 1, 0, {"", "", "uninitialised workspace is read: workspace + 20"}, one},

    {KERNEL(race_of_warps), 1, kRow, {kWrong, kWrong, "race between two warps"},
     [](int i) { return i < kThreads ? static_cast<float>(i / 32) : 0; }},
    {KERNEL(write_after_read), 1, kRow, {kWrong, kWrong, "race between two warps"}, zero},
    {KERNEL(race_of_lanes), 1, kRow, {kWrong, kWrong, "race between two lanes"}, neighbour},
    {KERNEL(shuffle_for_a_barrier), 1, kRow, {"", "", "race between two lanes"}, neighbour},
    {KERNEL(too_few_lanes), 1, kRow, {"", "", "race between two lanes"},
     [](int i) { return i < kThreads ? static_cast<float>(i ^ 4) : 0; }},
    {KERNEL(lanes_of_a_chain), 1, kRow, {"", "", "race between two lanes"},
     [](int i) { return i < kThreads && i % 32 == 2 ? 7.0f : 0; }},
    {KERNEL(race_of_blocks), 4, 0, {kWrong, kWrong, "race between two blocks"},
     [](int i) { return i < 4 ? static_cast<float>(i) : 0; }},
    {KERNEL(block_reads_another), 4, 0, {kWrong, kWrong, "uninitialised workspace is read"},
     [](int i) { return static_cast<float>(i ^ 1); }},
    {KERNEL(block_writes_what_another_read), 4, 0, {kWrong, kWrong, "race between two blocks"},
     [](int) { return 1.0f; }},
    {KERNEL(atomic_and_plain), 4, 0, {"", "", "race between two blocks"},
     [](int i) { return i == 0 ? 4.0f : 0; }},

    {KERNEL(swapped_fragments), 1, 0, everywhere(kWrong),
     [](int i) { return i < 128 ? static_cast<float>(i / 8 + 20 * (i % 8)) : 0; }},
    {KERNEL(product_of_half_a_warp), 1, 0, everywhere("mma_16x8"), zero},
    {KERNEL(products_in_two_branches), 1, 0, everywhere("divergent warp: mma_16x8"), zero},
    {KERNEL(matrices_without_barrier), 1, kHalves, {"", "", "race between two lanes"},
     [](int i) { return i < 32 ? static_cast<float>(8 * (i / 4) + 2 * (i % 4)) : 0; }},

    {KERNEL(copy_read_too_early), 1, kStage,
     {kWrong, kWrong, "read of an asynchronous copy's destination before its wait"},
     [](int i) { return i < kThreads ? static_cast<float>(4 * i) : 0; }},
    {KERNEL(copy_without_barrier), 1, kStage, {kWrong, kWrong, "uninitialised shared memory is read"},
     [](int i) { return i < kThreads ? static_cast<float>(4 * (i ^ 32)) : 0; }},
    {KERNEL(copy_never_waited_for), 1, kStage, everywhere("1 of its asynchronous copies were never waited for"), one},
    {KERNEL(copy_into_what_is_read), 1, kStage, {kWrong, kWrong, "race between two warps"}, one},
    {KERNEL(misaligned_copy), 1, kStage, everywhere("copy_async_sixteen from a misaligned address"),
     [](int i) { return i < kThreads ? 4.0f : 0; }},
};

// Runs in the child. NaN where the schedule left a poison is a wrong number as well.
void run(const Case& c, void (*kernel)(Data)) {
  using emulator::Order;
  const emulator::Schedule schedules[] = {{Order::forward}, {Order::backward}, {Order::random, 1}};
  for (const emulator::Schedule schedule : schedules) {
    emulator::set_schedule(schedule);
    // Allocated anew, so that AddressSanitizer knows their ends and nothing of the last run is left.
    float* const input = static_cast<float*>(std::aligned_alloc(64, kInputs * sizeof(float)));
    float* const output = static_cast<float*>(std::aligned_alloc(64, kOutputs * sizeof(float)));
    float* const workspace = static_cast<float*>(std::aligned_alloc(64, kOutputs * sizeof(float)));
    for (int i = 0; i < kInputs; ++i) input[i] = static_cast<float>(i);
    for (int i = 0; i < kOutputs; ++i) output[i] = 0;
    for (int i = 0; i < kOutputs; ++i) workspace[i] = -1;
    {
      using emulator::Access;
      using emulator::Buffer;
      using emulator::Contents;
      const Buffer a(input, kInputs * sizeof(float), "input", Access::read_only, Contents::initialised);
      const Buffer b(output, kOutputs * sizeof(float), "output", Access::read_write, Contents::initialised);
      const Buffer w(workspace, kOutputs * sizeof(float), "workspace", Access::read_write, Contents::uninitialised);
      const Launch how{c.name, dim3(c.blocks), kThreads, c.shared_bytes, nullptr};
      CHECK_OK(launch(how, kernel, Data{input, output, workspace}));
    }
    for (int i = 0; i < kOutputs; ++i)
      if (!(output[i] == c.right(i))) {
        std::fprintf(stderr, "wrong numbers: output[%d] is %g instead of %g\n", i, output[i], c.right(i));
        std::_Exit(1);
      }
    std::free(input);
    std::free(output);
    std::free(workspace);
  }
}

struct Ending {
  int status;
  std::string text;
};

Ending in_child(const std::function<void()>& work) {
  int ends[2];
  CHECK_EQ(pipe(ends), 0);
  std::fflush(nullptr);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    work();
    std::_Exit(0);
  }
  close(ends[1]);
  std::string text;
  char part[4096];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) text.append(part, static_cast<size_t>(n));
  close(ends[0]);
  int status = 0;
  CHECK_EQ(waitpid(child, &status, 0), child);
  return {status, text};
}

bool sanitized() {
#if defined(__SANITIZE_ADDRESS__)
  return true;
#else
  return false;
#endif
}

const std::string& of_this_flavour(const Found& found) {
  return emulator::checked() ? found.checked : sanitized() ? found.sanitized : found.plainly;
}

}  // namespace

int main(int argc, char** argv) {
  const bool verbose = argc > 1 && !std::strcmp(argv[1], "--verbose");
  int found = 0, invisible = 0;
  for (const Case& c : kCases) {
    const Note note(c.name);
    const Ending twin = in_child([&] { run(c, c.twin); });
    if (twin.status != 0) fail(__FILE__, __LINE__, "the kernel without the bug does not pass:\n" + twin.text);

    const std::string& words = of_this_flavour(c.found);
    if (words.empty()) {
      ++invisible;
      continue;
    }
    const Ending planted = in_child([&] { run(c, c.planted); });
    if (verbose) std::printf("--- %s\n%s\n", c.name, planted.text.c_str());
    if (planted.status == 0) fail(__FILE__, __LINE__, "the bug was not found");
    if (!WIFEXITED(planted.status)) fail(__FILE__, __LINE__, "ended by a signal: " + planted.text);
    if (planted.text.find(words) == std::string::npos)
      fail(__FILE__, __LINE__, "expected '" + words + "' in:\n" + planted.text);
    if (words == kWrong) {
      CHECK_EQ(WEXITSTATUS(planted.status), 1);
    } else {
      // Whoever found it, the report names the kernel.
      if (planted.text.find(std::string("kernel ") + c.name) == std::string::npos)
        fail(__FILE__, __LINE__, "the report does not name the kernel:\n" + planted.text);
      if (!sanitized()) CHECK_EQ(WEXITSTATUS(planted.status), emulator::kErrorExit);
      if (planted.text.find("test_planted.cu:") == std::string::npos && words.find("read lane") == std::string::npos)
        fail(__FILE__, __LINE__, "the report does not name the source:\n" + planted.text);
    }
    ++found;
  }
  std::printf("%d planted bugs found, %d not visible to this flavour\n", found, invisible);
}

#include "emulator/machine.h"

#include <cstdlib>
#include <cstring>
#include <numeric>

#include "common/cuda/cuda.cuh"

__thread uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace dyndeploy::emulator {

__thread Machine* machine = nullptr;
Observer* observer = nullptr;

namespace {

constexpr unsigned kMostBlocks = 65535;  // along y and z; along x there may be 2^31 - 1

// Deletes a thread's machine when the thread ends.
struct Owner {
  ~Owner() {
    delete machine;
    machine = nullptr;
  }
};

thread_local bool schedule_is_set = false;
thread_local Schedule own_schedule;

Schedule current_schedule() {
  if (schedule_is_set) return own_schedule;
  Schedule schedule;
  const char* text = std::getenv("DYNDEPLOY_EMULATOR_SCHEDULE");
  if (!text || !*text || !std::strcmp(text, "forward")) return schedule;
  if (!std::strcmp(text, "backward")) {
    schedule.order = Order::backward;
  } else if (!std::strncmp(text, "random", 6) && (text[6] == 0 || text[6] == ':')) {
    schedule.order = Order::random;
    if (text[6]) schedule.seed = std::strtoull(text + 7, nullptr, 10);
  } else {
    error({}, "DYNDEPLOY_EMULATOR_SCHEDULE is '%s', not forward, backward, random or random:SEED", text);
  }
  return schedule;
}

bool same(Where a, Where b) { return a.line == b.line && (a.file == b.file || !std::strcmp(a.file, b.file)); }

bool same(const Arrival& a, const Arrival& b) {
  return a.perform == b.perform && a.mask == b.mask && a.name == b.name && same(a.where, b.where);
}

// The entry of every fiber. Its frame is never left, so nothing in it may be of AddressSanitizer's making.
__attribute__((no_sanitize_address)) void run_thread() {
  Machine& m = *machine;
  if (m.from_host) {
    m.from_host = false;
    arrived_from(m.host);
  } else {
    Context unused;
    arrived_from(unused);
  }
  m.grid.run(m.grid.call);
  m.exit_thread();
}

}  // namespace

Machine::~Machine() {
  for (const auto& fiber : fibers) release(fiber->stack);
}

uint64_t Machine::draw() {
  uint64_t z = (random += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  return z ^ (z >> 31);
}

void Machine::set_ready(unsigned warp, unsigned lanes) {
  warps[warp].ready |= lanes;
  ready_warps |= 1u << warp;
}

void Machine::unset_ready(unsigned warp, unsigned lanes) {
  warps[warp].ready &= ~lanes;
  if (warps[warp].ready == 0) ready_warps &= ~(1u << warp);
}

Fiber* Machine::pick() {
  if (ready_warps == 0) return nullptr;
  unsigned warp, lane;
  if (schedule.order == Order::forward) {
    warp = static_cast<unsigned>(std::countr_zero(ready_warps));
    lane = static_cast<unsigned>(std::countr_zero(warps[warp].ready));
  } else if (schedule.order == Order::backward) {
    warp = 31u - static_cast<unsigned>(std::countl_zero(ready_warps));
    lane = 31u - static_cast<unsigned>(std::countl_zero(warps[warp].ready));
  } else {
    const uint64_t bits = draw();
    const unsigned a = bits & 31, b = bits >> 5 & 31;
    warp = (static_cast<unsigned>(std::countr_zero(std::rotr(ready_warps, static_cast<int>(a)))) + a) & 31;
    lane = (static_cast<unsigned>(std::countr_zero(std::rotr(warps[warp].ready, static_cast<int>(b)))) + b) & 31;
  }
  return fibers[warp * kLanes + lane].get();
}

// The current fiber waits, has ended, or lets others come first.
void Machine::go_on(bool ended) {
  Fiber* const from = current;
  Fiber* const next = pick();
  if (next == from) return;
  ++counts.switches;
  if (!next) {
    if (exited != grid.threads) stuck();
    current = nullptr;
    switch_to(from->context, host, true);
    __builtin_unreachable();
  }
  current = next;
  threadIdx.x = next->thread;
  switch_to(from->context, next->context, ended);
}

void Machine::collective(const Arrival& arrival) {
  Fiber& me = *current;
  const unsigned w = me.warp();
  Warp& warp = warps[w];
  const unsigned own = 1u << me.lane();
  const unsigned mask = arrival.mask & warp.exist;
  if (!(mask & own))
    error(arrival.where, "%s with mask 0x%08x, in which the calling lane is not", arrival.name, arrival.mask);
  if (mask & warp.exited)
    error(arrival.where, "%s waits for lane %d, which has exited", arrival.name, std::countr_zero(mask & warp.exited));
  if (const unsigned others = mask & warp.at_barrier) {
    const int lane = std::countr_zero(others);
    const Where& at = fibers[w * kLanes + lane]->arrival.where;
    error(arrival.where, "divergent barrier: %s waits for lane %d, which waits in __syncthreads at %s:%d", arrival.name,
          lane, at.file, at.line);
  }
  const auto arrival_of = [&](unsigned lane) -> const Arrival& { return fibers[w * kLanes + lane]->arrival; };
  const bool alike = warp.alike && same(arrival_of(static_cast<unsigned>(std::countr_zero(warp.alike))), arrival);
  for_lanes(mask & warp.waiting & ~(alike ? warp.alike : 0), [&](unsigned lane) {
    const Arrival& other = arrival_of(lane);
    if ((other.mask & own) && !same(other, arrival))
      error(arrival.where,
            "divergent warp: %s (mask 0x%08x) waits for lane %u, which waits in %s (mask 0x%08x) at %s:%d",
            arrival.name, arrival.mask, lane, other.name, other.mask, other.where.file, other.where.line);
  });
  me.arrival = arrival;
  warp.waiting |= own;
  if (alike || !warp.alike) warp.alike |= own;
  unset_ready(w, own);
  bool complete = (warp.waiting & mask) == mask;
  if (complete && warp.alike != mask)
    for_lanes(mask, [&](unsigned lane) { complete &= same(arrival_of(lane), arrival); });
  if (complete) {
    if (arrival.perform) arrival.perform(*this, w, mask);
    warp.waiting &= ~mask;
    if (warp.alike & mask) warp.alike = 0;
    set_ready(w, mask);
  }
  go_on(false);
}

// Ends the program when a lane of this warp waits for the current one, which is about to do something else.
void Machine::check_not_awaited(const char* instead, Where where) {
  const Fiber& me = *current;
  for_lanes(warps[me.warp()].waiting, [&](unsigned lane) {
    const Arrival& other = fibers[me.warp() * kLanes + lane]->arrival;
    if (other.mask >> me.lane() & 1)
      error(where, "divergent barrier: %s while lane %u waits for this one in %s at %s:%d", instead, lane, other.name,
            other.where.file, other.where.line);
  });
}

const Fiber* Machine::first_at_barrier() const {
  if (waiting_at_barrier == 0) return nullptr;
  unsigned w = 0;
  while (!warps[w].at_barrier) ++w;
  return fibers[w * kLanes + static_cast<unsigned>(std::countr_zero(warps[w].at_barrier))].get();
}

void Machine::barrier(Where where) {
  Fiber& me = *current;
  if (exited > 0)
    error(where, "divergent barrier: __syncthreads, which %u threads of the block cannot reach: they have exited",
          exited);
  check_not_awaited("__syncthreads", where);
  if (const Fiber* other = first_at_barrier(); other && !same(other->arrival.where, where))
    error(where, "divergent barrier: __syncthreads, while thread %u waits in another one at %s:%d", other->thread,
          other->arrival.where.file, other->arrival.where.line);
  me.arrival.where = where;
  warps[me.warp()].at_barrier |= 1u << me.lane();
  unset_ready(me.warp(), 1u << me.lane());
  if (++waiting_at_barrier == grid.threads) {
    waiting_at_barrier = 0;
    for (unsigned w = 0; w < (grid.threads + kLanes - 1) / kLanes; ++w) {
      warps[w].at_barrier = 0;
      set_ready(w, warps[w].exist);
    }
    if (observer) observer->block_synchronised();
  }
  go_on(false);
}

void Machine::exit_thread() {
  Fiber& me = *current;
  if (!me.copies.empty())
    error(me.copies.back().where, "the thread ends while %zu of its asynchronous copies were never waited for",
          me.copies.size());
  check_not_awaited("the thread ends", me.arrival.where);
  if (const Fiber* other = first_at_barrier())
    error(other->arrival.where, "divergent barrier: the thread ends while thread %u waits in __syncthreads",
          other->thread);
  warps[me.warp()].exited |= 1u << me.lane();
  ++exited;
  unset_ready(me.warp(), 1u << me.lane());
  go_on(true);
  __builtin_unreachable();
}

void Machine::stuck() {
  for (unsigned thread = 0; thread < grid.threads; ++thread) {
    const Warp& warp = warps[thread / kLanes];
    if (!(warp.waiting >> thread % kLanes & 1)) continue;
    const Arrival& arrival = fibers[thread]->arrival;
    error(arrival.where, "no thread can go on; thread %u waits in %s with mask 0x%08x", thread, arrival.name,
          arrival.mask);
  }
  error({}, "no thread can go on");
}

void Machine::run_block() {
  if (grid.shared_bytes) std::memset(shared, 0xff, grid.shared_bytes);
  for (unsigned i = 0; i < grid.threads; ++i) {
    Fiber& fiber = *fibers[i];
    fiber.arrival = {};
    fiber.copies.clear();
    fiber.groups.clear();
    fiber.uncommitted = 0;
    prepare(fiber.context, fiber.stack, i, run_thread);
  }
  for (Warp& warp : warps) warp = {};
  ready_warps = waiting_at_barrier = exited = 0;
  for (unsigned i = 0; i < grid.threads; i += kLanes) {
    const unsigned lanes = grid.threads - i < kLanes ? (1u << (grid.threads - i)) - 1 : ~0u;
    warps[i / kLanes].exist = lanes;
    set_ready(i / kLanes, lanes);
  }
  if (observer) observer->block_begins();
  ++counts.blocks;
  ++counts.switches;
  current = pick();
  threadIdx = {current->thread, 0, 0};
  from_host = true;
  switch_to(host, current->context, false);
}

void Machine::run_grid() {
  ++counts.launches;
  while (fibers.size() < grid.threads) {
    auto fiber = std::make_unique<Fiber>();
    fiber->thread = static_cast<unsigned>(fibers.size());
    if (!allocate(fiber->stack)) error({}, "no memory for the stacks of %u threads", grid.threads);
    fibers.push_back(std::move(fiber));
  }
  schedule = current_schedule();
  random = schedule.seed;
  // What lies beyond is AddressSanitizer's to notice, or the checker's, which needs to know it for the surroundings.
  const size_t guard = observer ? kSharedGuard : 0;
  void* memory = nullptr;
  if (grid.shared_bytes && posix_memalign(&memory, 1024, grid.shared_bytes + 2 * guard))
    error({}, "no memory for shared memory");
  shared = memory ? static_cast<unsigned char*>(memory) + guard : nullptr;
  blockDim = {grid.threads, 1, 1};
  gridDim = grid.blocks;
  if (observer) observer->grid_begins();

  const uint64_t count = uint64_t{grid.blocks.x} * grid.blocks.y * grid.blocks.z;
  // A step that has no factor in common with the count visits every block once.
  uint64_t at = 0, step = 1;
  if (schedule.order == Order::random) {
    at = draw() % count;
    step = draw() % count;
    while (std::gcd(step, count) != 1) ++step;
  } else if (schedule.order == Order::backward) {
    at = count - 1;
    step = count - 1;
  }
  for (uint64_t i = 0; i < count; ++i) {
    block = {static_cast<unsigned>(at % grid.blocks.x), static_cast<unsigned>(at / grid.blocks.x % grid.blocks.y),
             static_cast<unsigned>(at / grid.blocks.x / grid.blocks.y)};
    blockIdx = block;
    run_block();
    at = (at + step) % count;
  }
  if (observer) observer->grid_ended();
  free(memory);
  shared = nullptr;
}

cudaError_t launch(const char* name, dim3 blocks, int threads, int shared_bytes, void (*run)(const void* call),
                   const void* call, size_t call_bytes) {
  if (!machine) {
    thread_local Owner owner;
    (void)owner;
    machine = new Machine;
    report_faults();
  }
  if (machine->current) error({}, "a kernel launches the kernel %s", name);
  if (threads < 1 || threads > kMostThreads || blocks.x < 1 || blocks.x > 0x7fffffff || blocks.y < 1 ||
      blocks.y > kMostBlocks || blocks.z < 1 || blocks.z > kMostBlocks)
    return cudaErrorInvalidConfiguration;
  if (shared_bytes < 0 || shared_bytes > cuda::kMostSharedBytes) return cudaErrorInvalidValue;
  machine->grid = {name,
                   {blocks.x, blocks.y, blocks.z},
                   static_cast<unsigned>(threads),
                   static_cast<size_t>(shared_bytes),
                   run,
                   call,
                   call_bytes};
  machine->run_grid();
  return cudaSuccess;
}

Machine& running(const char* name) {
  if (!machine || !machine->current) error({}, "%s outside of a kernel", name);
  return *machine;
}

void* shared_memory(size_t bytes, size_t alignment, Where where) {
  Machine& m = running("shared_memory");
  if (bytes > m.grid.shared_bytes)
    error(where, "the kernel uses %zu bytes of shared memory, of which its launch asked for %zu", bytes,
          m.grid.shared_bytes);
  if (alignment > 128) error(where, "shared memory is aligned to 128 bytes, not to %zu", alignment);
  return m.shared;
}

void set_schedule(Schedule schedule) {
  schedule_is_set = true;
  own_schedule = schedule;
}

Counts counts() {
  Counts counts = machine ? machine->counts : Counts{};
  if (observer) counts.accesses = observer->accesses();
  return counts;
}

bool checked() { return observer != nullptr; }

Buffer::Buffer(const void* data, size_t bytes, const char* name, Access access, Contents contents) : data_(data) {
  if (observer) observer->buffer(data, bytes, name, access, contents);
}
Buffer::~Buffer() {
  if (observer) observer->forget(data_);
}

}  // namespace dyndeploy::emulator

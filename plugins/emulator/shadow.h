// What the checker remembers about memory: who touched which bytes last, and whether a thread that touches them now is
// ordered after that.
//
// Time is counted in epochs, which grow with every launch, every block and every __syncthreads. Blocks run one after
// the other, so that an epoch tells
//
//   earlier launch  |  earlier block of this launch  |  this block before its last barrier  |  now
//      ordered      |          not ordered           |               ordered                |  only within a warp
//
// Within a warp __syncwarp orders, and nothing else does: shuffles, votes and products make lanes meet, but promise
// nothing about memory. Every lane has a clock, which ticks with each __syncwarp that it takes part in. One of all
// lanes is remembered by the clocks' largest reading; for one of some lanes every lane knows what it has seen of the
// other's clocks.
#pragma once

#include <cstdint>
#include <cstring>

#include "emulator/machine.h"

namespace dyndeploy::emulator {

class Touch {
 public:
  Touch() = default;
  Touch(unsigned thread, const void* caller, uint32_t epoch, uint32_t clock)
      : who_(reinterpret_cast<uintptr_t>(caller) << 16 | thread), epoch_(epoch), clock_(clock) {}

  unsigned thread() const { return who_ & 0xffff; }
  unsigned warp() const { return thread() / kLanes; }
  unsigned lane() const { return thread() % kLanes; }
  // In the kernel's code. Addresses have 48 bits.
  const void* caller() const { return reinterpret_cast<const void*>(who_ >> 16); }
  uint32_t epoch() const { return epoch_; }  // 0: never
  uint32_t clock() const { return clock_; }

 private:
  uint64_t who_ = 0;
  uint32_t epoch_ = 0, clock_ = 0;
};

// Two bytes of memory, the smallest element that kernels have. Single bytes are told apart by masks, as well as one
// cell can: a write of the one hides an earlier write of the other. All zero is the beginning.
struct Cell {
  Touch write;            // the last one
  Touch read;             // a first one of the epoch
  Touch first_read;       // of the launch
  uint32_t read_lanes;    // of the warp of `read`, since its last __syncwarp of all lanes
  uint16_t other_reader;  // 1 + a thread of another warp that has read in the same epoch; 0: none
  uint16_t copier;        // 1 + the thread whose asynchronous copy is on its way here; 0: none
  uint8_t written;        // bytes, as are the next ones
  uint8_t write_bytes, read_bytes, first_read_bytes;
  bool atomic;  // the last write was
};
static_assert(sizeof(Cell) == 64);

class Clock {
 public:
  void grid_begins() { grid_ = ++now_; }
  void block_begins() {
    block_ = ++now_;
    for (Lanes& warp : warps_) warp.meet();
  }
  void block_synchronised() {
    ++now_;
    for (Lanes& warp : warps_) warp.meet();
  }
  void warp_synchronised(unsigned warp, unsigned lanes, bool all) {
    if (all)
      warps_[warp].meet();
    else
      warps_[warp].meet(lanes);
  }

  uint32_t now() const { return now_; }
  bool in_grid(const Touch& touch) const { return touch.epoch() >= grid_; }
  bool in_block(const Touch& touch) const { return touch.epoch() >= block_; }
  bool is_now(const Touch& touch) const { return touch.epoch() == now_; }
  // No __syncwarp of all lanes of its warp has come after it.
  bool is_recent(const Touch& touch) const { return touch.clock() > warps_[touch.warp()].met; }

  Touch touch(unsigned thread, const void* caller) const {
    return {thread, caller, now_, warps_[thread / kLanes].clock(thread % kLanes)};
  }

  // Whether `thread`, now, comes after the touch.
  bool ordered(const Touch& earlier, unsigned thread) const {
    if (!in_grid(earlier)) return true;
    if (!in_block(earlier)) return false;
    if (!is_now(earlier) || earlier.thread() == thread) return true;
    if (earlier.warp() != thread / kLanes) return false;
    return !is_recent(earlier) || warps_[thread / kLanes].seen[thread % kLanes][earlier.lane()] >= earlier.clock();
  }

  // Lanes of the thread's warp that it has not met in a __syncwarp of some lanes since the last one of all.
  unsigned unseen(unsigned thread) const {
    const Lanes& w = warps_[thread / kLanes];
    unsigned lanes = ~(1u << thread % kLanes);
    if (w.some_met)
      for (unsigned lane = 0; lane < kLanes; ++lane)
        if (w.seen[thread % kLanes][lane] > w.met) lanes &= ~(1u << lane);
    return lanes;
  }

 private:
  struct Lanes {
    uint32_t met = 0;       // when all did: every clock stood at this or before
    bool some_met = false;  // since then
    uint32_t ticks[kLanes] = {};
    uint32_t seen[kLanes][kLanes] = {};  // by the first, of the second's clock

    uint32_t clock(unsigned lane) const { return met + 1 + ticks[lane]; }
    void meet() {
      if (!some_met) {
        ++met;
        return;
      }
      uint32_t most = 0;
      for (const uint32_t t : ticks) most = t > most ? t : most;
      met += 1 + most;
      std::memset(ticks, 0, sizeof ticks);
      some_met = false;
    }
    void meet(unsigned lanes) {
      some_met = true;
      uint32_t known[kLanes] = {};
      for_lanes(lanes, [&](unsigned a) {
        for (unsigned b = 0; b < kLanes; ++b) known[b] = seen[a][b] > known[b] ? seen[a][b] : known[b];
      });
      for_lanes(lanes, [&](unsigned a) { known[a] = clock(a); });
      for_lanes(lanes, [&](unsigned a) {
        std::memcpy(seen[a], known, sizeof known);
        ++ticks[a];
      });
    }
  };

  uint32_t now_ = 0, grid_ = 0, block_ = 0;
  Lanes warps_[kMostWarps];
};

}  // namespace dyndeploy::emulator

// Looks at every load and store of a kernel. Kernels are compiled with -fsanitize=thread, which makes the compiler call
// a function before each of them; ThreadSanitizer's own are not linked, ours stand here (hooks.cpp).
#include "emulator/checker.h"

#include <link.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "emulator/shadow.h"
#include "emulator/source.h"

namespace dyndeploy::emulator {
namespace {

enum class Kind { read, read_only, write, atomic };

const char* verb(Kind kind) { return kind == Kind::write ? "write" : kind == Kind::atomic ? "atomic" : "read"; }
bool reads(Kind kind) { return kind == Kind::read || kind == Kind::read_only; }

// Memory that is looked at.
struct Region {
  uintptr_t begin = 0;
  size_t bytes = 0;
  char name[64] = "";
  bool is_shared = false, writable = true, initialised = false;
  void* memory = nullptr;
  Cell* cells = nullptr;  // within it, each in a line of the cache

  uintptr_t end() const { return begin + bytes; }
  bool has(uintptr_t address) const { return address - begin < bytes; }
  bool allocate() {
    memory = std::calloc(bytes / 2 + 3, sizeof(Cell));
    cells = reinterpret_cast<Cell*>((reinterpret_cast<uintptr_t>(memory) + 63) / 64 * 64);
    return memory != nullptr;
  }
  Cell& cell(uintptr_t address) const { return cells[address / 2 - begin / 2]; }
};

struct Use {
  Kind kind;
  uintptr_t address;
  size_t bytes;
  unsigned thread;
  const void* caller;
};

class Checker final : public Observer {
 public:
  void grid_begins() override;
  void grid_ended() override { mutex_.unlock(); }
  void block_begins() override;
  void block_synchronised() override { clock_.block_synchronised(); }
  void warp_synchronised(unsigned warp, unsigned lanes) override {
    clock_.warp_synchronised(warp, lanes, (lanes | machine->warps[warp].exited) == machine->warps[warp].exist);
  }
  void read(const void* from, size_t bytes, unsigned thread, const void* caller) override {
    check({Kind::read, reinterpret_cast<uintptr_t>(from), bytes, thread, caller});
  }
  void read_only(const void* from, size_t bytes, unsigned thread, const void* caller) override {
    check({Kind::read_only, reinterpret_cast<uintptr_t>(from), bytes, thread, caller});
  }
  void write(void* to, size_t bytes, unsigned thread, const void* caller) override {
    check({Kind::write, reinterpret_cast<uintptr_t>(to), bytes, thread, caller});
  }
  void atomic(void* address, size_t bytes, unsigned thread, const void* caller) override {
    check({Kind::atomic, reinterpret_cast<uintptr_t>(address), bytes, thread, caller});
  }
  void copy_issued(void* to, const void* from, unsigned thread, const void* caller) override;
  void copy_arrived(void* to, unsigned thread, const void* caller) override;
  void buffer(const void* data, size_t bytes, const char* name, Access access, Contents contents) override;
  void forget(const void* data) override;
  uint64_t accesses() override { return accesses_; }

  void check(const Use& use);
  void check_alignment(const Use& use);

 private:
  Region* find(uintptr_t address);
  void check_region(Region& region, const Use& use);
  void check_cell(const Region& region, Cell& cell, uint8_t bytes, const Use& use, const Touch& touch);
  void note_read(Cell& cell, uint8_t bytes, const Touch& touch);
  void check_write(const Region& region, Cell& cell, uint8_t bytes, const Use& use, const Touch& touch);
  void check_elsewhere(const Use& use);
  [[noreturn]] void early_use_of_copy(const Region& region, const Cell& cell, const Use& use);
  [[noreturn]] void uninitialised(const Region& region, const Use& use);
  [[noreturn]] void read_only_of_written(const Region& region, const Cell& cell, const Use& use);
  [[noreturn]] void conflict(const Region& region, const Use& use, const Touch& earlier, Kind earlier_kind);
  void begin_report(const Region* region, const Use& use, const char* what);
  void print_use(const Use& use);
  uint3 block_of(uint32_t epoch) const;

  std::mutex mutex_;  // held while a grid runs: one at a time, and no buffer comes or goes
  Clock clock_;
  Region shared_;
  size_t shared_capacity_ = 0;
  Region* regions_[4096] = {};  // by address
  size_t region_count_ = 0;
  Region* last_ = nullptr;
  struct Block {
    uint32_t epoch;
    uint3 index;
  };
  std::vector<Block> blocks_;  // of this launch, as they began
  uint64_t accesses_ = 0;
};

Checker checker;
const bool is_set = (observer = &checker, true);

void Checker::grid_begins() {
  mutex_.lock();
  clock_.grid_begins();
  blocks_.clear();
  shared_.begin = reinterpret_cast<uintptr_t>(machine->shared);
  shared_.bytes = machine->grid.shared_bytes;
  shared_.is_shared = true;
  std::snprintf(shared_.name, sizeof shared_.name, "shared memory");
  if (shared_capacity_ < shared_.bytes) {
    std::free(shared_.memory);
    shared_capacity_ = shared_.bytes;
    if (!shared_.allocate()) error({}, "no memory for the checker");
  }
}

void Checker::block_begins() {
  clock_.block_begins();
  blocks_.push_back({clock_.now(), machine->block});
}

void Checker::buffer(const void* data, size_t bytes, const char* name, Access access, Contents contents) {
  const std::lock_guard lock(mutex_);
  if (region_count_ == std::size(regions_)) error({}, "more than %zu buffers", std::size(regions_));
  Region* region = new Region;
  region->begin = reinterpret_cast<uintptr_t>(data);
  region->bytes = bytes;
  std::snprintf(region->name, sizeof region->name, "%s", name);
  region->writable = access == Access::read_write;
  region->initialised = contents == Contents::initialised;
  if (!region->allocate()) error({}, "no memory for the checker");
  size_t at = region_count_++;
  for (; at > 0 && regions_[at - 1]->begin > region->begin; --at) regions_[at] = regions_[at - 1];
  regions_[at] = region;
}

void Checker::forget(const void* data) {
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < region_count_; ++i) {
    if (regions_[i]->begin != reinterpret_cast<uintptr_t>(data)) continue;
    if (last_ == regions_[i]) last_ = nullptr;
    std::free(regions_[i]->memory);
    delete regions_[i];
    for (--region_count_; i < region_count_; ++i) regions_[i] = regions_[i + 1];
    return;
  }
}

// The buffer that has the address.
Region* Checker::find(uintptr_t address) {
  if (last_ && last_->has(address)) return last_;
  size_t low = 0, high = region_count_;  // of those that begin at or before the address, the last is regions_[low - 1]
  while (low < high) {
    const size_t middle = (low + high) / 2;
    if (regions_[middle]->begin <= address)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == 0 || !regions_[low - 1]->has(address)) return nullptr;
  return last_ = regions_[low - 1];
}

uint3 Checker::block_of(uint32_t epoch) const {
  const auto after = std::find_if(blocks_.begin(), blocks_.end(), [&](const Block& b) { return b.epoch > epoch; });
  return after == blocks_.begin() ? uint3{} : std::prev(after)->index;
}

void Checker::check(const Use& use) {
  ++accesses_;
  if (shared_.has(use.address)) return check_region(shared_, use);
  if (Region* region = find(use.address)) return check_region(*region, use);
  check_elsewhere(use);
}

void Checker::check_region(Region& region, const Use& use) {
  if (use.bytes > region.end() - use.address) {
    begin_report(&region, use, "out of bounds");
    std::fprintf(stderr, "  %zu bytes at offset %zu of %s, which has %zu bytes\n", use.bytes,
                 use.address - region.begin, region.name, region.bytes);
    print_use(use);
    end_program();
  }
  if (!reads(use.kind) && !region.writable) {
    begin_report(&region, use, "write to a buffer that may only be read");
    print_use(use);
    end_program();
  }
  const Touch touch = clock_.touch(use.thread, use.caller);
  const uintptr_t end = use.address + use.bytes;
  for (uintptr_t at = use.address & ~uintptr_t{1}; at < end; at += 2) {
    const unsigned bytes = (at < use.address ? 0u : 1u) | (at + 1 < end ? 2u : 0u);
    check_cell(region, region.cell(at), static_cast<uint8_t>(bytes), use, touch);
  }
}

inline void Checker::check_cell(const Region& region, Cell& cell, uint8_t bytes, const Use& use, const Touch& touch) {
  // Shared memory begins anew with every block; who reads it before the first write is told so.
  if (region.is_shared && !clock_.in_block(cell.write)) cell = {};
  if (cell.copier) early_use_of_copy(region, cell, use);
  if (use.kind != Kind::write && !region.initialised && (cell.written & bytes) != bytes) uninitialised(region, use);
  if ((cell.write_bytes & bytes) && clock_.in_grid(cell.write)) {
    if (!(cell.atomic && use.kind == Kind::atomic) && !clock_.ordered(cell.write, use.thread))
      conflict(region, use, cell.write, cell.atomic ? Kind::atomic : Kind::write);
    if (use.kind == Kind::read_only) read_only_of_written(region, cell, use);
  }
  if (reads(use.kind))
    note_read(cell, bytes, touch);
  else
    check_write(region, cell, bytes, use, touch);
}

void Checker::note_read(Cell& cell, uint8_t bytes, const Touch& touch) {
  if (!clock_.in_grid(cell.first_read)) {
    cell.first_read = touch;
    cell.first_read_bytes = 0;
  }
  cell.first_read_bytes |= bytes;
  if (!clock_.is_now(cell.read)) {
    cell.read = touch;
    cell.read_lanes = 1u << touch.lane();
    cell.read_bytes = bytes;
    cell.other_reader = 0;
    return;
  }
  cell.read_bytes |= bytes;
  if (cell.read.warp() != touch.warp()) {
    cell.other_reader = static_cast<uint16_t>(touch.thread() + 1);
  } else if (clock_.is_recent(cell.read)) {
    cell.read_lanes |= 1u << touch.lane();
  } else {
    cell.read = touch;
    cell.read_lanes = 1u << touch.lane();
  }
}

void Checker::check_write(const Region& region, Cell& cell, uint8_t bytes, const Use& use, const Touch& touch) {
  if (clock_.in_grid(cell.first_read) && !clock_.in_block(cell.first_read) && (cell.first_read_bytes & bytes))
    conflict(region, use, cell.first_read, Kind::read);
  if (clock_.is_now(cell.read) && (cell.read_bytes & bytes)) {
    if (cell.read.warp() != touch.warp()) conflict(region, use, cell.read, Kind::read);
    // Where the others read is not known: one place is remembered.
    const auto by = [&](unsigned thread) { return Touch(thread, nullptr, cell.read.epoch(), 0); };
    if (cell.other_reader) conflict(region, use, by(cell.other_reader - 1u), Kind::read);
    if (clock_.is_recent(cell.read))
      if (const unsigned lanes = cell.read_lanes & clock_.unseen(touch.thread())) {
        if (lanes >> cell.read.lane() & 1) conflict(region, use, cell.read, Kind::read);
        conflict(region, use, by(touch.warp() * kLanes + static_cast<unsigned>(std::countr_zero(lanes))), Kind::read);
      }
  }
  cell.write = touch;
  cell.write_bytes = bytes;
  cell.written |= bytes;
  cell.atomic = use.kind == Kind::atomic;
}

void Checker::early_use_of_copy(const Region& region, const Cell& cell, const Use& use) {
  begin_report(&region, use,
               reads(use.kind) ? "read of an asynchronous copy's destination before its wait"
                               : "write to an asynchronous copy's destination before its wait");
  print_use(use);
  print_thread("copied by", machine->block, cell.copier - 1u);
  print_source(cell.write.caller());
  end_program();
}

void Checker::uninitialised(const Region& region, const Use& use) {
  char what[96];
  std::snprintf(what, sizeof what, "uninitialised %s is read", region.name);
  begin_report(&region, use, what);
  print_use(use);
  end_program();
}

void Checker::read_only_of_written(const Region& region, const Cell& cell, const Use& use) {
  begin_report(&region, use, "read through the read-only path of what the same launch has written");
  print_use(use);
  print_thread("written by", block_of(cell.write.epoch()), cell.write.thread());
  print_source(cell.write.caller());
  end_program();
}

void Checker::conflict(const Region& region, const Use& use, const Touch& earlier, Kind earlier_kind) {
  begin_report(&region, use,
               !clock_.in_block(earlier)               ? "race between two blocks"
               : earlier.warp() != use.thread / kLanes ? "race between two warps"
                                                       : "race between two lanes of a warp");
  print_use(use);
  char label[48];
  std::snprintf(label, sizeof label, "earlier %s,", verb(earlier_kind));
  print_thread(label, block_of(earlier.epoch()), earlier.thread());
  print_source(earlier.caller());
  end_program();
}

void Checker::copy_issued(void* to, const void* from, unsigned thread, const void* caller) {
  if (from) check({Kind::read, reinterpret_cast<uintptr_t>(from), 16, thread, caller});
  const auto address = reinterpret_cast<uintptr_t>(to);
  check({Kind::write, address, 16, thread, caller});
  for (size_t i = 0; i < 16; i += 2) shared_.cell(address + i).copier = static_cast<uint16_t>(thread + 1);
}

void Checker::copy_arrived(void* to, unsigned thread, const void* caller) {
  for (size_t i = 0; i < 16; i += 2) {
    Cell& cell = shared_.cell(reinterpret_cast<uintptr_t>(to) + i);
    cell.copier = 0;
    cell.write = clock_.touch(thread, caller);
  }
}

// Sections of the program's files that nothing may write to: constants.
bool is_constant(uintptr_t address) {
  struct Search {
    uintptr_t address;
    bool found;
  } search{address, false};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* data) {
        Search& search = *static_cast<Search*>(data);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          const bool constant = (header.p_type == PT_LOAD && !(header.p_flags & PF_W)) || header.p_type == PT_GNU_RELRO;
          if (constant && search.address - (info->dlpi_addr + header.p_vaddr) < header.p_memsz) search.found = true;
        }
        return search.found ? 1 : 0;
      },
      &search);
  return search.found;
}

// Neither shared memory nor a buffer.
void Checker::check_elsewhere(const Use& use) {
  const auto within = [&](const void* begin, size_t bytes) {
    return use.address - reinterpret_cast<uintptr_t>(begin) < bytes;
  };
  const Machine& m = *machine;
  if (reads(use.kind) && within(m.grid.call, m.grid.call_bytes)) return;
  const bool near_shared = m.shared && within(m.shared - kSharedGuard, shared_.bytes + 2 * kSharedGuard);
  if (region_count_ == 0 && !near_shared) return;
  if (reads(use.kind) && is_constant(use.address)) return;

  for (const auto& fiber : m.fibers)
    if (within(fiber->stack.low, Stack::kBytes)) {
      begin_report(nullptr, use, "local memory of another thread is used");
      print_thread("of", m.block, fiber->thread);
      print_use(use);
      end_program();
    }

  begin_report(nullptr, use, "out of bounds");
  const Region* nearest = nullptr;
  size_t distance = size_t{1} << 30;  // beyond, naming a buffer would not help
  const auto consider = [&](const Region& region) {
    const size_t away = use.address < region.begin ? region.begin - use.address : use.address - region.end();
    if (away < distance) {
      distance = away;
      nearest = &region;
    }
  };
  if (near_shared) {
    consider(shared_);
  } else {
    for (size_t i = 0; i < region_count_; ++i) consider(*regions_[i]);
  }
  if (nearest && use.address < nearest->begin)
    std::fprintf(stderr, "  %zu bytes before the beginning of %s\n", distance, nearest->name);
  else if (nearest)
    std::fprintf(stderr, "  %zu bytes after the end of %s, which has %zu bytes\n", distance, nearest->name,
                 nearest->bytes);
  print_use(use);
  end_program();
}

void Checker::check_alignment(const Use& use) {
  if (use.address % use.bytes == 0) return;
  Region* region = shared_.has(use.address) ? &shared_ : find(use.address);
  if (!region && region_count_ == 0) return;
  begin_report(region, use, "misaligned address");
  print_use(use);
  end_program();
}

void Checker::begin_report(const Region* region, const Use& use, const char* what) {
  std::fflush(stdout);
  if (region)
    std::fprintf(stderr, "emulator: %s: %s + %zu\n", what, region->name, use.address - region->begin);
  else
    std::fprintf(stderr, "emulator: %s: address %p\n", what, reinterpret_cast<const void*>(use.address));
  print_kernel();
}

void Checker::print_use(const Use& use) {
  char label[64];
  std::snprintf(label, sizeof label, "%s of %zu bytes,", verb(use.kind), use.bytes);
  print_thread(label, machine->block, use.thread);
  print_source(use.caller);
}

// Of the running thread; what is on its own stack is its alone.
void access(Kind kind, const void* address, size_t bytes, bool is_aligned, const void* caller) {
  Machine* const m = machine;
  if (!m || !m->current) return;
  const Fiber& me = *m->current;
  const auto at = reinterpret_cast<uintptr_t>(address);
  if (at - reinterpret_cast<uintptr_t>(me.stack.low) < Stack::kBytes) return;
  for (const uint3* index : {&threadIdx, &blockIdx, &blockDim, &gridDim})
    if (at - reinterpret_cast<uintptr_t>(index) < sizeof *index) return;
  const Use use{kind, at, bytes, me.thread, caller};
  if (is_aligned) checker.check_alignment(use);
  checker.check(use);
}

}  // namespace

void kernel_reads(const void* address, size_t bytes, bool is_aligned, const void* caller) {
  access(Kind::read, address, bytes, is_aligned, caller);
}
void kernel_writes(const void* address, size_t bytes, bool is_aligned, const void* caller) {
  access(Kind::write, address, bytes, is_aligned, caller);
}

}  // namespace dyndeploy::emulator

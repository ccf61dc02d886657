// What the lanes of a warp do together: synchronise, shuffle, vote, load matrices, multiply them.
#include <cstring>

#include "emulator/machine.h"

namespace dyndeploy::emulator {
namespace {

constexpr unsigned kAll = ~0u;

struct Shuffle {
  uint32_t value;
  int source;
  uint32_t result;
};

struct Ballot {
  bool predicate;
  unsigned result;
};

struct Load {
  uint32_t* words;
  const unsigned char* row;
  const void* caller;
};

struct Product {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

void exchange(Machine& m, unsigned warp, unsigned mask) {
  for_lanes(mask, [&](unsigned lane) {
    Shuffle& own = operands_of<Shuffle>(m, warp, lane);
    own.result = operands_of<Shuffle>(m, warp, static_cast<unsigned>(own.source)).value;
  });
}

void count_votes(Machine& m, unsigned warp, unsigned mask) {
  unsigned ballot = 0;
  for_lanes(mask, [&](unsigned lane) { ballot |= unsigned{operands_of<Ballot>(m, warp, lane).predicate} << lane; });
  for_lanes(mask, [&](unsigned lane) { operands_of<Ballot>(m, warp, lane).result = ballot; });
}

// The checker sees each word as read by the lane that gets it, not by the one that knows its address.
void load(Machine& m, unsigned warp, unsigned) {
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const Load& own = operands_of<Load>(m, warp, lane);
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
      const unsigned char* from = operands_of<Load>(m, warp, 8 * matrix + lane / 4).row + 4 * (lane % 4);
      if (observer) observer->read(from, 4, warp * kLanes + lane, own.caller);
      std::memcpy(&own.words[matrix], from, 4);
    }
  }
}

void load_transposed(Machine& m, unsigned warp, unsigned) {
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const Load& own = operands_of<Load>(m, warp, lane);
    for (unsigned matrix = 0; matrix < 4; ++matrix) {
      uint16_t halves[2];
      for (unsigned i = 0; i < 2; ++i) {
        const unsigned char* from = operands_of<Load>(m, warp, 8 * matrix + 2 * (lane % 4) + i).row + 2 * (lane / 4);
        if (observer) observer->read(from, 2, warp * kLanes + lane, own.caller);
        std::memcpy(&halves[i], from, 2);
      }
      own.words[matrix] = halves[0] | uint32_t{halves[1]} << 16;
    }
  }
}

// Products of two halves are exact in float; they are summed in the order of depth. A tensor core's order is its own.
template <int Depth>
void multiply_and_add(Machine& m, unsigned warp, const float (&a)[16][Depth], const float (&b)[Depth][8]) {
  float d[16][8];
  for (unsigned lane = 0; lane < kLanes; ++lane)
    for (unsigned i = 0; i < 4; ++i)
      d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2] = operands_of<Product>(m, warp, lane).d[i];
  for (int row = 0; row < 16; ++row)
    for (int depth = 0; depth < Depth; ++depth)
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][depth] * b[depth][column];
  for (unsigned lane = 0; lane < kLanes; ++lane)
    for (unsigned i = 0; i < 4; ++i)
      operands_of<Product>(m, warp, lane).d[i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
}

template <float (*ToFloat)(uint16_t)>
void multiply_halves(Machine& m, unsigned warp, unsigned) {
  float a[16][16], b[16][8];
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const Product& own = operands_of<Product>(m, warp, lane);
    const unsigned r = lane / 4, c = lane % 4;
    for (unsigned i = 0; i < 4; ++i)
      for (unsigned half = 0; half < 2; ++half)
        a[r + 8 * (i % 2)][2 * c + 8 * (i / 2) + half] = ToFloat(static_cast<uint16_t>(own.a[i] >> 16 * half));
    for (unsigned i = 0; i < 2; ++i)
      for (unsigned half = 0; half < 2; ++half)
        b[2 * c + 8 * i + half][r] = ToFloat(static_cast<uint16_t>(own.b[i] >> 16 * half));
  }
  multiply_and_add(m, warp, a, b);
}

void multiply_tf32(Machine& m, unsigned warp, unsigned) {
  // The lower 13 bits are not looked at.
  const auto to_float = [](uint32_t bits) { return std::bit_cast<float>(bits & ~0x1fffu); };
  float a[16][8], b[8][8];
  for (unsigned lane = 0; lane < kLanes; ++lane) {
    const Product& own = operands_of<Product>(m, warp, lane);
    const unsigned r = lane / 4, c = lane % 4;
    for (unsigned i = 0; i < 4; ++i) a[r + 8 * (i % 2)][c + 4 * (i / 2)] = to_float(own.a[i]);
    for (unsigned i = 0; i < 2; ++i) b[c + 4 * i][r] = to_float(own.b[i]);
  }
  multiply_and_add(m, warp, a, b);
}

void synchronised(Machine&, unsigned warp, unsigned mask) {
  if (observer) observer->warp_synchronised(warp, mask);
}

// Instructions that a whole warp has to execute.
Machine& whole_warp(const char* name, Where where) {
  Machine& m = running(name);
  if (m.warps[m.current->warp()].exist != kAll) error(where, "%s in a warp of fewer than 32 threads", name);
  return m;
}

void check_row(const char* name, const void* row, Where where) {
  const Machine& m = *machine;
  const auto address = reinterpret_cast<uintptr_t>(row), begin = reinterpret_cast<uintptr_t>(m.shared);
  if (address < begin || address - begin + 16 > m.grid.shared_bytes)
    error(where, "%s from an address that is not in the block's shared memory: offset %td of %zu bytes", name,
          static_cast<const unsigned char*>(row) - m.shared, m.grid.shared_bytes);
  if (address % 16) error(where, "%s from a misaligned address: shared memory + %zu", name, address - begin);
}

}  // namespace

int lane() { return static_cast<int>(running("lane").current->lane()); }

void synchronise_block(Where where) { running("__syncthreads").barrier(where); }

void synchronise_warp(unsigned mask, Where where) {
  running("__syncwarp").collective({"__syncwarp", mask, where, nullptr, synchronised});
}

uint32_t shuffle(unsigned mask, uint32_t value, int source, Where where) {
  Machine& m = running("a shuffle");
  if (!(mask & m.warps[m.current->warp()].exist & 1u << source))
    error(where, "the shuffle reads lane %d, which is inactive or not in the mask 0x%08x", source, mask);
  Shuffle own{value, source, 0};
  m.collective({"a shuffle", mask, where, &own, exchange});
  return own.result;
}

unsigned vote(Vote kind, unsigned mask, bool predicate, Where where) {
  const char* const name = kind == Vote::ballot ? "__ballot_sync" : kind == Vote::any ? "__any_sync" : "__all_sync";
  Machine& m = running(name);
  Ballot own{predicate, 0};
  m.collective({name, mask, where, &own, count_votes});
  const unsigned voters = mask & m.warps[m.current->warp()].exist;
  return kind == Vote::ballot ? own.result : kind == Vote::any ? own.result != 0 : own.result == voters;
}

__attribute__((noinline)) void load_matrices(uint32_t (&words)[4], const void* row, Where where) {
  Machine& m = whole_warp("load_matrices", where);
  check_row("load_matrices", row, where);
  Load own{words, static_cast<const unsigned char*>(row), __builtin_return_address(0)};
  m.collective({"load_matrices", kAll, where, &own, load});
}

__attribute__((noinline)) void load_matrices_transposed(uint32_t (&words)[4], const void* row, Where where) {
  Machine& m = whole_warp("load_matrices_transposed", where);
  check_row("load_matrices_transposed", row, where);
  Load own{words, static_cast<const unsigned char*>(row), __builtin_return_address(0)};
  m.collective({"load_matrices_transposed", kAll, where, &own, load_transposed});
}

void mma_16x8x16_float16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where) {
  Product own{d, a, b};
  whole_warp("mma_16x8", where).collective({"mma_16x8", kAll, where, &own, multiply_halves<float_of_float16>});
}

void mma_16x8x16_bfloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where) {
  Product own{d, a, b};
  whole_warp("mma_16x8", where).collective({"mma_16x8", kAll, where, &own, multiply_halves<float_of_bfloat16>});
}

void mma_16x8x8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where) {
  Product own{d, a, b};
  whole_warp("mma_16x8", where).collective({"mma_16x8", kAll, where, &own, multiply_tf32});
}

}  // namespace dyndeploy::emulator

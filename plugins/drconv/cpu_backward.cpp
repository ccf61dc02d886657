// Dynamic region-aware convolution, backward: gradients of X, filters, guide and B from that of Y before the ReLU.
//
// With dY the gradient at an output pixel p, region(p) its region, and D[t] = filters[t]^T * dY, [C * taps]:
//
//   X        every tap of p's window gets D[region(p)]
//   filters  [t]: sum over the pixels of region t of dY * window^T
//   guide    share[t] * (g[t] - sum over s of share[s] * g[s]), share = softmax of the logits, g[t] = <D[t], window>:
//            of all regions at every pixel, `regions` times a convolution. Only where this gradient is wanted.
//
// Pixels are sorted by region (regions.h), and channels come in units, as many as two vectors hold. Per pass of some samples:
//   prepare  the gradient in rows of outputs, by region, and transposed, in blocks of pixels; X as [unit][pixel][channel]
//   columns  tasks (sample, some units): D by a product of matrices, tile by tile, of the units' filters, region by region;
//            the gradient of X gathers in a map of one unit, which no other task touches
//   filters  tasks (sample, region, unit): the product gradient^T [outputs][pixels] * X, whose rows an index picks, tap by tap
//   guide    the parts of g of all units added up; the softmax
//
// Every sum has one order: the same bits with any number of lanes.
// Cost: for X and for filters the forward's operations, for guide those times `regions`. The filters are read once and laid
// out again for X and guide, which a region of few pixels feels.
#include <algorithm>
#include <cmath>

#include "common/cpu/backward.h"
#include "common/cpu/gemm.h"
#include "common/cpu/layout.h"
#include "drconv/cpu.h"
#include "drconv/regions.h"

namespace dyndeploy::DYNDEPLOY_ISA {
namespace {

using drconv::kB;
using drconv::kFilters;
using drconv::kGuide;
using drconv::kX;
using drconv::Problem;

// Pixels of Y of a tile of columns.
constexpr int64_t kTile = 56 / kRows * kRows;
// Floats between the packed columns of two taps: their rows, written side by side, would evict each other at a power of two.
constexpr int64_t kTapGap = 16;
// Parts that the sums of g come in, at most.
constexpr int64_t kMostParts = 64;
// Pixels whose softmax is computed at a time.
constexpr int64_t kSoftmax = 64;
// Floats of gradient that are read at a time, about.
constexpr int64_t kRead = int64_t{16} << 10;
// Bytes of the workspace for one pass, about.
constexpr int64_t kMostPass = int64_t{128} << 20;

int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Where the window of an output pixel begins in X.
struct Origin {
  int64_t h, w;
};

struct Wanted {
  bool x, filters, guide, b;
  explicit Wanted(const dyndeploy_tensor* gradients)
      : x(gradients[kX].data), filters(gradients[kFilters].data), guide(gradients[kGuide].data), b(gradients[kB].data) {}
  bool columns() const { return x || guide; }
  bool regions() const { return columns() || filters; }
};

// --- memory

struct Buffers {
  int64_t pass;            // samples at a time
  int64_t blocks;          // of kBlock sorted pixels in a sample
  int64_t units;           // of kColumns channels
  int64_t parts, of_part;  // of the units, for `columns`; units of each
  int64_t reads;           // pixels of the gradient read at a time
  Origin* origins;         // [sample][sorted pixel]
  float* rows;             // [sample][sorted pixel][O]
  float* pixels;           // [sample][block][O][kBlockRow]
  float* x;                // [sample][unit][pixel of X, and one of zeros][kColumns]
  float* g;                // [sample][part][region][sorted pixel]
  BiasSums bias;           // of pieces of all samples
  float* scratch;          // per lane
  int64_t scratch_floats;
};

// What a task of each kind needs, in floats.
struct Scratch {
  int64_t packed, x_sums, filter_sums, prepare, softmax;
};

Scratch scratch_of(const Problem& problem, const Wanted& wanted, const Buffers& b) {
  const int64_t taps = problem.window.taps(), map = problem.window.H * problem.window.W;
  Scratch s{};
  if (wanted.columns() && b.units) s.packed = taps * (kColumns * problem.O + kTapGap) + kColumns * taps;
  if (wanted.x && b.units) s.x_sums = map * kColumns;
  if (wanted.filters && b.units) s.filter_sums = kColumns * problem.O * (taps + 1);
  s.prepare = b.reads * problem.O;
  if (wanted.guide) s.softmax = 2 * kSoftmax * problem.regions;
  return s;
}

Buffers lay_out(const Problem& problem, const Wanted& wanted, const PixelSort& sort, const dyndeploy_resources* resources,
                Workspace& workspace) {
  const int64_t map = problem.window.H * problem.window.W, pixels = problem.pixels();
  Buffers b{};
  b.blocks = divide_up(pixels, kBlock);
  b.units = divide_up(problem.C, kColumns);
  b.of_part = divide_up(b.units, kMostParts);
  b.parts = b.units ? divide_up(b.units, b.of_part) : 0;
  b.reads = std::max<int64_t>(16, kRead / std::max<int64_t>(problem.O, 1));
  const int64_t rows = wanted.columns() || wanted.filters ? pixels * problem.O : 0;
  const int64_t transposed = wanted.filters ? b.blocks * problem.O * kBlockRow : 0;
  const int64_t x = wanted.filters || wanted.guide ? (map + 1) * b.units * kColumns : 0;
  const int64_t g = wanted.guide ? b.parts * problem.regions * pixels : 0;
  b.pass = std::clamp<int64_t>(kMostPass / 4 / std::max<int64_t>(rows + transposed + x + g, 1), 1,
                               std::max<int64_t>(problem.N, 1));
  if (wanted.regions()) b.origins = workspace.take<Origin>(b.pass * pixels);
  b.rows = workspace.take<float>(b.pass * rows);
  b.pixels = workspace.take<float>(b.pass * transposed);
  b.x = workspace.take<float>(b.pass * x);
  b.g = workspace.take<float>(b.pass * g);
  if (wanted.b) b.bias = {workspace.take<float>(BiasSums::floats(problem.O, problem.N * sort.pieces())), problem.O};
  const Scratch s = scratch_of(problem, wanted, b);
  constexpr int64_t kTiles = kTile * (kColumns + kWidth);
  b.scratch_floats = round_up(std::max({s.packed + s.x_sums + kTiles, s.filter_sums, s.prepare, s.softmax}), 16);
  // As many tasks as the most of a step.
  const int64_t tasks = b.pass * std::max({sort.pieces(), b.parts, problem.regions * b.units});
  b.scratch = workspace.take<float>(lanes_for(resources, tasks) * b.scratch_floats);
  return b;
}

// --- vectors

template <class V, int... I>
DYNDEPLOY_INLINE float sum_of(V v, std::integer_sequence<int, I...>) {
  constexpr int kHalf = sizeof...(I);
  if constexpr (kHalf == 0)
    return v;
  else if constexpr (kHalf == 1)
    return v[0] + v[1];
  else
    return sum_of(__builtin_shufflevector(v, v, I...) + __builtin_shufflevector(v, v, (I + kHalf)...),
                  std::make_integer_sequence<int, kHalf / 2>{});
}
DYNDEPLOY_INLINE float sum_of(Vector v) { return sum_of(v, std::make_integer_sequence<int, kWidth / 2>{}); }

// Asks for `count` elements that are read, or written, in a while. A unit's columns of a row of filters are few lines, and the
// next row's lie in another page: CPUs do not foresee them.
template <bool Write, class T>
DYNDEPLOY_INLINE void ask_for(const T* p, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(p + i, Write, 2);
}
// Rows ahead.
constexpr int64_t kRowsAhead = 4;

// Columns of a unit of so many channels, padded.
int64_t padded(int64_t channels) { return panel_columns(0, channels); }

// --- the gradients

template <class T>
class Backward {
 public:
  Backward(const Problem& problem, const dyndeploy_tensor& gradient, const dyndeploy_tensor* inputs,
           const dyndeploy_tensor* gradients, const dyndeploy_resources* resources)
      : problem_(problem),
        gradient_(gradient),
        x_(inputs[kX]),
        guide_(inputs[kGuide]),
        filters_(inputs[kFilters]),
        gradients_(gradients),
        wanted_(gradients),
        resources_(resources),
        workspace_(resources->workspace),
        sort_(problem, workspace_),
        b_(lay_out(problem, wanted_, sort_, resources, workspace_)),
        scratch_(scratch_of(problem, wanted_, b_)) {}

  void run() {
    const int64_t pieces = sort_.pieces();
    if (wanted_.regions()) {
      in_parallel(problem_.N * pieces, [&](int, int64_t i) { sort_.count(guide_, i / pieces, i % pieces); });
      sort_.place();
    }
    for (int64_t first = 0; first < problem_.N; first += b_.pass) {
      first_ = first;
      const int64_t count = std::min(b_.pass, problem_.N - first);
      in_parallel(count * pieces, [&](int lane, int64_t i) { prepare(lane, i / pieces, i % pieces); });
      if (wanted_.filters)
        in_parallel(count * b_.blocks, [&](int, int64_t i) { transpose_block(i / b_.blocks, i % b_.blocks); });
      if (wanted_.filters || wanted_.guide)
        in_parallel(count * b_.units, [&](int, int64_t i) { read_unit(i / b_.units, i % b_.units); });
      if (wanted_.columns())
        in_parallel(count * b_.parts, [&](int lane, int64_t i) { columns(lane, i / b_.parts, i % b_.parts); });
      if (wanted_.filters) {
        const int64_t of_sample = problem_.regions * b_.units;
        in_parallel(count * of_sample, [&](int lane, int64_t i) {
          filters(lane, i / of_sample, i % of_sample / b_.units, i % b_.units);
        });
      }
      if (wanted_.guide) in_parallel(count * pieces, [&](int lane, int64_t i) { guide(lane, i / pieces, i % pieces); });
    }
    if (wanted_.b) write_bias();
  }

 private:
  // Rows [region][O] of filters, or of their gradient.
  template <class Element>
  struct Rows {
    explicit Rows(const dyndeploy_tensor& t)
        : data(static_cast<Element*>(t.data)),
          n(t.extents[0] > 1 ? t.strides[0] : 0),
          row(t.extents[1] > 1 ? t.strides[1] : 0),
          step(t.extents[2] > 1 ? t.strides[2] : 1) {}
    Element* at(int64_t in, int64_t r, int64_t d) const { return data + in * n + r * row + d * step; }
    bool dense() const { return sizeof(Element) == sizeof(float) && step == 1; }

    Element* data;
    int64_t n, row, step;
  };

  template <class Task>
  void in_parallel(int64_t tasks, Task task) {
    for_each_task(resources_, tasks, task);
  }

  float* scratch(int lane) const { return b_.scratch + lane * b_.scratch_floats; }
  float* rows(int64_t n, int64_t place) const { return b_.rows + (n * pixels_ + place) * problem_.O; }
  float* pixels(int64_t n, int64_t block) const { return b_.pixels + (n * b_.blocks + block) * problem_.O * kBlockRow; }
  const Origin* origins(int64_t n) const { return b_.origins + n * pixels_; }
  float* x_of(int64_t n, int64_t unit) const { return b_.x + (n * b_.units + unit) * (map_ + 1) * kColumns; }
  float* g_of(int64_t n, int64_t part, int64_t region) const {
    return b_.g + ((n * b_.parts + part) * problem_.regions + region) * pixels_;
  }
  int64_t channels_of(int64_t unit) const { return std::min<int64_t>(kColumns, problem_.C - unit * kColumns); }

  // The pixel of X under a tap, or `outside`.
  int64_t under(const Origin& origin, int64_t down, int64_t right, int64_t outside) const {
    const int64_t h = origin.h + down, w = origin.w + right;
    const bool there = (h >= 0) & (h < problem_.window.H) & (w >= 0) & (w < problem_.window.W);
    return there ? h * problem_.window.W + w : outside;
  }
  int64_t down(int64_t tap) const { return tap / problem_.window.kw * problem_.window.dilation_h; }
  int64_t right(int64_t tap) const { return tap % problem_.window.kw * problem_.window.dilation_w; }

  // A piece of the map: its pixels to their places, and the gradient's rows with them.
  void prepare(int lane, int64_t n, int64_t piece) {
    const int64_t O = problem_.O, begin = sort_.begin_of(piece), end = sort_.end_of(piece);
    const Window& window = problem_.window;
    int32_t places[PixelSort::kPiece];
    if (wanted_.regions())
      sort_.sort(first_ + n, piece, [&](int64_t pixel, int64_t place) {
        places[pixel - begin] = static_cast<int32_t>(place);
        b_.origins[n * pixels_ + place] = {pixel / window.Wo * window.stride_h - window.top,
                                           pixel % window.Wo * window.stride_w - window.left};
      });
    const int64_t of_bias = (first_ + n) * sort_.pieces() + piece;
    if (wanted_.b) b_.bias.clear(of_bias);
    float* tile = scratch(lane);
    for (int64_t from = begin; from < end; from += b_.reads) {
      const int64_t some = std::min(b_.reads, end - from);
      read_tile(gradient_, first_ + n, window.Wo, from, from + some, 0, O, tile, O);
      for (int64_t i = 0; wanted_.regions() && i < some; ++i)
        std::copy_n(tile + i * O, O, rows(n, places[from - begin + i]));
      if (wanted_.b) b_.bias.add(of_bias, tile, some);
    }
  }

  void transpose_block(int64_t n, int64_t block) {
    const int64_t begin = block * kBlock, count = std::min(kBlock, pixels_ - begin);
    transpose(count, problem_.O, rows(n, begin), problem_.O, pixels(n, block), kBlockRow);
  }

  void read_unit(int64_t n, int64_t unit) {
    const int64_t channels = channels_of(unit), ld = padded(channels);
    float* x = x_of(n, unit);
    std::fill(x + map_ * ld, x + (map_ + 1) * ld, 0.0f);
    if (channels < ld) std::fill(x, x + map_ * ld, 0.0f);
    read_tile(x_, first_ + n, problem_.window.W, 0, map_, unit * kColumns, channels, x, ld);
  }

  // Distance of the packed columns of two taps.
  int64_t tap_floats(int64_t ld) const { return problem_.O * ld + kTapGap; }

  // A unit's columns of a region's filters, [tap][O][ld].
  void pack(int64_t n, int64_t region, int64_t unit, float* packed, float* copy) const {
    const int64_t channels = channels_of(unit), ld = padded(channels), O = problem_.O;
    if (channels < ld) std::fill(packed, packed + taps_ * tap_floats(ld), 0.0f);
    for (int64_t o = 0; o < O; ++o) {
      const T* from = filters_.at(first_ + n, region * O + o, unit * kColumns * taps_);
      const float* row = reinterpret_cast<const float*>(from);
      if (filters_.step == 1 && o + kRowsAhead < O) ask_for<false>(from + kRowsAhead * filters_.row, channels * taps_);
      if (!filters_.dense()) {
        for (int64_t d = 0; d < channels * taps_; ++d) copy[d] = to_float(from[d * filters_.step]);
        row = copy;
      }
      if (taps_ == 1)
        std::copy(row, row + channels, packed + o * ld);
      else
        transpose(channels, taps_, row, taps_, packed + o * ld, tap_floats(ld));
    }
  }

  // The units of a part.
  void columns(int lane, int64_t n, int64_t part) {
    float* packed = scratch(lane);
    float* x_sums = packed + scratch_.packed;
    float* tile = x_sums + scratch_.x_sums;
    const int64_t begin = part * b_.of_part, end = std::min(begin + b_.of_part, b_.units);
    for (int64_t unit = begin; unit < end; ++unit)
      if (padded(channels_of(unit)) == kColumns)
        columns_of<2>(n, part, unit, unit > begin, packed, x_sums, tile);
      else
        columns_of<1>(n, part, unit, unit > begin, packed, x_sums, tile);
  }

  // `more`: the sums of g have begun.
  template <int Vectors>
  void columns_of(int64_t n, int64_t part, int64_t unit, bool more, float* packed, float* x_sums, float* tile) const {
    constexpr int64_t kLd = Vectors * kWidth;
    const float* x = wanted_.guide ? x_of(n, unit) : nullptr;
    if (wanted_.x) std::fill(x_sums, x_sums + map_ * kLd, 0.0f);
    for (int64_t region = 0; region < problem_.regions; ++region) {
      // The pixels of the region and, for g, all others.
      const int64_t begin = sort_.begin(first_ + n, region), end = sort_.end(first_ + n, region);
      const int64_t first = wanted_.guide ? 0 : begin, last = wanted_.guide ? pixels_ : end;
      if (first == last) continue;
      pack(n, region, unit, packed, packed + taps_ * tap_floats(kColumns));
      float* g = wanted_.guide ? g_of(n, part, region) : nullptr;
      for (int64_t place = first; place < last; place += kTile) {
        const int64_t count = std::min(kTile, last - place);
        spread<Vectors>(n, place, count, begin - place, end - place, packed, x, x_sums, tile, more, g);
      }
    }
    if (wanted_.x)
      write_tile(Map<T>(gradients_[kX]), first_ + n, problem_.window.W, 0, map_, unit * kColumns, 1, channels_of(unit), false,
                 x_sums, kLd);
  }

  // D of a tile of pixels: those from `begin` to `end` belong to the region, and to its gradient of X.
  template <int Vectors>
  void spread(int64_t n, int64_t place, int64_t count, int64_t begin, int64_t end, const float* packed, const float* x,
              float* x_sums, float* tile, bool more, float* g) const {
    constexpr int64_t kLd = Vectors * kWidth;
    const Origin* origin = origins(n) + place;
    float* products = tile + kTile * kColumns;  // with X's windows, before they are added up
    if (g) std::fill(products, products + count * kWidth, 0.0f);
    begin = std::max<int64_t>(begin, 0);
    end = wanted_.x ? std::min(end, count) : 0;
    for (int64_t tap = 0; tap < taps_; ++tap) {
      std::fill(tile, tile + count * kLd, 0.0f);
      multiply_panel(0, kLd, count, problem_.O, rows(n, place), problem_.O, packed + tap * tap_floats(kLd), problem_.O,
                     nullptr, tile, kLd);
      const int64_t h = down(tap), w = right(tap);
      if (g)
        for (int64_t i = 0; i < count; ++i) {
          const int64_t at = under(origin[i], h, w, -1);
          if (at < 0) continue;
          Vector sum = load(products + i * kWidth);
#pragma GCC unroll 2
          for (int v = 0; v < Vectors; ++v) sum += load(tile + i * kLd + v * kWidth) * load(x + at * kLd + v * kWidth);
          store(products + i * kWidth, sum);
        }
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = under(origin[i], h, w, -1);
        if (at < 0) continue;
        float* to = x_sums + at * kLd;
#pragma GCC unroll 2
        for (int v = 0; v < Vectors; ++v) store(to + v * kWidth, load(to + v * kWidth) + load(tile + i * kLd + v * kWidth));
      }
    }
    if (g)
      for (int64_t i = 0; i < count; ++i) {
        const float sum = sum_of(load(products + i * kWidth));
        g[place + i] = more ? g[place + i] + sum : sum;
      }
  }

  // A unit's columns of the gradient of a region's filters.
  void filters(int lane, int64_t n, int64_t region, int64_t unit) {
    const int64_t channels = channels_of(unit), ld = padded(channels), O = problem_.O, row = taps_ * ld;
    const int64_t begin = sort_.begin(first_ + n, region), end = sort_.end(first_ + n, region);
    float* sums = scratch(lane);  // [O][tap][ld]
    float* of_block = sums + O * taps_ * kColumns;
    std::fill(sums, sums + O * row, 0.0f);
    for (int64_t place = begin, next; place < end; place = next) {
      const int64_t block = place / kBlock;
      next = std::min(end, (block + 1) * kBlock);
      const float* gradient = pixels(n, block) + (place - block * kBlock);
      int32_t index[kBlock];
      for (int64_t tap = 0; tap < taps_; ++tap) {
        for (int64_t i = 0; i < next - place; ++i)
          index[i] = static_cast<int32_t>(under(origins(n)[place + i], down(tap), right(tap), map_));
        const auto multiply = [&](float* to, int64_t to_ld) {
          multiply_panel(0, ld, O, next - place, gradient, kBlockRow, x_of(n, unit), 0, index, to, to_ld);
        };
        if (place == begin) {
          multiply(sums + tap * ld, row);
          continue;
        }
        // A sum per block, then one over the blocks: a single one over all pixels would lose digits.
        std::fill(of_block, of_block + O * ld, 0.0f);
        multiply(of_block, ld);
        for (int64_t o = 0; o < O; ++o)
          for (int64_t c = 0; c < ld; ++c) sums[o * row + tap * ld + c] += of_block[o * ld + c];
      }
    }
    const Rows<T> to(gradients_[kFilters]);
    for (int64_t o = 0; o < O; ++o) {
      const float* from = sums + o * row;
      T* at = to.at(first_ + n, region * O + o, unit * kColumns * taps_);
      if (to.step == 1 && o + kRowsAhead < O) ask_for<true>(at + kRowsAhead * to.row, channels * taps_);
      if (to.dense() && taps_ > 1) {
        transpose(taps_, channels, from, ld, reinterpret_cast<float*>(at), taps_);
      } else {
        for (int64_t tap = 0; tap < taps_; ++tap)
          for (int64_t c = 0; c < channels; ++c) at[(c * taps_ + tap) * to.step] = from_float<T>(from[tap * ld + c]);
      }
    }
  }

  // As many sorted pixels as a piece has.
  void guide(int lane, int64_t n, int64_t piece) {
    for (int64_t place = sort_.begin_of(piece), end = sort_.end_of(piece); place < end; place += kSoftmax)
      guide_of(n, place, std::min(kSoftmax, end - place), scratch(lane));
  }

  void guide_of(int64_t n, int64_t place, int64_t count, float* shares) {
    const Map<T> to(gradients_[kGuide]);
    const int64_t regions = problem_.regions, width = problem_.window.Wo;
    float* g = shares + regions * kSoftmax;
    int64_t from[kSoftmax], at[kSoftmax];
    float most[kSoftmax], all[kSoftmax], mean[kSoftmax];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t pixel = sort_.sorted(first_ + n)[place + i], h = pixel / width, w = pixel % width;
      from[i] = (first_ + n) * guide_.n + h * guide_.h + w * guide_.w;
      at[i] = (first_ + n) * to.n + h * to.h + w * to.w;
      most[i] = -INFINITY, all[i] = mean[i] = 0;
    }
    for (int64_t t = 0; t < regions; ++t)
      for (int64_t i = 0; i < count; ++i) {
        shares[t * kSoftmax + i] = to_float(guide_.data[from[i] + t * guide_.c]);
        most[i] = std::max(most[i], shares[t * kSoftmax + i]);
      }
    for (int64_t t = 0; t < regions; ++t) {
      float* share = shares + t * kSoftmax;
      float* sum = g + t * kSoftmax;
      std::fill(sum, sum + count, 0.0f);
      for (int64_t part = 0; part < b_.parts; ++part)
        for (int64_t i = 0; i < count; ++i) sum[i] += g_of(n, part, t)[place + i];
      for (int64_t i = 0; i < count; ++i) share[i] = std::exp(share[i] - most[i]);
      for (int64_t i = 0; i < count; ++i) all[i] += share[i];
    }
    for (int64_t t = 0; t < regions; ++t)
      for (int64_t i = 0; i < count; ++i) {
        shares[t * kSoftmax + i] /= all[i];
        mean[i] += shares[t * kSoftmax + i] * g[t * kSoftmax + i];
      }
    for (int64_t t = 0; t < regions; ++t)
      for (int64_t i = 0; i < count; ++i)
        to.data[at[i] + t * to.c] = from_float<T>(shares[t * kSoftmax + i] * (g[t * kSoftmax + i] - mean[i]));
  }

  void write_bias() {
    b_.bias.clear();
    b_.bias.add_pieces(problem_.N * sort_.pieces());
    b_.bias.template write<T>(gradients_[kB], [](int64_t o) { return o; });
  }

  const Problem& problem_;
  const Map<const T> gradient_, x_, guide_;
  const Rows<const T> filters_;
  const dyndeploy_tensor* gradients_;
  const Wanted wanted_;
  const dyndeploy_resources* resources_;
  Workspace workspace_;
  const PixelSort sort_;
  const Buffers b_;
  const Scratch scratch_;
  int64_t first_ = 0;  // sample of the pass
  const int64_t taps_ = problem_.window.taps();
  const int64_t pixels_ = problem_.pixels();                       // of Y
  const int64_t map_ = problem_.window.H * problem_.window.W;      // of X
};

}  // namespace

uint64_t drconv_backward_workspace(const Problem& problem, const dyndeploy_tensor* gradients,
                                   const dyndeploy_resources* resources) {
  Workspace workspace;
  const PixelSort sort(problem, workspace);
  lay_out(problem, Wanted(gradients), sort, resources, workspace);
  return workspace.bytes();
}

void drconv_backward(const Problem& problem, const dyndeploy_tensor& gradient, const dyndeploy_tensor* inputs,
                     const dyndeploy_tensor* gradients, const dyndeploy_resources* resources) {
  with_type(problem.dtype, [&](auto type) {
    Backward<decltype(type)>(problem, gradient, inputs, gradients, resources).run();
  });
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

// Modulated deformable convolution, backward: gradients of X, offset_mask, W and B from that of Y before the ReLU.
//
// With g[c,t] = sum over o of W[o,c,t] * gradient[o] at a pixel of Y, and s the sample of channel c at tap t:
//
//   X            each of the four neighbours gets its weight * mask * g
//   offset_mask  sums over the channels of g * (differences of the neighbours): four sums per sample give all three
//   W            sum over the pixels of gradient * mask * s
//
// All is done once per pass of some samples:
//   prepare   the gradient as rows of outputs and as rows of pixels; X in units of channels, [pixel][channel]; Samples
//   columns   tasks (sample, unit): g by a product of matrices, tile by tile; the gradient of X gathers in a map of the
//             unit's channels only, which no other task touches, and which is small enough for the caches
//   weights   tasks (some taps, part): the product gradient^T [outputs][pixels] * samples [pixels][channels]
//   offsets   the sums of all units, added up
//
// Every sum has one order: the same bits with any number of lanes.
// Cost: two products of the forward's size; X is sampled twice, and its gradient is read and written once per sample.
#include <algorithm>

#include "common/cpu/backward.h"
#include "common/cpu/gemm.h"
#include "dcnv2/cpu.h"
#include "dcnv2/sampling.h"

namespace dyndeploy::DYNDEPLOY_ISA {
namespace {

using dcnv2::kB;
using dcnv2::kOffsetMask;
using dcnv2::kW;
using dcnv2::kX;
using dcnv2::Problem;

// Channels of a unit, at most: two lines of 64 bytes per pixel.
constexpr int64_t kUnit = 32;
// Pixels of Y of a tile of columns.
constexpr int64_t kTile = 56 / kRows * kRows;
// Outputs whose weights are packed, and whose gradients are written, by one task.
constexpr int64_t kOutputs = 32;
// Floats of the sums that one task of `weights` works on.
constexpr int64_t kMostSums = int64_t{64} << 10;
// Bytes of the samples of one pass, about.
constexpr int64_t kMostPass = int64_t{128} << 20;

typedef float Four __attribute__((vector_size(16)));

// A unit is a range of channels of one offset group. A part of it lies in one group of the convolution, too.
struct Unit {
  int64_t first, channels, offset_group;
};

struct Part {
  int64_t first, channels, group, unit;
  int64_t index, before;  // how many parts are before this one, and their padded columns
};

int64_t units_of_group(const Problem& problem) { return (problem.offset_channels() + kUnit - 1) / kUnit; }
int64_t unit_count(const Problem& problem) { return problem.offset_group * units_of_group(problem); }

Unit unit_at(const Problem& problem, int64_t index) {
  const int64_t group = index / units_of_group(problem), begin = index % units_of_group(problem) * kUnit;
  return {group * problem.offset_channels() + begin, std::min(kUnit, problem.offset_channels() - begin), group};
}

template <class Call>
void for_each_part(const Problem& problem, Call call) {
  int64_t index = 0, before = 0;
  for (int64_t u = 0; u < unit_count(problem); ++u) {
    const Unit unit = unit_at(problem, u);
    const int64_t end = unit.first + unit.channels;
    for (int64_t first = unit.first, next; first < end; first = next) {
      const int64_t group = first / problem.group_channels();
      next = std::min(end, (group + 1) * problem.group_channels());
      call(Part{first, next - first, group, u, index++, before});
      before += padded_columns(next - first);
    }
  }
}

// --- memory

struct Wanted {
  bool x, offset_mask, w, b;
  explicit Wanted(const dyndeploy_tensor* gradients)
      : x(gradients[kX].data), offset_mask(gradients[kOffsetMask].data), w(gradients[kW].data), b(gradients[kB].data) {}
  bool columns() const { return x || offset_mask; }
};

struct Buffers {
  int64_t pass;            // samples at a time
  int64_t blocks;          // of kBlock pixels of Y in a sample
  int64_t parts, columns;  // of all units: parts, and the sum of their padded columns
  int64_t taps;            // whose weights' gradients one task sums up
  float* weights;          // [part][tap][output of the group][channel], with a gap between taps
  float* weights_sums;     // the same
  BiasSums bias;           // a piece: a block of a sample
  float* rows;             // [sample][pixel of Y][O]
  float* pixels;           // [sample][block][O][kBlockRow]
  float* x;                // [sample][unit][pixel of X, and one of zeros][channel]
  Sample* samples;         // [sample][offset group][tap][pixel of Y]
  Four* sums;              // [sample][unit][tap][pixel of Y]
  float* x_sums;           // per lane: [pixel of X, and one for what lies outside][kUnit]
  float* tile;             // per lane: a tile of columns, or a block of samples
  float* block_sums;       // per lane: what a block adds to the sums of a part at a tap
};

Buffers lay_out(const Problem& problem, const Wanted& wanted, const dyndeploy_resources* resources,
                Workspace& workspace) {
  const int64_t taps = problem.window.taps(), map = problem.window.H * problem.window.W + 1, pixels = problem.pixels();
  Buffers b{};
  b.blocks = (pixels + kBlock - 1) / kBlock;
  for_each_part(problem, [&](const Part& part) {
    b.parts = part.index + 1;
    b.columns = part.before + padded_columns(part.channels);
  });
  const int64_t rows = pixels * problem.O, transposed = b.blocks * problem.O * kBlockRow, x = map * problem.C;
  const int64_t points = problem.offset_group * taps * pixels, sums = unit_count(problem) * taps * pixels;
  const int64_t bytes = (rows + transposed + x + 4 * sums) * 4 + points * static_cast<int64_t>(sizeof(Sample));
  b.pass = std::clamp<int64_t>(kMostPass / std::max<int64_t>(bytes, 1), 1, std::max<int64_t>(problem.N, 1));
  const int64_t unit_lanes = lanes_for(resources, b.pass * unit_count(problem));
  const int64_t lanes = std::max<int64_t>(unit_lanes, lanes_for(resources, b.parts * taps));
  // The taps of a task share what it reads of the gradient and of X: as many as leave some tasks to every lane, and
  // their sums in the second cache.
  const int64_t most = std::min(b.parts * taps / (4 * lanes),
                                kMostSums / kUnit / std::max<int64_t>(problem.group_outputs(), 1));
  const int64_t bundles = most > 1 ? (taps + most - 1) / most : taps;
  b.taps = (taps + bundles - 1) / bundles;
  const int64_t weights = (b.columns * problem.group_outputs() + b.parts * kGap) * taps;
  if (wanted.columns()) b.weights = workspace.take<float>(weights);
  if (wanted.w) b.weights_sums = workspace.take<float>(weights);
  if (wanted.b) b.bias = {workspace.take<float>(BiasSums::floats(problem.O, b.pass * b.blocks)), problem.O};
  b.rows = workspace.take<float>(b.pass * rows);
  if (wanted.w) b.pixels = workspace.take<float>(b.pass * transposed);
  b.x = workspace.take<float>(b.pass * x);
  b.samples = workspace.take<Sample>(b.pass * points);
  if (wanted.offset_mask) b.sums = workspace.take<Four>(b.pass * sums);
  if (wanted.x) b.x_sums = workspace.take<float>(unit_lanes * map * kUnit);
  b.tile = workspace.take<float>(lanes * kBlock * padded_columns(kUnit));
  if (wanted.w) b.block_sums = workspace.take<float>(lanes * problem.group_outputs() * padded_columns(kUnit));
  return b;
}

// --- sums of one sample

template <class V, int... I>
DYNDEPLOY_INLINE auto add_neighbours(V v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (2 * I)...) + __builtin_shufflevector(v, v, (2 * I + 1)...);
}

// Neighbours of a vector are added until four are left.
template <class V>
DYNDEPLOY_INLINE Four fold(V v) {
  constexpr int kSize = sizeof(V) / sizeof(float);
  if constexpr (kSize == 4)
    return v;
  else
    return fold(add_neighbours(v, std::make_integer_sequence<int, kSize / 2>{}));
}

// Quarter q of the result is the q-th vector's sum, folded to a quarter of its width.
template <int... I>
DYNDEPLOY_INLINE Vector quarters(Vector a, Vector b, Vector c, Vector d, std::integer_sequence<int, I...>) {
  constexpr int kHalf = kWidth / 2, kQuarter = kWidth / 4;
  const Vector ab = __builtin_shufflevector(a, b, (I < kHalf ? I : kWidth + I - kHalf)...) +
                    __builtin_shufflevector(a, b, (I < kHalf ? kHalf + I : kWidth + I)...);
  const Vector cd = __builtin_shufflevector(c, d, (I < kHalf ? I : kWidth + I - kHalf)...) +
                    __builtin_shufflevector(c, d, (I < kHalf ? kHalf + I : kWidth + I)...);
  // ab holds halves of a and b: take the first and the second quarter of each half.
  return __builtin_shufflevector(ab, cd, (I / kQuarter * kHalf + I % kQuarter)...) +
         __builtin_shufflevector(ab, cd, (I / kQuarter * kHalf + I % kQuarter + kQuarter)...);
}

DYNDEPLOY_INLINE Four sums_of(Vector a, Vector b, Vector c, Vector d) {
  return fold(quarters(a, b, c, d, std::make_integer_sequence<int, kWidth>{}));
}

// Over the channels, of g times: the step down at the left, the step down at the right, the step to the right at the
// top, the upper left neighbour.
DYNDEPLOY_INLINE Four slopes(const float* const* x, const float* g, int64_t channels) {
  Vector left{}, right{}, top{}, value{};
  int64_t i = 0;
  for (; i + kWidth <= channels; i += kWidth) {
    const Vector gi = load(g + i), a = load(x[0] + i), b = load(x[1] + i), c = load(x[2] + i), d = load(x[3] + i);
    left += gi * (c - a);
    right += gi * (d - b);
    top += gi * (b - a);
    value += gi * a;
  }
  Four sums = sums_of(left, right, top, value);
  for (; i < channels; ++i) {
    const float a = x[0][i], b = x[1][i], c = x[2][i], d = x[3][i];
    sums += g[i] * Four{c - a, d - b, b - a, a};
  }
  return sums;
}

// Each neighbour's row of the gradient of X gets its share of g.
DYNDEPLOY_INLINE void scatter(const Sample& sample, const float* g, int64_t channels, float* x_sums, int64_t pitch) {
#pragma GCC unroll 4
  for (int corner = 0; corner < 4; ++corner) {
    float* to = x_sums + sample.at[corner] * pitch;
    const float weight = sample.weight[corner];
    const Vector weights = splat(weight);
    int64_t i = 0;
    for (; i + kWidth <= channels; i += kWidth) store(to + i, load(to + i) + weights * load(g + i));
    for (; i < channels; ++i) to[i] += weight * g[i];
  }
}

// What g of a tile's pixels, [count][ld], adds to the sums (unless NULL) and to the gradient of X (unless NULL).
// `more`: the sums have begun.
DYNDEPLOY_INLINE void spread(const Sample* samples, int64_t count, const float* g, int64_t ld, int64_t channels,
                             const float* x, float* x_sums, int64_t pitch, Four* sums, bool more) {
  for (int64_t r = 0; r < count; ++r, g += ld) {
    const Sample& sample = samples[r];
    if (sums) {
      const float* const neighbours[4] = {x + sample.at[0] * pitch, x + sample.at[1] * pitch, x + sample.at[2] * pitch,
                                          x + sample.at[3] * pitch};
      const Four four = slopes(neighbours, g, channels);
      sums[r] = more ? sums[r] + four : four;
    }
    if (x_sums) scatter(sample, g, channels, x_sums, pitch);
  }
}

// --- the gradients

template <class T>
class Backward {
 public:
  Backward(const Problem& problem, const dyndeploy_tensor& gradient, const dyndeploy_tensor* inputs,
           const dyndeploy_tensor* gradients, const dyndeploy_resources* resources)
      : problem_(problem),
        gradient_(gradient),
        x_(inputs[kX]),
        offset_mask_(inputs[kOffsetMask]),
        w_(inputs[kW]),
        gradients_(gradients),
        wanted_(gradients),
        resources_(resources),
        workspace_(resources->workspace),
        b_(lay_out(problem, wanted_, resources, workspace_)) {}

  void run() {
    const int64_t some_outputs = b_.parts * ((outputs_ + kOutputs - 1) / kOutputs);
    if (wanted_.columns()) in_parallel(some_outputs, [&](int, int64_t i) { pack_weights(i); });
    if (wanted_.w) in_parallel(taps_ * b_.parts, [&](int, int64_t index) { clear_weights(index); });
    if (wanted_.b) b_.bias.clear();
    for (int64_t first = 0; first < problem_.N; first += b_.pass) {
      const int64_t count = std::min(b_.pass, problem_.N - first);
      in_parallel(count * b_.blocks, [&](int, int64_t i) { prepare(first, i / b_.blocks, i % b_.blocks); });
      if (wanted_.b) b_.bias.add_pieces(count * b_.blocks);
      if (!wanted_.columns() && !wanted_.w) continue;
      const int64_t units = unit_count(problem_);
      in_parallel(count * units, [&](int, int64_t i) { read_unit(first, i / units, i % units); });
      if (wanted_.columns())
        in_parallel(count * units, [&](int lane, int64_t i) { columns(lane, first, i / units, i % units); });
      if (wanted_.w) {
        const int64_t bundles = (taps_ + b_.taps - 1) / b_.taps;
        in_parallel(bundles * b_.parts,
                    [&](int lane, int64_t i) { weights(lane, count, i / b_.parts * b_.taps, i % b_.parts); });
      }
      if (wanted_.offset_mask)
        in_parallel(count * b_.blocks, [&](int, int64_t i) { offsets(first, i / b_.blocks, i % b_.blocks); });
    }
    if (wanted_.w) in_parallel(some_outputs, [&](int, int64_t i) { write_weights(i); });
    if (wanted_.b) b_.bias.template write<T>(gradients_[kB], [](int64_t o) { return o; });
  }

 private:
  template <class Task>
  void in_parallel(int64_t tasks, Task task) {
    for_each_task(resources_, tasks, task);
  }

  Sample* samples_of(int64_t n, int64_t offset_group, int64_t tap) const {
    return b_.samples + ((n * problem_.offset_group + offset_group) * taps_ + tap) * pixels_;
  }
  float* x_of(int64_t n, const Unit& unit) const { return b_.x + map_ * (n * problem_.C + unit.first); }
  Four* sums_of_unit(int64_t n, int64_t unit, int64_t tap) const {
    return b_.sums + ((n * unit_count(problem_) + unit) * taps_ + tap) * pixels_;
  }
  // Of [part][tap][output of the group][channel], with a gap between taps.
  int64_t weights_at(const Part& part, int64_t tap) const {
    return (part.before * outputs_ + part.index * kGap) * taps_ +
           (padded_columns(part.channels) * outputs_ + kGap) * tap;
  }
  template <class Call>
  void for_outputs(int64_t block, Call call) const {
    for (int64_t output = block * kOutputs; output < std::min((block + 1) * kOutputs, outputs_); ++output) call(output);
  }
  template <class Call>
  void with_part(int64_t index, Call call) const {
    for_each_part(problem_, [&](const Part& part) {
      if (index-- == 0) call(part);
    });
  }

  // Some outputs of a part's group: their rows in the part's panels of all taps.
  void pack_weights(int64_t index) {
    with_part(index % b_.parts, [&](const Part& part) {
      for_outputs(index / b_.parts, [&](int64_t output) {
        for (int64_t tap = 0; tap < taps_; ++tap) {
          const T* from = w_.at(part.group * outputs_ + output, part.first - part.group * channels_,
                                tap / problem_.window.kw, tap % problem_.window.kw);
          for (int64_t panel = 0; panel < panel_count(part.channels); ++panel) {
            const int64_t begin = panel * kColumns, width = panel_columns(panel, part.channels);
            float* to = b_.weights + weights_at(part, tap) + panel_offset(panel, outputs_) + output * width;
            for (int64_t c = 0; c < width; ++c)
              to[c] = begin + c < part.channels ? to_float(from[(begin + c) * w_.c]) : 0.0f;
          }
        }
      });
    });
  }

  void clear_weights(int64_t index) {
    with_part(index % b_.parts, [&](const Part& part) {
      float* sums = b_.weights_sums + weights_at(part, index / b_.parts);
      std::fill(sums, sums + outputs_ * padded_columns(part.channels), 0.0f);
    });
  }

  void prepare(int64_t first, int64_t n, int64_t block) {
    const int64_t begin = block * kBlock, end = std::min(begin + kBlock, pixels_), O = problem_.O;
    float* rows = b_.rows + (n * pixels_ + begin) * O;
    read_tile(gradient_, first + n, problem_.window.Wo, begin, end, 0, O, rows, O);
    if (wanted_.w) transpose(end - begin, O, rows, O, b_.pixels + (n * b_.blocks + block) * O * kBlockRow, kBlockRow);
    if (wanted_.b) {
      b_.bias.clear(n * b_.blocks + block);
      b_.bias.add(n * b_.blocks + block, rows, end - begin);
    }
    if (!wanted_.columns() && !wanted_.w) return;
    const Place place = {.row_h = problem_.window.W, .row_w = 1, .outside = map_ - 1};
    for (int64_t g = 0; g < problem_.offset_group; ++g)
      for (int64_t tap = 0; tap < taps_; ++tap)
        locate(problem_, offset_mask_, first + n, g, tap, begin, end - begin, place, samples_of(n, g, tap) + begin);
  }

  void read_unit(int64_t first, int64_t n, int64_t index) {
    const Unit unit = unit_at(problem_, index);
    float* x = x_of(n, unit);
    read_tile(x_, first + n, problem_.window.W, 0, map_ - 1, unit.first, unit.channels, x, unit.channels);
    std::fill(x + (map_ - 1) * unit.channels, x + map_ * unit.channels, 0.0f);
  }

  void columns(int lane, int64_t first, int64_t n, int64_t index) {
    const Unit unit = unit_at(problem_, index);
    const float* x = x_of(n, unit);
    float* x_sums = wanted_.x ? b_.x_sums + lane * map_ * kUnit : nullptr;
    float* g = b_.tile + lane * kBlock * padded_columns(kUnit);
    if (x_sums) std::fill(x_sums, x_sums + map_ * unit.channels, 0.0f);
    for (int64_t begin = 0; begin < pixels_; begin += kTile) {
      const int64_t count = std::min(kTile, pixels_ - begin);
      for_each_part(problem_, [&](const Part& part) {
        if (part.unit != index) return;
        const int64_t ld = padded_columns(part.channels), at = part.first - unit.first;
        const float* rows = b_.rows + (n * pixels_ + begin) * problem_.O + part.group * outputs_;
        for (int64_t tap = 0; tap < taps_; ++tap) {
          std::fill(g, g + count * ld, 0.0f);
          for (int64_t panel = 0; panel < panel_count(part.channels); ++panel)
            multiply_panel(panel, part.channels, count, outputs_, rows, problem_.O, b_.weights + weights_at(part, tap),
                           outputs_, nullptr, g, ld);
          const Sample* samples = samples_of(n, unit.offset_group, tap) + begin;
          Four* sums = wanted_.offset_mask ? sums_of_unit(n, index, tap) + begin : nullptr;
          // With the usual numbers as constants the loops over channels are unrolled.
          if (part.channels == kUnit && unit.channels == kUnit)
            spread(samples, count, g, padded_columns(kUnit), kUnit, x, x_sums, kUnit, sums, false);
          else
            spread(samples, count, g, ld, part.channels, x + at, x_sums ? x_sums + at : nullptr, unit.channels, sums,
                   at > 0);
        }
      });
    }
    if (x_sums)
      write_tile(Map<T>(gradients_[kX]), first + n, problem_.window.W, 0, map_ - 1, unit.first, 1, unit.channels, false,
                 x_sums, unit.channels);
  }

  // Taps first_tap, … of a part.
  void weights(int lane, int64_t count, int64_t first_tap, int64_t index) {
    with_part(index, [&](const Part& part) {
      const Unit unit = unit_at(problem_, part.unit);
      const int64_t ld = padded_columns(part.channels), end_tap = std::min(first_tap + b_.taps, taps_);
      float* sampled = b_.tile + lane * kBlock * padded_columns(kUnit);
      float* block_sums = b_.block_sums + lane * outputs_ * padded_columns(kUnit);
      std::fill(sampled, sampled + kBlock * ld, 0.0f);
      for (int64_t n = 0; n < count; ++n)
        for (int64_t block = 0; block < b_.blocks; ++block) {
          const int64_t begin = block * kBlock, pixels = std::min(kBlock, pixels_ - begin);
          const float* gradient =
              b_.pixels + ((n * b_.blocks + block) * problem_.O + part.group * outputs_) * kBlockRow;
          for (int64_t tap = first_tap; tap < end_tap; ++tap) {
            // A sum per block, then one over the blocks: a single one over all pixels would lose digits.
            std::fill(block_sums, block_sums + outputs_ * ld, 0.0f);
            for (int64_t panel = 0; panel < panel_count(part.channels); ++panel) {
              const int64_t first = panel * kColumns;
              interpolate(x_of(n, unit) + (part.first - unit.first) + first, unit.channels,
                          samples_of(n, unit.offset_group, tap) + begin, pixels,
                          std::min<int64_t>(kColumns, part.channels - first), sampled + panel_offset(panel, kBlock),
                          panel_columns(panel, part.channels));
              multiply_panel(panel, part.channels, outputs_, pixels, gradient, kBlockRow, sampled, kBlock, nullptr,
                             block_sums, ld);
            }
            float* sums = b_.weights_sums + weights_at(part, tap);
            for (int64_t i = 0; i < outputs_ * ld; ++i) sums[i] += block_sums[i];
          }
        }
    });
  }

  // From the sums of all units of an offset group to the gradients of its offsets and masks.
  void offsets(int64_t first, int64_t n, int64_t block) {
    const Map<T> to(gradients_[kOffsetMask]);
    const int64_t begin = block * kBlock, end = std::min(begin + kBlock, pixels_), units = units_of_group(problem_);
    for (int64_t g = 0; g < problem_.offset_group; ++g)
      for (int64_t tap = 0; tap < taps_; ++tap) {
        const int64_t point = g * taps_ + tap, mask_channel = 2 * problem_.offset_group * taps_ + point;
        const Sample* samples = samples_of(n, g, tap);
        for (int64_t p = begin; p < end; ++p) {
          Four sums{};
          for (int64_t unit = g * units; unit < (g + 1) * units; ++unit)
            sums += sums_of_unit(n, unit, tap)[p];
          const Sample& s = samples[p];
          const float left = sums[0], right = sums[1], top = sums[2], value = sums[3];
          const float down = (1 - s.dx) * left + s.dx * right;
          const float across = (1 - s.dy) * top + s.dy * (top + right - left);
          const int64_t i = p / problem_.window.Wo, j = p % problem_.window.Wo;
          *to.at(first + n, 2 * point, i, j) = from_float<T>(s.mask * down);
          *to.at(first + n, 2 * point + 1, i, j) = from_float<T>(s.mask * across);
          *to.at(first + n, mask_channel, i, j) = from_float<T>(s.mask_slope * (value + s.dx * top + s.dy * down));
        }
      }
  }

  void write_weights(int64_t index) {
    const Map<T> to(gradients_[kW]);
    with_part(index % b_.parts, [&](const Part& part) {
      for_outputs(index / b_.parts, [&](int64_t output) {
        for (int64_t tap = 0; tap < taps_; ++tap) {
          const float* sums = b_.weights_sums + weights_at(part, tap) + output * padded_columns(part.channels);
          T* at = to.at(part.group * outputs_ + output, part.first - part.group * channels_, tap / problem_.window.kw,
                        tap % problem_.window.kw);
          for (int64_t c = 0; c < part.channels; ++c) at[c * to.c] = from_float<T>(sums[c]);
        }
      });
    });
  }

  const Problem& problem_;
  const Map<const T> gradient_, x_, offset_mask_, w_;
  const dyndeploy_tensor* gradients_;
  const Wanted wanted_;
  const dyndeploy_resources* resources_;
  Workspace workspace_;
  const Buffers b_;
  const int64_t taps_ = problem_.window.taps();
  const int64_t pixels_ = problem_.pixels();                               // of Y
  const int64_t map_ = problem_.window.H * problem_.window.W + 1;          // pixels of X, and one outside
  const int64_t channels_ = problem_.group_channels(), outputs_ = problem_.group_outputs();
};

}  // namespace

uint64_t dcnv2_backward_workspace(const Problem& problem, const dyndeploy_tensor* gradients,
                                  const dyndeploy_resources* resources) {
  Workspace workspace;
  lay_out(problem, Wanted(gradients), resources, workspace);
  return workspace.bytes();
}

void dcnv2_backward(const Problem& problem, const dyndeploy_tensor& gradient, const dyndeploy_tensor* inputs,
                    const dyndeploy_tensor* gradients, const dyndeploy_resources* resources) {
  with_type(problem.dtype, [&](auto type) {
    Backward<decltype(type)>(problem, gradient, inputs, gradients, resources).run();
  });
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

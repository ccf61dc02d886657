// Modulated deformable convolution, forward: a fused product of matrices, without a buffer of all columns.
//
//   X     as rows of channels in float, [H][W][C]: in place, or read into the workspace (NCHW, 16-bit types)
//   tile  some pixels of a sample. For a few taps at a time the samples of a group, [pixels][taps * C/group], are
//         written to a buffer that stays in the second cache, and multiplied with the panels of the packed W there:
//         sums [pixels][O/group] begin as B and leave through the ReLU as Y.
//   small maps  With fewer tiles than keep all lanes busy, the samples of all tiles are written to one shared buffer
//         first, and tasks are (tile, panel of outputs): each lane then reads its part of W only.
//
// A sum runs over taps, then channels, whatever the division of the work: every element of Y has the same bits.
// Cost: 2 * O/group * C * taps operations per pixel, and 4 reads of a pixel's channels per tap.
#include <algorithm>
#include <cstring>

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

// Pixels of a tile: some blocks of rows of the product, all of which use a panel of W once it is in the first cache.
// The large tile reads W half as often, the small one leaves more tasks to the lanes.
constexpr int64_t kSmallTile = 56 / kRows * kRows, kLargeTile = 2 * kSmallTile;
// Bytes of W that do not stay in the second cache from tile to tile: tiles are up to twice as large (3x3, 512@25x42,
// Sapphire Rapids, one thread, the last cache shared with other processes: 0.92 of the time).
constexpr int64_t kManyWeights = int64_t{4} << 20;
// Steps of depth at a time, about: a panel's part is 32 KiB.
constexpr int64_t kDepth = 256;
// Bytes of X as rows, when it has to be copied: as many samples at a time as stay in the last cache.
constexpr int64_t kMostCopied = int64_t{16} << 20;
// Bytes of the shared buffer of samples.
constexpr int64_t kMostShared = int64_t{256} << 20;

// --- packed weights: a header, then per group the panels of [tap][channel][outputs]

struct Header {
  uint64_t magic;
  uint64_t isa;
  int64_t O, C, kh, kw, group;
  int64_t reserved;
};
static_assert(sizeof(Header) == 64);

constexpr uint64_t kMagic = 0x31766e63647964;  // "dydcnv1"

Header header_of(const Problem& problem) {
  return {.magic = kMagic,
          .isa = static_cast<uint64_t>(Isa::DYNDEPLOY_ISA),
          .O = problem.O,
          .C = problem.C,
          .kh = problem.window.kh,
          .kw = problem.window.kw,
          .group = problem.group,
          .reserved = 0};
}

int64_t group_floats(const Problem& problem) { return packed_floats(problem.depth(), problem.group_outputs()); }
int64_t panels(const Problem& problem) { return panel_count(problem.group_outputs()); }

// Panel `index`, counted over all groups.
template <class T>
void pack_panel_of(const Problem& problem, const dyndeploy_tensor& W, int64_t index, float* packed) {
  const Map<const T> map(W);
  const Window& window = problem.window;
  const int64_t group = index / panels(problem), panel = index % panels(problem);
  const int64_t begin = panel * kColumns, width = panel_columns(panel, problem.group_outputs());
  const int64_t outputs = std::min(width, problem.group_outputs() - begin);
  packed += group * group_floats(problem) + panel_offset(panel, problem.depth());
  // Four outputs at a time: more rows of W, often a power of two apart, would evict each other from the first cache.
  for (int64_t o = 0; o < width; o += 4) {
    const auto pack_four = [&](int64_t c, int64_t tap) {
      const T* from = map.at(group * problem.group_outputs() + begin + o, c, tap / window.kw, tap % window.kw);
      float* to = packed + (tap * problem.group_channels() + c) * width + o;
      for (int64_t i = 0; i < 4; ++i) to[i] = o + i < outputs ? to_float(from[i * map.n]) : 0.0f;
    };
    // Along W's memory.
    if (map.c == 1)
      for (int64_t tap = 0; tap < window.taps(); ++tap)
        for (int64_t c = 0; c < problem.group_channels(); ++c) pack_four(c, tap);
    else
      for (int64_t c = 0; c < problem.group_channels(); ++c)
        for (int64_t tap = 0; tap < window.taps(); ++tap) pack_four(c, tap);
  }
}

// --- memory

struct Buffers {
  int32_t lanes;
  int64_t pass;     // samples of X at a time
  int64_t tile;     // pixels
  int64_t tiles;    // of a sample of X
  bool in_place;    // X is read where it is
  bool shared;      // what was sampled goes to one buffer for all lanes
  int64_t taps;     // at a time
  float* packed;    // the panels of W
  float* zeros;     // [C]
  float* rows;      // [sample of X][H][W][C]
  float* columns;   // what was sampled: the shared buffer, or one tile per lane
  float* sums;      // per lane: of a tile
  Sample* samples;  // per lane: of a tile
};

int64_t tiles_of(const Problem& problem, int64_t tile) { return (problem.pixels() + tile - 1) / tile; }

// Pixels of a tile, with so many samples at a time.
int64_t tile_of(const Problem& problem, int64_t samples, int64_t lanes) {
  if (lanes > 1 && samples * tiles_of(problem, kLargeTile) < 4 * lanes) return kSmallTile;
  const auto bytes = static_cast<int64_t>(sizeof(float)) * problem.group * group_floats(problem);
  if (samples == 0 || problem.pixels() <= kLargeTile || bytes < kManyWeights) return kLargeTile;
  // So many that all lanes end at the same time.
  const int64_t tiles = round_up(samples * tiles_of(problem, 2 * kLargeTile), lanes) / samples;
  return std::clamp(round_up((problem.pixels() + tiles - 1) / tiles, kRows), kLargeTile, 2 * kLargeTile);
}

// Whether small tiles alone would leave lanes idle: there are few per lane, and a tenth of all lanes' time is lost.
bool share(const Problem& problem, int64_t samples, int64_t lanes) {
  const int64_t tiles = samples * tiles_of(problem, kSmallTile), rounds = (tiles + lanes - 1) / lanes;
  const int64_t bytes = tiles * kSmallTile * problem.C * problem.window.taps() * static_cast<int64_t>(sizeof(float));
  return lanes > 1 && tiles < 4 * lanes && bytes <= kMostShared &&
         10 * samples * problem.pixels() < 9 * rounds * lanes * kSmallTile;
}

Buffers lay_out(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_resources* resources,
                Workspace& workspace) {
  const dyndeploy_tensor& X = inputs[kX];
  const int64_t map_floats = problem.window.H * problem.window.W * problem.C;
  Buffers b{};
  const int64_t lanes = lanes_for(resources, kMostExtent);
  b.in_place = problem.dtype == DYNDEPLOY_FLOAT32 && channels_last(X);
  b.pass = b.in_place ? problem.N
                      : std::clamp<int64_t>(kMostCopied / 4 / std::max<int64_t>(map_floats, 1), 1,
                                            std::max<int64_t>(problem.N, 1));
  b.shared = share(problem, b.pass, lanes);
  b.tile = tile_of(problem, b.pass, lanes);
  b.tiles = tiles_of(problem, b.tile);
  // Those with memory of their own: no more than there are tasks that need it.
  const int64_t tasks = b.shared ? std::max(problem.window.taps(), problem.group * panels(problem)) : 1;
  b.lanes = lanes_for(resources, b.pass * b.tiles * tasks);
  b.taps = std::clamp<int64_t>(kDepth / std::max<int64_t>(problem.group_channels(), 1), 1, problem.window.taps());
  if (!resources->packed) b.packed = workspace.take<float>(problem.group * group_floats(problem));
  b.zeros = workspace.take<float>(problem.C);
  if (!b.in_place) b.rows = workspace.take<float>(b.pass * map_floats);
  if (b.shared) {
    b.columns = workspace.take<float>(b.pass * b.tiles * b.tile * problem.C * problem.window.taps());
    b.sums = workspace.take<float>(b.lanes * b.tile * kColumns);
    b.samples = workspace.take<Sample>(b.lanes * b.tile * problem.offset_group);
  } else {
    b.columns = workspace.take<float>(b.lanes * b.tile * b.taps * problem.group_channels());
    b.sums = workspace.take<float>(b.lanes * b.tile * padded_columns(problem.group_outputs()));
    b.samples = workspace.take<Sample>(b.lanes * b.tile * problem.offset_group * problem.window.taps());
  }
  return b;
}

// --- the convolution

template <class T>
class Forward {
 public:
  Forward(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
          const dyndeploy_resources* resources)
      : problem_(problem),
        inputs_(inputs),
        x_(inputs[kX]),
        offset_mask_(inputs[kOffsetMask]),
        y_(Y),
        resources_(resources),
        workspace_(resources->workspace),
        b_(lay_out(problem, inputs, resources, workspace_)) {}

  void run() {
    std::fill(b_.zeros, b_.zeros + problem_.C, 0.0f);
    weights_ = b_.packed;
    if (resources_->packed)
      weights_ = reinterpret_cast<const float*>(static_cast<const Header*>(resources_->packed) + 1);
    else
      in_parallel(problem_.group * panels(problem_), [&](int, int64_t index) {
        pack_panel_of<T>(problem_, inputs_[kW], index, b_.packed);
      });
    for (int64_t first = 0; first < problem_.N; first += b_.pass) {
      const int64_t count = std::min(b_.pass, problem_.N - first);
      if (!b_.in_place) read_rows(first, count);
      if (b_.shared)
        convolve_shared(first, count);
      else
        in_parallel(count * b_.tiles, [&](int lane, int64_t index) {
          convolve_tile(lane, first, index / b_.tiles, index % b_.tiles);
        });
    }
  }

 private:
  template <class Task>
  void in_parallel(int64_t tasks, Task task) {
    for_each_task(resources_, tasks, task);
  }

  void read_rows(int64_t first, int64_t count) {
    constexpr int64_t kPiece = 128;
    const int64_t pixels = problem_.window.H * problem_.window.W, pieces = (pixels + kPiece - 1) / kPiece;
    in_parallel(count * pieces, [&](int, int64_t index) {
      const int64_t n = index / pieces, begin = index % pieces * kPiece;
      read_tile(x_, first + n, problem_.window.W, begin, std::min(begin + kPiece, pixels), 0, problem_.C,
                b_.rows + (n * pixels + begin) * problem_.C, problem_.C);
    });
  }

  // Sample first + n of X as rows, and how its pixels are reached from there.
  const float* map_of(int64_t first, int64_t n, Place& place) const {
    const int64_t row = problem_.window.W * problem_.C;
    const float* map = b_.rows + n * problem_.window.H * row;
    place = {.row_h = row, .row_w = problem_.C, .outside = 0};
    if constexpr (sizeof(T) == sizeof(float))
      if (b_.in_place) {
        map = x_.at(first + n, 0, 0, 0);
        place = {.row_h = x_.h, .row_w = x_.w, .outside = 0};
      }
    place.outside = (reinterpret_cast<intptr_t>(b_.zeros) - reinterpret_cast<intptr_t>(map)) /
                    static_cast<intptr_t>(sizeof(float));
    return map;
  }

  // Samples of one tap, [offset group][b_.tile], for the channels of a group.
  void interpolate_group(const float* map, const Sample* samples, int64_t group, int64_t count, float* to,
                         int64_t ld) const {
    const int64_t begin = group * problem_.group_channels(), end = begin + problem_.group_channels();
    for (int64_t c = begin, next; c < end; c = next) {
      const int64_t offset_group = c / problem_.offset_channels();
      next = std::min(end, (offset_group + 1) * problem_.offset_channels());
      interpolate(map + c, 1, samples + offset_group * b_.tile, count, next - c, to + (c - begin), ld);
    }
  }

  // Sums begin as the bias of outputs first, first + 1, …
  void start_sums(int64_t first, int64_t outputs, int64_t count, float* sums, int64_t ld) const {
    const auto* bias = static_cast<const T*>(inputs_[kB].data);
    const int64_t stride = inputs_[kB].strides[0];
    for (int64_t o = 0; o < ld; ++o) sums[o] = o < outputs ? to_float(bias[(first + o) * stride]) : 0.0f;
    for (int64_t r = 1; r < count; ++r) std::memcpy(sums + r * ld, sums, static_cast<size_t>(ld) * sizeof(float));
  }

  void convolve_tile(int lane, int64_t first, int64_t n, int64_t tile) {
    const int64_t taps = problem_.window.taps();
    const int64_t channels = problem_.group_channels(), outputs = problem_.group_outputs();
    const int64_t begin = tile * b_.tile, count = std::min(b_.tile, problem_.pixels() - begin);
    const int64_t ld_columns = b_.taps * channels, ld_sums = padded_columns(outputs);
    Sample* samples = b_.samples + lane * taps * problem_.offset_group * b_.tile;
    float* columns = b_.columns + lane * b_.tile * ld_columns;
    float* sums = b_.sums + lane * b_.tile * ld_sums;
    Place place;
    const float* map = map_of(first, n, place);
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t g = 0; g < problem_.offset_group; ++g)
        locate(problem_, offset_mask_, first + n, g, tap, begin, count, place,
               samples + (tap * problem_.offset_group + g) * b_.tile);
    for (int64_t group = 0; group < problem_.group; ++group) {
      start_sums(group * outputs, outputs, count, sums, ld_sums);
      for (int64_t tap = 0; tap < taps; tap += b_.taps) {
        const int64_t some = std::min(b_.taps, taps - tap);
        for (int64_t t = 0; t < some; ++t)
          interpolate_group(map, samples + (tap + t) * problem_.offset_group * b_.tile, group, count,
                            columns + t * channels, ld_columns);
        for (int64_t panel = 0; panel < panels(problem_); ++panel)
          multiply(group, panel, tap * channels, some * channels, count, columns, ld_columns, sums + panel * kColumns,
                   ld_sums);
      }
      write_tile(y_, first + n, problem_.window.Wo, begin, begin + count, group * outputs, 1, outputs, problem_.relu,
                 sums, ld_sums);
    }
  }

  // sums += samples * rows [begin, begin + depth) of a panel of W.
  void multiply(int64_t group, int64_t panel, int64_t begin, int64_t depth, int64_t count, const float* columns,
                int64_t ld_columns, float* sums, int64_t ld_sums) const {
    const int64_t width = panel_columns(panel, problem_.group_outputs());
    const float* weights = weights_ + group * group_floats(problem_) + panel_offset(panel, problem_.depth());
    multiply_panel(0, width, count, depth, columns, ld_columns, weights + begin * width, depth, nullptr, sums, ld_sums);
  }

  void convolve_shared(int64_t first, int64_t samples_of_x) {
    const int64_t taps = problem_.window.taps();
    const int64_t channels = problem_.group_channels(), outputs = problem_.group_outputs();
    const int64_t tiles = samples_of_x * b_.tiles, depth = problem_.depth();
    // The buffer: [tile][group][pixel][tap][channel].
    const auto columns_of = [&](int64_t tile, int64_t group) {
      return b_.columns + (tile * problem_.group + group) * b_.tile * depth;
    };
    in_parallel(tiles * taps, [&](int lane, int64_t index) {
      const int64_t tile = index / taps, tap = index % taps, n = tile / b_.tiles, begin = tile % b_.tiles * b_.tile;
      const int64_t count = std::min(b_.tile, problem_.pixels() - begin);
      Sample* samples = b_.samples + lane * problem_.offset_group * b_.tile;
      Place place;
      const float* map = map_of(first, n, place);
      for (int64_t g = 0; g < problem_.offset_group; ++g)
        locate(problem_, offset_mask_, first + n, g, tap, begin, count, place, samples + g * b_.tile);
      for (int64_t group = 0; group < problem_.group; ++group)
        interpolate_group(map, samples, group, count, columns_of(tile, group) + tap * channels, depth);
    });
    // Tiles innermost: lanes that come for the next task find the panel in the cache.
    in_parallel(problem_.group * panels(problem_) * tiles, [&](int lane, int64_t index) {
      const int64_t tile = index % tiles, panel = index / tiles % panels(problem_);
      const int64_t group = index / tiles / panels(problem_);
      const int64_t n = tile / b_.tiles, begin = tile % b_.tiles * b_.tile;
      const int64_t count = std::min(b_.tile, problem_.pixels() - begin);
      const int64_t first_output = group * outputs + panel * kColumns;
      const int64_t some = std::min<int64_t>(kColumns, outputs - panel * kColumns);
      float* sums = b_.sums + lane * b_.tile * kColumns;
      start_sums(first_output, some, count, sums, kColumns);
      for (int64_t d = 0; d < depth; d += kDepth)
        multiply(group, panel, d, std::min(kDepth, depth - d), count, columns_of(tile, group) + d, depth, sums,
                 kColumns);
      write_tile(y_, first + n, problem_.window.Wo, begin, begin + count, first_output, 1, some, problem_.relu, sums,
                 kColumns);
    });
  }

  const Problem& problem_;
  const dyndeploy_tensor* inputs_;
  const Map<const T> x_;
  const Map<const T> offset_mask_;
  const Map<T> y_;
  const dyndeploy_resources* resources_;
  Workspace workspace_;
  const Buffers b_;
  const float* weights_ = nullptr;
};

}  // namespace

uint64_t dcnv2_packed_bytes(const Problem& problem) {
  return sizeof(Header) + static_cast<uint64_t>(problem.group * group_floats(problem)) * sizeof(float);
}

void dcnv2_pack(const Problem& problem, const dyndeploy_tensor& W, void* packed) {
  const Header header = header_of(problem);
  std::memcpy(packed, &header, sizeof header);
  auto* floats = reinterpret_cast<float*>(static_cast<Header*>(packed) + 1);
  with_type(problem.dtype, [&](auto type) {
    for (int64_t index = 0; index < problem.group * panels(problem); ++index)
      pack_panel_of<decltype(type)>(problem, W, index, floats);
  });
}

bool dcnv2_is_packed(const Problem& problem, const void* packed, uint64_t bytes) {
  const Header header = header_of(problem);
  return bytes >= dcnv2_packed_bytes(problem) && std::memcmp(packed, &header, sizeof header) == 0;
}

uint64_t dcnv2_forward_workspace(const Problem& problem, const dyndeploy_tensor* inputs,
                                 const dyndeploy_resources* resources) {
  Workspace workspace;
  lay_out(problem, inputs, resources, workspace);
  return workspace.bytes();
}

void dcnv2_forward(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                   const dyndeploy_resources* resources) {
  with_type(problem.dtype, [&](auto type) { Forward<decltype(type)>(problem, inputs, Y, resources).run(); });
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

// Dynamic group convolution, forward: products over the kept channels only, without a copy of the kept weights.
//
//   kept    per (sample, head) the channels that are kept, in their order, and their gates
//   tile    some output rows and columns of a sample. Per head, the kept channels of the pixels of X that the tile
//           looks at are multiplied by their gates and written side by side, once, to a buffer in the second cache:
//           [row of X][pixel][kept], zeros beside the map. Taps do not copy from there: a row of pixels at any tap is a
//           matrix in it, whose rows lie stride * kept floats apart. With a dilation of 1 the taps of a row of the
//           kernel lie side by side too, and are one product.
//   sums    [pixel][outputs of a panel] begin as B, are multiplied up with the rows of the panel that belong to kept
//           channels, picked by index, and leave through the ReLU as Y, shuffled.
//
// A dropped channel is skipped, not multiplied by 0: a NaN or an infinity in it does not reach Y. So are taps above and
// below the map. A sum runs over taps, then kept channels, whatever the division of the work: every element of Y has
// the same bits.
// Cost: 2 * O * taps * kept operations per pixel, and heads * kept elements of X read per pixel.
#include <algorithm>
#include <cstring>

#include "common/cpu/gemm.h"
#include "common/cpu/layout.h"
#include "dgc/cpu.h"
#include "dgc/kept.h"

namespace dyndeploy::DYNDEPLOY_ISA {
namespace {

using dgc::kB;
using dgc::kSaliency;
using dgc::kW;
using dgc::kX;
using dgc::Problem;

// Floats of the kept channels of a tile, about.
constexpr int64_t kTileFloats = 48 << 10;
// Pixels below which a tile is not divided for the sake of the lanes: neighbours compress the same rows of X.
constexpr int64_t kFewPixels = 128;
// Floats of the weights of kept channels that stay in the second cache from tile to tile. More are read head by head:
// at 512 channels of 25 x 42, a quarter kept, 4 heads, in 0.92 of the time (Zen 4, AVX-512, one thread). Fewer are not:
// heads that are shuffled write to the same lines of Y, at 256 channels of 50 x 84 in 1.14 of the time.
constexpr int64_t kCachedWeights = 256 << 10;
// Channels of a task that packs weights.
constexpr int64_t kPackedChannels = 64;

// --- packed weights: a header, then per head the panels of [tap][channel][outputs]

struct Header {
  uint64_t magic;
  uint64_t isa;
  int64_t O, C, kh, kw, heads;
  int64_t reserved;
};
static_assert(sizeof(Header) == 64);

constexpr uint64_t kMagic = 0x3176636764;  // "dgcv1"

Header header_of(const Problem& problem) {
  return {.magic = kMagic,
          .isa = static_cast<uint64_t>(Isa::DYNDEPLOY_ISA),
          .O = problem.O,
          .C = problem.C,
          .kh = problem.window.kh,
          .kw = problem.window.kw,
          .heads = problem.heads,
          .reserved = 0};
}

int64_t head_floats(const Problem& problem) { return packed_floats(problem.depth(), problem.head_outputs()); }
int64_t panels(const Problem& problem) { return panel_count(problem.head_outputs()); }

// Channels [begin, end) of one panel of a head; of these, those that `wanted` says, or all.
template <class T>
void pack_channels(const Problem& problem, const dyndeploy_tensor& W, int64_t head, int64_t panel, int64_t begin,
                   int64_t end, const uint8_t* wanted, float* packed) {
  const Map<const T> map(W);
  const Window& window = problem.window;
  const int64_t first = panel * kColumns, width = panel_columns(panel, problem.head_outputs());
  const int64_t outputs = std::min(width, problem.head_outputs() - first);
  packed += head * head_floats(problem) + panel_offset(panel, problem.depth());
  // A few outputs at a time: the distance of outputs in W is often one at which lines compete for their place in the
  // first cache. What lies side by side in W, channels or taps, comes one after the other.
  constexpr int64_t kOutputs = 8;
  for (int64_t o = 0; o < width; o += kOutputs) {
    const auto pack = [&](int64_t c, int64_t kh, int64_t kw) {
      const T* from = map.at(head * problem.head_outputs() + first + o, c, kh, kw);
      float* to = packed + ((kh * window.kw + kw) * problem.C + c) * width + o;
      if (o + kOutputs <= outputs)
        for (int64_t i = 0; i < kOutputs; ++i) to[i] = to_float(from[i * map.n]);
      else  // the last ones, and zeros up to the width of the panel
        for (int64_t i = 0; i < std::min(kOutputs, width - o); ++i)
          to[i] = o + i < outputs ? to_float(from[i * map.n]) : 0.0f;
    };
    const auto is_wanted = [&](int64_t c) { return !wanted || wanted[c]; };
    if (map.c == 1) {
      for (int64_t kh = 0; kh < window.kh; ++kh)
        for (int64_t kw = 0; kw < window.kw; ++kw)
          for (int64_t c = begin; c < end; ++c)
            if (is_wanted(c)) pack(c, kh, kw);
    } else {
      for (int64_t c = begin; c < end; ++c)
        if (is_wanted(c))
          for (int64_t kh = 0; kh < window.kh; ++kh)
            for (int64_t kw = 0; kw < window.kw; ++kw) pack(c, kh, kw);
    }
  }
}

// --- tiles

// How the positions along H or W that a tile looks at are stored: as one run that all taps share, or, where a stride or
// dilation leaves gaps that make the run the longer one, as one run per tap.
struct Axis {
  int64_t runs, length;  // positions of a run
  int64_t by;            // distance in the map between positions of a run
  int64_t output, tap;   // distance in the buffer between positions of neighbouring outputs, taps

  Axis(int64_t outputs, int64_t taps, int64_t stride, int64_t dilation) {
    const int64_t shared = (outputs - 1) * stride + (taps - 1) * dilation + 1;
    if (shared < outputs * taps)
      runs = 1, length = shared, by = 1, output = stride, tap = dilation;
    else
      runs = taps, length = outputs, by = stride, output = 1, tap = outputs;
  }
  int64_t positions() const { return runs * length; }
  // Of the `length` of a run, what a tile of fewer outputs than the others looks at.
  int64_t used(int64_t missing) const { return length - missing * output; }
};

struct Plan {
  int64_t lanes;
  int64_t rows, columns;  // outputs of a tile, at most
  int64_t down, across;   // tiles of a sample
  int64_t parts;          // tasks of a tile
  Axis h, w;
};

Plan plan_of(const Problem& problem, const dyndeploy_resources* resources) {
  const Window& window = problem.window;
  const auto pieces = [](int64_t n, int64_t most) { return (n + most - 1) / most; };
  const int64_t kept = std::max<int64_t>(problem.C - std::max<int64_t>(problem.inactive, 0), 1);
  const int64_t pixels = std::max<int64_t>(kTileFloats / kept, kRows);
  int64_t columns = window.Wo;
  if (columns > pixels) columns = round_up(pieces(columns, pieces(columns, pixels)), kRows);
  const int64_t across = pieces(window.Wo, columns);
  int64_t rows = std::clamp<int64_t>(pixels / columns, 1, window.Ho);
  // Two tasks per lane: tiles, while these are large enough, then parts of the outputs of a tile.
  const int64_t lanes = lanes_for(resources, int64_t{1} << 31), tasks = lanes == 1 ? 1 : 2 * lanes;
  const int64_t samples = problem.N * across;
  const int64_t fewest = std::min(rows, pieces(kFewPixels, columns));
  rows = std::clamp(pieces(window.Ho, pieces(tasks, samples)), fewest, rows);
  rows = pieces(window.Ho, pieces(window.Ho, rows));
  const int64_t down = pieces(window.Ho, rows);
  const int64_t fewest_parts = kept * window.taps() * problem.O > kCachedWeights ? problem.heads : 1;
  const int64_t all = problem.heads * panels(problem);
  const int64_t parts = std::clamp(pieces(tasks, samples * down), fewest_parts, all);
  return {lanes_for(resources, samples * down * parts),
          rows,
          columns,
          down,
          across,
          parts,
          Axis(rows, window.kh, window.stride_h, window.dilation_h),
          Axis(columns, window.kw, window.stride_w, window.dilation_w)};
}

// The workspace.
struct Buffers {
  float* packed;
  uint8_t* wanted;    // [head][channel]: whether a sample keeps it
  int64_t* counts;    // [sample][head]
  int32_t* channels;  // [sample][head][C]
  float* gates;       // likewise
  int32_t* rows;      // per lane: rows of packed W for a row of the kernel
  float* compressed;  // per lane
  float* sums;        // per lane

  Buffers(const Problem& problem, const Plan& plan, const dyndeploy_resources* resources, Workspace& workspace) {
    const int64_t all = problem.N * problem.heads;
    packed = resources->packed ? nullptr : workspace.take<float>(problem.heads * head_floats(problem));
    wanted = resources->packed ? nullptr : workspace.take<uint8_t>(problem.heads * problem.C);
    counts = workspace.take<int64_t>(all);
    channels = workspace.take<int32_t>(all * problem.C);
    gates = workspace.take<float>(all * problem.C);
    rows = workspace.take<int32_t>(plan.lanes * problem.window.kw * problem.C);
    compressed = workspace.take<float>(plan.lanes * plan.h.positions() * plan.w.positions() * problem.C);
    sums = workspace.take<float>(plan.lanes * plan.rows * plan.columns * kColumns);
  }
};

// --- the convolution

template <class T>
class Forward {
 public:
  Forward(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
          const dyndeploy_resources* resources)
      : problem_(problem),
        window_(problem.window),
        inputs_(inputs),
        x_(inputs[kX]),
        y_(Y),
        resources_(resources),
        plan_(plan_of(problem, resources)),
        workspace_(resources->workspace),
        b_(problem, plan_, resources, workspace_) {}

  void run() {
    in_parallel(problem_.N * problem_.heads, [&](int, int64_t index) { choose_channels(index); });
    weights_ = b_.packed;
    if (resources_->packed)
      weights_ = reinterpret_cast<const float*>(static_cast<const Header*>(resources_->packed) + 1);
    else
      pack();
    const int64_t tiles = plan_.down * plan_.across;
    in_parallel(problem_.N * tiles * plan_.parts, [&](int lane, int64_t index) {
      // Parts outermost: a lane that comes for the next tile finds the weights in its cache.
      const int64_t tile = index % tiles, n = index / tiles % problem_.N;
      convolve(lane, n, tile / plan_.across, tile % plan_.across, index / tiles / problem_.N);
    });
  }

 private:
  template <class Task>
  void in_parallel(int64_t tasks, Task task) {
    for_each_task(resources_, tasks, task);
  }

  // `index`: sample * heads + head.
  void choose_channels(int64_t index) {
    const dyndeploy_tensor& saliency = inputs_[kSaliency];
    const T* from = static_cast<const T*>(saliency.data) + index / problem_.heads * saliency.strides[0] +
                    index % problem_.heads * problem_.C * saliency.strides[1];
    b_.counts[index] =
        choose(problem_, from, saliency.strides[1], b_.channels + index * problem_.C, b_.gates + index * problem_.C);
  }

  Kept kept(int64_t n, int64_t head) const {
    const int64_t index = n * problem_.heads + head;
    return {b_.counts[index], b_.channels + index * problem_.C, b_.gates + index * problem_.C};
  }

  // What no sample keeps is not packed: with one sample, most of W.
  void pack() {
    std::fill(b_.wanted, b_.wanted + problem_.heads * problem_.C, uint8_t{0});
    for (int64_t n = 0; n < problem_.N; ++n)
      for (int64_t head = 0; head < problem_.heads; ++head) {
        const Kept k = kept(n, head);
        for (int64_t i = 0; i < k.count; ++i) b_.wanted[head * problem_.C + k.channels[i]] = 1;
      }
    const int64_t pieces = (problem_.C + kPackedChannels - 1) / kPackedChannels;
    in_parallel(problem_.heads * panels(problem_) * pieces, [&](int, int64_t index) {
      const int64_t head = index / pieces / panels(problem_), begin = index % pieces * kPackedChannels;
      pack_channels<T>(problem_, inputs_[kW], head, index / pieces % panels(problem_), begin,
                       std::min(begin + kPackedChannels, problem_.C), b_.wanted + head * problem_.C, b_.packed);
    });
  }

  // One part of the panels of all heads, for one tile of sample n.
  void convolve(int lane, int64_t n, int64_t down, int64_t across, int64_t part) {
    const int64_t top = down * plan_.rows, rows = std::min(plan_.rows, window_.Ho - top);
    const int64_t left = across * plan_.columns, columns = std::min(plan_.columns, window_.Wo - left);
    const int64_t all = problem_.heads * panels(problem_);
    const int64_t begin = all * part / plan_.parts, end = all * (part + 1) / plan_.parts;
    float* compressed = b_.compressed + lane * plan_.h.positions() * plan_.w.positions() * problem_.C;
    int32_t* index = b_.rows + lane * window_.kw * problem_.C;
    float* sums = b_.sums + lane * plan_.rows * plan_.columns * kColumns;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / panels(problem_), panel = i % panels(problem_);
      const Kept k = kept(n, head);
      if (i == begin || panel == 0) {
        compress(n, k, top, rows, left, columns, compressed);
        for (int64_t tap = 0; tap < joined_taps(); ++tap)
          for (int64_t c = 0; c < k.count; ++c)
            index[tap * k.count + c] = k.channels[c] + static_cast<int32_t>(tap * problem_.C);
      }
      const int64_t first = panel * kColumns, width = panel_columns(panel, problem_.head_outputs());
      const int64_t outputs = std::min(width, problem_.head_outputs() - first);
      start_sums(head * problem_.head_outputs() + first, outputs, width, rows * columns, sums);
      multiply(head, panel, k.count, top, rows, columns, compressed, index, sums);
      write(n, head, first, outputs, width, top, rows, left, columns, sums);
    }
  }

  // Taps of a row of the kernel whose pixels lie side by side in the buffer.
  int64_t joined_taps() const { return plan_.w.tap == 1 ? window_.kw : 1; }

  // The kept channels of what the tile of outputs looks at.
  void compress(int64_t n, const Kept& k, int64_t top, int64_t rows, int64_t left, int64_t columns, float* to) const {
    const Axis &h = plan_.h, &w = plan_.w;
    const int64_t used_h = h.used(plan_.rows - rows), used_w = w.used(plan_.columns - columns);
    for (int64_t run_h = 0; run_h < h.runs; ++run_h)
      for (int64_t i = 0; i < used_h; ++i) {
        const int64_t ih = top * window_.stride_h - window_.top + run_h * window_.dilation_h + i * h.by;
        if (ih < 0 || ih >= window_.H) continue;
        for (int64_t run_w = 0; run_w < w.runs; ++run_w) {
          const int64_t iw = left * window_.stride_w - window_.left + run_w * window_.dilation_w;
          const auto position = [&](int64_t at) { return std::clamp<int64_t>((at - iw + w.by - 1) / w.by, 0, used_w); };
          const int64_t begin = iw < 0 ? position(0) : 0, end = iw < window_.W ? position(window_.W) : 0;
          float* row = to + ((run_h * h.length + i) * w.positions() + run_w * w.length) * k.count;
          std::fill(row, row + begin * k.count, 0.0f);
          if (begin < end) {
            const int64_t step = end - begin > 1 ? w.by * x_.w : 0;
            compress_pixels<true>(x_.at(n, 0, ih, iw + begin * w.by), x_.c, step, end - begin, k,
                                  row + begin * k.count, k.count);
          }
          std::fill(row + std::max(begin, end) * k.count, row + used_w * k.count, 0.0f);
        }
      }
  }

  // Sums begin as the bias of outputs first, first + 1, …
  void start_sums(int64_t first, int64_t outputs, int64_t width, int64_t pixels, float* sums) const {
    const dyndeploy_tensor& B = inputs_[kB];
    const auto* bias = static_cast<const T*>(B.data) + first * B.strides[0];
    for (int64_t o = 0; o < width; ++o) sums[o] = o < outputs ? to_float(bias[o * B.strides[0]]) : 0.0f;
    for (int64_t p = 1; p < pixels; ++p) std::copy(sums, sums + width, sums + p * width);
  }

  void multiply(int64_t head, int64_t panel, int64_t count, int64_t top, int64_t rows, int64_t columns,
                const float* compressed, const int32_t* index, float* sums) const {
    const Axis &h = plan_.h, &w = plan_.w;
    const int64_t width = panel_columns(panel, problem_.head_outputs()), joined = joined_taps();
    const float* weights = weights_ + head * head_floats(problem_) + panel_offset(panel, problem_.depth());
    if (count == 0) return;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t tap_h = 0; tap_h < window_.kh; ++tap_h) {
        const int64_t ih = (top + r) * window_.stride_h - window_.top + tap_h * window_.dilation_h;
        if (ih < 0 || ih >= window_.H) continue;
        const float* row = compressed + (r * h.output + tap_h * h.tap) * w.positions() * count;
        for (int64_t tap = 0; tap < window_.kw; tap += joined)
          multiply_panel(0, width, columns, joined * count, row + tap * w.tap * count, w.output * count,
                         weights + (tap_h * window_.kw + tap) * problem_.C * width, 0, index,
                         sums + r * columns * width, width);
      }
  }

  void write(int64_t n, int64_t head, int64_t first, int64_t outputs, int64_t width, int64_t top, int64_t rows,
             int64_t left, int64_t columns, float* sums) const {
    const int64_t step = problem_.shuffle ? problem_.heads : 1;
    const int64_t channel = problem_.shuffle ? first * problem_.heads + head : head * problem_.head_outputs() + first;
    // Rows of the map that are complete follow each other.
    const int64_t run = columns == window_.Wo ? rows * columns : columns;
    for (int64_t p = 0; p < rows * columns; p += run) {
      const int64_t begin = (top + p / columns) * window_.Wo + left;
      write_tile(y_, n, window_.Wo, begin, begin + run, channel, step, outputs, problem_.relu, sums + p * width, width);
    }
  }

  const Problem& problem_;
  const Window& window_;
  const dyndeploy_tensor* inputs_;
  const Map<const T> x_;
  const Map<T> y_;
  const dyndeploy_resources* resources_;
  const Plan plan_;
  Workspace workspace_;
  const Buffers b_;
  const float* weights_ = nullptr;
};

}  // namespace

uint64_t dgc_packed_bytes(const Problem& problem) {
  return sizeof(Header) + static_cast<uint64_t>(problem.heads * head_floats(problem)) * sizeof(float);
}

void dgc_pack(const Problem& problem, const dyndeploy_tensor& W, void* packed) {
  const Header header = header_of(problem);
  std::memcpy(packed, &header, sizeof header);
  auto* floats = reinterpret_cast<float*>(static_cast<Header*>(packed) + 1);
  with_type(problem.dtype, [&](auto type) {
    for (int64_t head = 0; head < problem.heads; ++head)
      for (int64_t panel = 0; panel < panels(problem); ++panel)
        pack_channels<decltype(type)>(problem, W, head, panel, 0, problem.C, nullptr, floats);
  });
}

bool dgc_is_packed(const Problem& problem, const void* packed, uint64_t bytes) {
  const Header header = header_of(problem);
  return bytes >= dgc_packed_bytes(problem) && std::memcmp(packed, &header, sizeof header) == 0;
}

uint64_t dgc_forward_workspace(const Problem& problem, const dyndeploy_resources* resources) {
  if (problem.N == 0 || problem.O == 0) return 0;
  Workspace workspace;
  Buffers(problem, plan_of(problem, resources), resources, workspace);
  return workspace.bytes();
}

void dgc_forward(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                 const dyndeploy_resources* resources) {
  if (problem.N == 0 || problem.O == 0) return;
  with_type(problem.dtype, [&](auto type) { Forward<decltype(type)>(problem, inputs, Y, resources).run(); });
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

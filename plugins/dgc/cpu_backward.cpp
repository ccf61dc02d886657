// Dynamic group convolution, backward: gradients of X, saliency, W and B from that of Y before the ReLU.
//
// With D[q,k] = sum over outputs r of the head and taps t of W[r,c,t] * gradient[r] at the pixel of Y whose tap t looks at
// pixel q, for the kept channels c = channels[k] of a (sample, head), and x their values:
//
//   X          sum over the heads of gate * D
//   saliency   sum over the pixels of x * D; exactly 0 where the channel was dropped
//   W          gate * sum over the pixels of gradient * x, added up over the samples
//
// A dropped channel is skipped. All is done once per pass of some samples:
//   prepare    the gradient as rows of outputs, head by head, and as rows of pixels
//   compress   per (sample, head) the kept channels of X side by side, in panels for the product, and a pixel of zeros
//   columns    tasks (sample, head, panel of kept channels, tiles of X): D, where the rows of a product are pixels of Y that
//              lie side by side and its results pixels of X that lie `stride` apart: no column is written
//   join       tasks (sample, some pixels of X): the heads' D add up to the gradient of X and, with x, to the saliency's
//   weights    tasks (head, tap, some outputs): gradient^T [outputs][pixels] * x [pixels][kept], whose rows are picked by
//              index; beside the map it is the pixel of zeros
//
// Every sum has one order: the same bits with any number of lanes.
// Cost: two products of the forward's size; D is written and read once, heads * kept floats per pixel of X.
#include <algorithm>

#include "common/cpu/backward.h"
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

// Pixels of X of a tile of columns, about: D and the gradient of a tile stay in the second cache.
constexpr int64_t kTile = 512;
// Pixels of X that are joined by one task, and sum up to one number of a saliency first.
constexpr int64_t kPiece = 128;
// Channels of a task that reads weights, or writes their gradient.
constexpr int64_t kSomeChannels = 32;
// Outputs of a task of `weights`.
constexpr int64_t kOutputs = 56 / kRows * kRows;
// Bytes of one pass, about.
constexpr int64_t kMostPass = int64_t{128} << 20;

int64_t pieces(int64_t n, int64_t most) { return (n + most - 1) / most; }

struct Wanted {
  bool x, saliency, w, b;
  explicit Wanted(const dyndeploy_tensor* gradients)
      : x(gradients[kX].data), saliency(gradients[kSaliency].data), w(gradients[kW].data), b(gradients[kB].data) {}
  bool columns() const { return x || saliency; }
  bool compressed() const { return saliency || w; }
  bool kept() const { return columns() || w; }
};

// A window as the products see it: where a pixel of Y looks at the same pixel of X, the map is one row.
Window folded(Window window) {
  if (window.taps() == 1 && window.stride_h == 1 && window.stride_w == 1 && window.top == 0 && window.left == 0 &&
      window.Ho == window.H && window.Wo == window.W) {
    window.W = window.Wo = window.H * window.W;
    window.H = window.Ho = 1;
  }
  return window;
}

struct Buffers {
  int64_t pass;       // samples at a time
  int64_t blocks;     // of kBlock pixels of Y in a sample
  int64_t lanes;
  int64_t scratch_floats;
  int64_t* counts;    // [sample][head], of all samples
  int32_t* channels;  // [sample][head][C]
  float* gates;       // likewise
  float* weights;       // [head][C][tap][output of the head]
  float* weights_sums;  // the same
  int32_t* places;     // [tap][pixel of Y]: the pixel of X, or the one of zeros
  BiasSums bias;       // a piece: a block of a sample
  float* rows;         // [sample][pixel of Y][O], head by head
  float* planes;       // [sample][block][O][kBlockRow], in Y's order of outputs
  float* x;            // [sample][head][panel][pixel of X, and one of zeros][channels of the panel]
  float* columns;      // [sample][head][pixel of X][kept]: D
  float* slopes;       // [sample][piece][head][kept]
  float* scratch;      // per lane
};

Buffers lay_out(const Problem& problem, const Wanted& wanted, const dyndeploy_resources* resources,
                Workspace& workspace) {
  const int64_t taps = problem.window.taps(), pixels = problem.window.Ho * problem.window.Wo;
  const int64_t map = problem.window.H * problem.window.W, heads = problem.heads;
  Buffers b{};
  b.blocks = pieces(pixels, kBlock);
  const int64_t rows = pixels * problem.O, planes = b.blocks * problem.O * kBlockRow;
  const int64_t x = heads * packed_floats(map + 1, problem.C), columns = heads * padded_columns(problem.C) * map;
  const int64_t slopes = pieces(map, kPiece) * heads * padded_columns(problem.C);
  const int64_t bytes = (wanted.columns() ? rows + columns + slopes : 0) * 4 + (wanted.w ? planes : 0) * 4 +
                        (wanted.compressed() ? x : 0) * 4;
  b.pass = std::clamp<int64_t>(kMostPass / std::max<int64_t>(bytes, 1), 1, std::max<int64_t>(problem.N, 1));
  b.lanes = lanes_for(resources, int64_t{1} << 31);
  if (wanted.kept()) {
    b.counts = workspace.take<int64_t>(problem.N * heads);
    b.channels = workspace.take<int32_t>(problem.N * heads * problem.C);
    b.gates = workspace.take<float>(problem.N * heads * problem.C);
  }
  if (wanted.b) b.bias = {workspace.take<float>(BiasSums::floats(problem.O, b.pass * b.blocks)), problem.O};
  if (wanted.columns()) {
    b.weights = workspace.take<float>(problem.O * taps * problem.C);
    b.rows = workspace.take<float>(b.pass * rows);
    b.columns = workspace.take<float>(b.pass * columns);
  }
  if (wanted.saliency) b.slopes = workspace.take<float>(b.pass * slopes);
  if (wanted.w) {
    b.weights_sums = workspace.take<float>(problem.O * taps * problem.C);
    b.places = workspace.take<int32_t>(taps * pixels);
    b.planes = workspace.take<float>(b.pass * planes);
  }
  if (wanted.compressed()) b.x = workspace.take<float>(b.pass * x);
  // One at a time: outputs of a block; a panel of weights, and its channels; a piece of the gradient of X; sums of some
  // outputs' weights.
  b.scratch_floats = kBlock * problem.O;
  if (wanted.columns())
    b.scratch_floats = std::max(b.scratch_floats, (2 * taps * problem.head_outputs() + kGap) * kColumns);
  if (wanted.x) b.scratch_floats = std::max(b.scratch_floats, kPiece * problem.C);
  if (wanted.w) b.scratch_floats = std::max(b.scratch_floats, 3 * kOutputs * kColumns);
  b.scratch = workspace.take<float>(b.lanes * b.scratch_floats);
  return b;
}

template <class T>
class Backward {
 public:
  Backward(const Problem& problem, const dyndeploy_tensor& gradient, const dyndeploy_tensor* inputs,
           const dyndeploy_tensor* gradients, const dyndeploy_resources* resources)
      : problem_(problem),
        gradient_(gradient),
        x_(inputs[kX]),
        w_(inputs[kW]),
        saliency_(inputs[kSaliency]),
        gradients_(gradients),
        wanted_(gradients),
        resources_(resources),
        workspace_(resources->workspace),
        b_(lay_out(problem, wanted_, resources, workspace_)) {}

  void run() {
    if (wanted_.kept()) in_parallel(problem_.N * heads_, [&](int, int64_t index) { choose_channels(index); });
    const int64_t blocks = pieces(problem_.C, kSomeChannels);
    if (wanted_.columns())
      in_parallel(heads_ * blocks, [&](int, int64_t i) { read_weights(i / blocks, i % blocks * kSomeChannels); });
    if (wanted_.w) {
      in_parallel(taps_, [&](int, int64_t tap) { locate(tap); });
      in_parallel(heads_ * problem_.C, [&](int, int64_t i) {
        std::fill_n(b_.weights_sums + i * taps_ * outputs_, taps_ * outputs_, 0.0f);
      });
    }
    if (wanted_.b) b_.bias.clear();
    for (first_ = 0; first_ < problem_.N; first_ += b_.pass) run_pass(std::min(b_.pass, problem_.N - first_));
    if (wanted_.w)
      in_parallel(heads_ * blocks, [&](int, int64_t i) { write_weights(i / blocks, i % blocks * kSomeChannels); });
    if (wanted_.b)
      b_.bias.template write<T>(gradients_[kB], [&](int64_t o) { return output_of(o / outputs_, o % outputs_); });
  }

 private:
  template <class Task>
  void in_parallel(int64_t tasks, Task task) {
    for_each_task(resources_, tasks, task);
  }

  void run_pass(int64_t count) {
    const int64_t of_map = pieces(map_, kPiece), all = count * heads_;
    in_parallel(count * b_.blocks, [&](int lane, int64_t i) { prepare(lane, i / b_.blocks, i % b_.blocks); });
    if (wanted_.b) b_.bias.add_pieces(count * b_.blocks);
    if (wanted_.compressed())
      in_parallel(all * of_map, [&](int, int64_t i) { compress(i / of_map, i % of_map * kPiece); });
    if (wanted_.columns()) {
      // A head keeps as many of its panels as it likes; tiles are shared where there are fewer of these than lanes.
      const int64_t panels = panel_count(problem_.C), tiles = pieces(map_, kTile);
      const int64_t groups = std::clamp<int64_t>(pieces(2 * b_.lanes, std::max<int64_t>(all * panels, 1)), 1,
                                                 std::max<int64_t>(tiles, 1));
      in_parallel(all * panels * groups, [&](int lane, int64_t i) {
        columns(lane, i / groups / panels, i / groups % panels, i % groups, groups);
      });
      in_parallel(count * of_map, [&](int lane, int64_t i) { join(lane, i / of_map, i % of_map); });
    }
    if (wanted_.saliency) in_parallel(all, [&](int, int64_t i) { write_saliency(i); });
    if (wanted_.w && map_ > 0) {
      const int64_t some = pieces(outputs_, kOutputs);
      in_parallel(heads_ * taps_ * some, [&](int lane, int64_t i) {
        weights(lane, count, i / some / taps_, i / some % taps_, i % some * kOutputs);
      });
    }
  }

  // `index`, here and below: sample * heads + head. Of this pass, but for the first one.
  void choose_channels(int64_t index) {
    const T* from = static_cast<const T*>(saliency_.data) + index / heads_ * saliency_.strides[0] +
                    index % heads_ * problem_.C * saliency_.strides[1];
    b_.counts[index] =
        choose(problem_, from, saliency_.strides[1], b_.channels + index * problem_.C, b_.gates + index * problem_.C);
  }
  Kept kept(int64_t index) const {
    index += first_ * heads_;
    return {b_.counts[index], b_.channels + index * problem_.C, b_.gates + index * problem_.C};
  }
  float* x_of(int64_t index, int64_t panel) const {
    return b_.x + index * packed_floats(map_ + 1, problem_.C) + panel_offset(panel, map_ + 1);
  }
  float* columns_of(int64_t index) const { return b_.columns + index * padded_columns(problem_.C) * map_; }
  // Taps lie side by side, and channels; as floats.
  static bool is_dense(const Map<const T>& map, const Window& window) {
    return sizeof(T) == sizeof(float) && map.w == 1 && map.h == window.kw && map.c == window.taps();
  }
  // call(float of [channel][tap][output], element of W) for channels first, … of a head.
  template <class Element, class Call>
  void for_weights(const Map<Element>& map, int64_t head, int64_t first, int64_t channels, float* floats, Call call) {
    for (int64_t row = 0; row < outputs_; ++row)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t tap = 0; tap < taps_; ++tap)
          call(floats[(c * taps_ + tap) * outputs_ + row],
               *map.at(head * outputs_ + row, first + c, tap / window_.kw, tap % window_.kw));
  }

  void read_weights(int64_t head, int64_t first) {
    const int64_t channels = std::min(kSomeChannels, problem_.C - first);
    float* to = b_.weights + (head * problem_.C + first) * taps_ * outputs_;
    if (is_dense(w_, window_))
      transpose(outputs_, channels * taps_, reinterpret_cast<const float*>(w_.at(head * outputs_, first, 0, 0)), w_.n, to,
                outputs_);
    else
      for_weights(w_, head, first, channels, to, [](float& v, const T& element) { v = to_float(element); });
  }

  void write_weights(int64_t head, int64_t first) {
    const int64_t channels = std::min(kSomeChannels, problem_.C - first);
    float* from = b_.weights_sums + (head * problem_.C + first) * taps_ * outputs_;
    const Map<T> map(gradients_[kW]);
    if (is_dense(Map<const T>(gradients_[kW]), window_))
      transpose(channels * taps_, outputs_, from, outputs_, reinterpret_cast<float*>(map.at(head * outputs_, first, 0, 0)),
                map.n);
    else
      for_weights(map, head, first, channels, from, [](float v, T& element) { element = from_float<T>(v); });
  }

  void locate(int64_t tap) {
    int32_t* places = b_.places + tap * pixels_;
    for (int64_t i = 0; i < window_.Ho; ++i)
      for (int64_t j = 0; j < window_.Wo; ++j) {
        const int64_t ih = i * window_.stride_h - window_.top + tap / window_.kw * window_.dilation_h;
        const int64_t iw = j * window_.stride_w - window_.left + tap % window_.kw * window_.dilation_w;
        const bool inside = ih >= 0 && ih < window_.H && iw >= 0 && iw < window_.W;
        *places++ = static_cast<int32_t>(inside ? ih * window_.W + iw : map_);
      }
  }

  void prepare(int lane, int64_t n, int64_t block) {
    const int64_t begin = block * kBlock, end = std::min(begin + kBlock, pixels_), O = problem_.O;
    const bool shuffled = problem_.shuffle && heads_ > 1;
    float* rows = b_.rows ? b_.rows + (n * pixels_ + begin) * O : nullptr;
    float* read = rows && !shuffled ? rows : b_.scratch + lane * b_.scratch_floats;
    read_tile(gradient_, first_ + n, window_.Wo, begin, end, 0, O, read, O);
    if (rows && shuffled)
      for (int64_t p = 0; p < end - begin; ++p)
        transpose(outputs_, heads_, read + p * O, heads_, rows + p * O, outputs_);
    if (wanted_.w) transpose(end - begin, O, read, O, b_.planes + (n * b_.blocks + block) * O * kBlockRow, kBlockRow);
    if (wanted_.b) {
      b_.bias.clear(n * b_.blocks + block);
      b_.bias.add(n * b_.blocks + block, read, end - begin);
    }
  }

  // Sums, and Y, are in the order of outputs that the shuffle makes of rows.
  int64_t output_of(int64_t head, int64_t row) const {
    return problem_.shuffle ? row * heads_ + head : head * outputs_ + row;
  }

  void compress(int64_t index, int64_t begin) {
    const Kept k = kept(index);
    const int64_t n = first_ + index / heads_, end = std::min(begin + kPiece, map_);
    for (int64_t panel = 0; panel < panel_count(k.count); ++panel) {
      const Kept part = k.part(panel * kColumns, kColumns);
      const int64_t width = panel_columns(panel, k.count);
      float* to = x_of(index, panel);
      if (end == map_) std::fill_n(to + map_ * width, width, 0.0f);
      for (int64_t p = begin, run; p < end; p += run) {
        run = x_.run(window_.W, p, end);
        compress_pixels<false>(x_.at(n, 0, p / window_.W, p % window_.W), x_.c, x_.w, run, part, to + p * width, width);
      }
      for (int64_t p = begin; p < end && part.count < width; ++p)
        std::fill_n(to + p * width + part.count, width - part.count, 0.0f);
    }
  }

  // Tiles group, group + groups, … of a panel of D.
  void columns(int lane, int64_t index, int64_t panel, int64_t group, int64_t groups) {
    const Kept k = kept(index);
    if (panel >= panel_count(k.count) || map_ == 0) return;
    const int64_t width = panel_columns(panel, k.count);
    float* packed = b_.scratch + lane * b_.scratch_floats;
    pack(index % heads_, k.part(panel * kColumns, kColumns), width, packed);
    const Window window = folded(window_);
    const int64_t columns = pieces(window.W, pieces(window.W, kTile)), across = pieces(window.W, columns);
    const int64_t rows = std::max<int64_t>(kTile / columns, 1), down = pieces(window.H, rows);
    for (int64_t tile = group; tile < down * across; tile += groups) {
      const int64_t top = tile / across * rows, left = tile % across * columns;
      multiply_tile(window, index, width, top, std::min(top + rows, window.H), left, std::min(left + columns, window.W),
                    packed, columns_of(index) + panel * kColumns, padded_columns(k.count));
    }
  }

  // The head's weights of some kept channels, [tap][output][width]. They are put side by side first.
  void pack(int64_t head, const Kept& k, int64_t width, float* to) const {
    const int64_t of_channel = taps_ * outputs_, pitch = of_channel + kGap;
    float* rows = to + of_channel * kColumns;
    for (int64_t i = 0; i < k.count; ++i)
      std::copy_n(b_.weights + (head * problem_.C + k.channels[i]) * of_channel, of_channel, rows + i * pitch);
    transpose(k.count, of_channel, rows, pitch, to, width);
    for (int64_t d = 0; d < of_channel && k.count < width; ++d)
      std::fill_n(to + d * width + k.count, width - k.count, 0.0f);
  }

  // D of pixels [top, bottom) x [left, right) of X, `width` columns of it.
  void multiply_tile(const Window& window, int64_t index, int64_t width, int64_t top, int64_t bottom, int64_t left,
                     int64_t right, const float* packed, float* to, int64_t ld) const {
    const int64_t n = index / heads_, head = index % heads_;
    for (int64_t i = top; i < bottom; ++i) {
      for (int64_t j = left; j < right; ++j) std::fill_n(to + (i * window.W + j) * ld, width, 0.0f);
      for (int64_t tap = 0; tap < taps_; ++tap) {
        const int64_t down = i + window.top - tap / window.kw * window.dilation_h;
        if (down < 0 || down % window.stride_h || down / window.stride_h >= window.Ho) continue;
        // Pixel x of Y looks at x * stride - back.
        const int64_t stride = window.stride_w, back = window.left - tap % window.kw * window.dilation_w;
        const auto first = [&](int64_t at) { return at + back <= 0 ? 0 : pieces(at + back, stride); };
        const int64_t begin = first(left), end = std::min(first(right), window.Wo);
        if (begin >= end) continue;
        const float* rows = b_.rows + (n * pixels_ + down / window.stride_h * window.Wo + begin) * problem_.O;
        multiply_panel(0, width, end - begin, outputs_, rows + head * outputs_, problem_.O,
                       packed + tap * outputs_ * width, 0, nullptr,
                       to + (i * window.W + begin * stride - back) * ld, end - begin > 1 ? stride * ld : 0);
      }
    }
  }

  void join(int lane, int64_t n, int64_t piece) {
    const int64_t begin = piece * kPiece, count = std::min(kPiece, map_ - begin), C = problem_.C;
    float* tile = wanted_.x ? b_.scratch + lane * b_.scratch_floats : nullptr;
    if (tile) std::fill_n(tile, count * C, 0.0f);
    for (int64_t head = 0; head < heads_; ++head) {
      const int64_t index = n * heads_ + head;
      const Kept k = kept(index);
      const int64_t ld = padded_columns(k.count);
      const float* d = columns_of(index) + begin * ld;
      if (wanted_.saliency) add_slopes(index, piece, k, d, begin, count);
      for (int64_t p = 0; tile && p < count; ++p, d += ld)
        for (int64_t i = 0; i < k.count; ++i) tile[p * C + k.channels[i]] += k.gates[i] * d[i];
    }
    if (tile)
      write_tile(Map<T>(gradients_[kX]), first_ + n, window_.W, begin, begin + count, 0, 1, C, false, tile, C);
  }

  float* slopes_of(int64_t index, int64_t piece) const {
    const int64_t n = index / heads_, head = index % heads_;
    return b_.slopes + ((n * pieces(map_, kPiece) + piece) * heads_ + head) * padded_columns(problem_.C);
  }

  // Of all kept channels, the sum of x * D over a piece's pixels.
  void add_slopes(int64_t index, int64_t piece, const Kept& k, const float* d, int64_t begin, int64_t count) const {
    const int64_t ld = padded_columns(k.count);
    float* to = slopes_of(index, piece);
    for (int64_t panel = 0; panel < panel_count(k.count); ++panel) {
      const int64_t width = panel_columns(panel, k.count);
      const float* x = x_of(index, panel) + begin * width;
      for (int64_t i = 0; i < width; i += kWidth) {
        Vector sum{};
        for (int64_t p = 0; p < count; ++p) sum += load(x + p * width + i) * load(d + p * ld + panel * kColumns + i);
        store(to + panel * kColumns + i, sum);
      }
    }
  }

  void write_saliency(int64_t index) {
    const dyndeploy_tensor& view = gradients_[kSaliency];
    T* to = static_cast<T*>(view.data) + (first_ + index / heads_) * view.strides[0] +
            index % heads_ * problem_.C * view.strides[1];
    for (int64_t c = 0; c < problem_.C; ++c) to[c * view.strides[1]] = from_float<T>(0.0f);
    const Kept k = kept(index);
    for (int64_t i = 0; i < k.count; ++i) {
      float sum = 0;
      for (int64_t piece = 0; piece < pieces(map_, kPiece); ++piece) sum += slopes_of(index, piece)[i];
      to[k.channels[i] * view.strides[1]] = from_float<T>(sum);
    }
  }

  // Outputs first, … of a head at one tap, over the samples of this pass.
  void weights(int lane, int64_t count, int64_t head, int64_t tap, int64_t first) {
    const int64_t outputs = std::min(kOutputs, outputs_ - first);
    float* sums = b_.scratch + lane * b_.scratch_floats;
    float *block_sums = sums + kOutputs * kColumns, *turned = block_sums + kOutputs * kColumns;
    for (int64_t n = 0; n < count; ++n) {
      const int64_t index = n * heads_ + head;
      const Kept k = kept(index);
      for (int64_t panel = 0; panel < panel_count(k.count); ++panel) {
        const int64_t width = panel_columns(panel, k.count);
        std::fill_n(sums, outputs * width, 0.0f);
        for (int64_t block = 0; block < b_.blocks; ++block) {
          const int64_t begin = block * kBlock;
          const float* planes =
              b_.planes + ((n * b_.blocks + block) * problem_.O + output_of(head, first)) * kBlockRow;
          // A sum per block, then one over the blocks: a single one over all pixels would lose digits.
          std::fill_n(block_sums, outputs * width, 0.0f);
          multiply_panel(0, width, outputs, std::min(kBlock, pixels_ - begin), planes,
                         (problem_.shuffle ? heads_ : 1) * kBlockRow, x_of(index, panel), 0,
                         b_.places + tap * pixels_ + begin, block_sums, width);
          for (int64_t i = 0; i < outputs * width; ++i) sums[i] += block_sums[i];
        }
        const Kept part = k.part(panel * kColumns, kColumns);
        transpose(outputs, width, sums, width, turned, kOutputs);
        for (int64_t i = 0; i < part.count; ++i) {
          float* to = b_.weights_sums + ((head * problem_.C + part.channels[i]) * taps_ + tap) * outputs_ + first;
          for (int64_t o = 0; o < outputs; ++o) to[o] += part.gates[i] * turned[i * kOutputs + o];
        }
      }
    }
  }

  const Problem& problem_;
  const Window& window_ = problem_.window;
  const Map<const T> gradient_, x_, w_;
  const dyndeploy_tensor& saliency_;
  const dyndeploy_tensor* gradients_;
  const Wanted wanted_;
  const dyndeploy_resources* resources_;
  Workspace workspace_;
  const Buffers b_;
  const int64_t heads_ = problem_.heads, outputs_ = problem_.head_outputs(), taps_ = window_.taps();
  const int64_t pixels_ = window_.Ho * window_.Wo, map_ = window_.H * window_.W;  // of Y, of X
  int64_t first_ = 0;                                                             // sample of this pass
};

}  // namespace

uint64_t dgc_backward_workspace(const Problem& problem, const dyndeploy_tensor* gradients,
                                const dyndeploy_resources* resources) {
  Workspace workspace;
  lay_out(problem, Wanted(gradients), resources, workspace);
  return workspace.bytes();
}

void dgc_backward(const Problem& problem, const dyndeploy_tensor& gradient, const dyndeploy_tensor* inputs,
                  const dyndeploy_tensor* gradients, const dyndeploy_resources* resources) {
  with_type(problem.dtype, [&](auto type) {
    Backward<decltype(type)>(problem, gradient, inputs, gradients, resources).run();
  });
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

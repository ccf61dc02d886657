// Dynamic region-aware convolution, forward: the pixels of a sample sorted by region, then products of matrices.
//
//   regions  argmax of the guide per pixel, then a counting sort of every sample's pixels, then a table of tasks:
//            (sample, region, up to kColumns of its pixels, some of the outputs).
//   X, Y     as rows of channels, [H][W][C]: in place, or by way of the workspace (NCHW; X also from 16-bit types).
//            Pixels sorted by region are scattered over the map: in NCHW each element of Y would touch a cache line of
//            its own (1x1, 24@56x56: 0.40 -> 0.12 ms; 3x3, 128@100x167: 66 -> 59 ms).
//   panel    There are too many filters to pack: what is packed are pixels. The windows of a task's pixels become a
//            panel [C * taps][pixels], in the order of the filters' depth, so that filters are read where they are, a
//            few rows at a time, as the left matrix: products [outputs][pixels].
//   rows     A panel of the few pixels that a region has, or has left, would be empty mostly. Their windows are laid
//            out as filters are, [pixels][C * taps], and vectors of both multiplied along the depth.
//
// How a pixel is done follows from the number of its region's pixels and its place among them, and the order of a sum
// from that: the division of the work among lanes does not change a bit.
// Cost: 2 * O * C * taps operations per pixel, whatever the number of regions. The filters of a region are read once
// per panel; those of a region without pixels never. Times here: Zen 4, AVX-512, one thread.
#include <algorithm>

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

// Pixels of a region that are not worth a panel that would be empty mostly. Measured: from 1/4 to 3/4 of
// kWidth, 3x3, 512@7x7: 6.0 -> 5.1 ms; 1x1, 232@7x7: 0.15 -> 0.09 ms; 1x1, 116@14x14: the same.
constexpr int64_t kFewPixels = kWidth * 3 / 4;
// Outputs of a task at most. The more, the less often pixels are packed again.
constexpr int64_t kMostOutputs = 512;
// Outputs of a task come in these steps: whole blocks of the product, and of rows.
constexpr int64_t kOutputs = 2 * kRows;
// Tasks per lane, so that lanes end at about the same time.
constexpr int64_t kTasksPerLane = 4;

int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

struct Task {
  int64_t n, region;
  int32_t begin, count;  // of the sample's sorted pixels
  int64_t first, last;   // outputs
};

// Pixels of a map in another layout to read, or write, at a time: about 64 KiB.
int64_t row_pixels(int64_t channels) { return std::max<int64_t>(16, (16 << 10) / std::max<int64_t>(channels, 1)); }

// --- filters

// Rows of filters, as they are or, where they are not dense floats, as a copy.
template <class T>
struct Filters {
  const T* data;
  int64_t row, step;  // strides of outputs and along the depth

  bool dense() const { return sizeof(T) == sizeof(float) && step == 1; }
  const float* dense_row(int64_t o) const { return reinterpret_cast<const float*>(data + o * row); }
  void copy(int64_t o, int64_t depth, float* to) const {
    const T* from = data + o * row;
    if (step == 1)
      for (int64_t d = 0; d < depth; ++d) to[d] = to_float(from[d]);
    else
      for (int64_t d = 0; d < depth; ++d) to[d] = to_float(from[d * step]);
  }
};

// --- products of rows

// Filters and pixels whose products are held in registers.
constexpr int64_t kFilterRows = 4;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int64_t kPixels = 6;
#else
constexpr int64_t kPixels = 2;
#endif

template <class V, int... I>
DYNDEPLOY_INLINE auto add_halves(V v, std::integer_sequence<int, I...>) {
  constexpr int kHalf = sizeof...(I);
  return __builtin_shufflevector(v, v, I...) + __builtin_shufflevector(v, v, (I + kHalf)...);
}

// A vector's quarters, or halves, or itself, added up.
template <class V>
DYNDEPLOY_INLINE Floats<4> fold(V v) {
  if constexpr (sizeof(V) > sizeof(Floats<4>))
    return fold(add_halves(v, std::make_integer_sequence<int, sizeof(V) / sizeof(float) / 2>{}));
  else
    return v;
}

// The sums of the elements of four vectors.
DYNDEPLOY_INLINE Floats<4> sums_of(const Vector* v) {
  const Floats<4> a = fold(v[0]), b = fold(v[1]), c = fold(v[2]), d = fold(v[3]);
  const Floats<4> ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Floats<4> cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

// products[pixel][0..3] += pixel * filter. depth is a multiple of kWidth. Filters are used for a few pixels only: their
// memory is what limits this. Those `ahead` floats further, the next rows, are fetched meanwhile (3x3, 512@7x7:
// 6.2 -> 5.2 ms; 1x1, 976@7x7: 3.1 -> 1.7 ms).
template <int Pixels>
void multiply_rows(int64_t depth, const float* const* filters, int64_t ahead, const float* pixels, int64_t ld,
                   float* products, int64_t ld_products) {
  Vector sum[Pixels][kFilterRows] = {};
  for (int64_t d = 0; d < depth; d += kWidth) {
    Vector f[kFilterRows];
#pragma GCC unroll 4
    for (int r = 0; r < kFilterRows; ++r) {
      f[r] = load(filters[r] + d);
      __builtin_prefetch(filters[r] + d + ahead, 0, 2);
    }
#pragma GCC unroll 8
    for (int p = 0; p < Pixels; ++p) {
      const Vector x = load(pixels + p * ld + d);
#pragma GCC unroll 4
      for (int r = 0; r < kFilterRows; ++r) sum[p][r] += x * f[r];
    }
  }
#pragma GCC unroll 8
  for (int p = 0; p < Pixels; ++p)
    store<4>(products + p * ld_products, load<4>(products + p * ld_products) + sums_of(sum[p]));
}

using MultiplyRows = void (*)(int64_t, const float* const*, int64_t, const float*, int64_t, float*, int64_t);

template <int... P>
MultiplyRows rows_function(int64_t pixels, std::integer_sequence<int, P...>) {
  static constexpr MultiplyRows functions[] = {multiply_rows<P + 1>...};
  return functions[pixels - 1];
}

// --- memory

struct Buffers {
  bool x_in_place;  // X is read where it is
  bool y_in_place;  // Y is written where it is
  int64_t outputs;  // of a task at most, padded
  int64_t ld;       // of a row of filters, or of a pixel laid out like one
  Task* tasks;
  float* x_rows;
  float* y_rows;
  float* scratch;  // per lane
  int64_t scratch_floats;
};

// Of so many pixels of a region, those of the next task: whole panels first.
int64_t next_count(int64_t pixels) {
  if (pixels <= kFewPixels) return pixels;
  return std::min<int64_t>(pixels, pixels <= kWidth + kFewPixels ? kWidth : kColumns);
}

Buffers lay_out(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                const dyndeploy_resources* resources, Workspace& workspace) {
  const int64_t pixels = problem.N * problem.pixels();
  Buffers b{};
  b.x_in_place = problem.dtype == DYNDEPLOY_FLOAT32 && channels_last(inputs[kX]);
  b.y_in_place = channels_last(Y);
  b.outputs = round_up(std::min(problem.O, kMostOutputs), kOutputs);
  b.ld = round_up(problem.depth(), kWidth);
  // A region's pixels: some whole panels, and at most two tasks more.
  const int64_t most = pixels / kColumns + 2 * problem.N * std::min(problem.regions, problem.pixels());
  const int64_t most_tasks = most * divide_up(problem.O, kOutputs);
  b.tasks = workspace.take<Task>(most_tasks);
  if (!b.x_in_place) b.x_rows = workspace.take<float>(problem.N * problem.window.H * problem.window.W * problem.C);
  if (!b.y_in_place) b.y_rows = workspace.take<float>(pixels * problem.O);
  const int64_t products = kColumns * b.outputs;
  const int64_t panel = kColumns * (problem.depth() + problem.C) + kRows * problem.depth();
  const int64_t few = (kFewPixels + kFilterRows + 1) * b.ld;
  b.scratch_floats = round_up(2 * products + std::max(panel, few), 16);
  b.scratch = workspace.take<float>(lanes_for(resources, most_tasks) * b.scratch_floats);
  return b;
}

// --- the convolution

// T: of the maps; F: of the filters.
template <class T, class F>
class Forward {
 public:
  Forward(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
          const dyndeploy_resources* resources)
      : problem_(problem),
        inputs_(inputs),
        x_(inputs[kX]),
        guide_(inputs[kGuide]),
        y_(Y),
        resources_(resources),
        workspace_(resources->workspace),
        sort_(problem, workspace_),
        b_(lay_out(problem, inputs, Y, resources, workspace_)) {}

  void run() {
    read();
    sort_.place();
    const int64_t tasks = plan(), pieces = sort_.pieces();
    in_parallel(problem_.N * pieces,
                [&](int, int64_t i) { sort_.sort(i / pieces, i % pieces, [](int64_t, int64_t) {}); });
    // Some tasks at a time, where there are many: fetching one takes longer than the smallest of them.
    const int64_t some = std::max<int64_t>(1, tasks / (8 * kTasksPerLane * lanes_for(resources_, tasks)));
    in_parallel(divide_up(tasks, some), [&](int lane, int64_t index) {
      for (int64_t i = index * some; i < std::min(tasks, (index + 1) * some); ++i)
        multiply(b_.tasks[i], b_.scratch + lane * b_.scratch_floats);
    });
    if (!b_.y_in_place) write_rows();
  }

 private:
  template <class Work>
  void in_parallel(int64_t tasks, Work work) {
    for_each_task(resources_, tasks, work);
  }

  // The regions of all pixels, how many of a piece lie in each, and X as rows.
  void read() {
    const Window& window = problem_.window;
    const int64_t sorts = problem_.N * sort_.pieces(), map = window.H * window.W;
    const int64_t read_pixels = row_pixels(problem_.C);
    const int64_t reads = b_.x_in_place ? 0 : divide_up(map, read_pixels);
    in_parallel(sorts + problem_.N * reads, [&](int, int64_t index) {
      if (index < sorts) {
        sort_.count(guide_, index / sort_.pieces(), index % sort_.pieces());
      } else {
        const int64_t n = (index - sorts) / reads, begin = (index - sorts) % reads * read_pixels;
        read_tile(x_, n, window.W, begin, std::min(begin + read_pixels, map), 0, problem_.C,
                  b_.x_rows + (n * map + begin) * problem_.C, problem_.C);
      }
    });
  }

  // The table of tasks. One lane is quick enough.
  int64_t plan() {
    int64_t panels = 0;
    for (int64_t n = 0; n < problem_.N; ++n)
      for (int64_t region = 0; region < problem_.regions; ++region)
        panels += divide_up(sort_.end(n, region) - sort_.begin(n, region), kColumns);
    // Few panels for many lanes: fewer outputs per task.
    const int64_t lanes = lanes_for(resources_, int64_t{1} << 31);
    const int64_t shares = lanes > 1 && panels ? divide_up(kTasksPerLane * lanes, panels) : 1;
    const int64_t outputs = std::min(b_.outputs, round_up(divide_up(problem_.O, shares), kOutputs));
    int64_t tasks = 0;
    for (int64_t n = 0; n < problem_.N; ++n)
      for (int64_t region = 0; region < problem_.regions; ++region) {
        const int64_t end = sort_.end(n, region);
        for (int64_t first = 0; first < problem_.O; first += outputs)
          for (int64_t begin = sort_.begin(n, region), count; begin < end; begin += count) {
            count = next_count(end - begin);
            b_.tasks[tasks++] = {.n = n,
                                 .region = region,
                                 .begin = static_cast<int32_t>(begin),
                                 .count = static_cast<int32_t>(count),
                                 .first = first,
                                 .last = std::min(first + outputs, problem_.O)};
          }
      }
    return tasks;
  }

  // Where the pixels of a task lie.
  struct Places {
    int64_t y[kColumns];               // in Y, or in the rows of it
    int64_t h[kColumns], w[kColumns];  // where their windows begin in X
  };

  Places places_of(const Task& task) const {
    const Window& window = problem_.window;
    const int32_t* pixels = sort_.sorted(task.n) + task.begin;
    Places places;
    for (int64_t i = 0; i < task.count; ++i) {
      const int64_t h = pixels[i] / window.Wo, w = pixels[i] % window.Wo;
      places.y[i] = b_.y_in_place ? h * y_.h + w * y_.w : (task.n * problem_.pixels() + pixels[i]) * problem_.O;
      places.h[i] = h * window.stride_h - window.top;
      places.w[i] = w * window.stride_w - window.left;
    }
    return places;
  }

  Rows rows_of(int64_t n) const {
    const int64_t row = problem_.window.W * problem_.C;
    if constexpr (sizeof(T) == sizeof(float))
      if (b_.x_in_place) return {.data = x_.at(n, 0, 0, 0), .row_h = x_.h, .row_w = x_.w};
    return {.data = b_.x_rows + n * problem_.window.H * row, .row_h = row, .row_w = problem_.C};
  }

  // The channels under `some` taps of a pixel's window, [tap][C]; zeros outside of the map.
  void gather(const Rows& rows, int64_t h, int64_t w, int64_t tap, int64_t some, float* to) const {
    const Window& window = problem_.window;
    for (int64_t i = tap / window.kw, j = tap % window.kw; some > 0; --some, to += problem_.C) {
      const int64_t at_h = h + i * window.dilation_h, at_w = w + j * window.dilation_w;
      if (at_h >= 0 && at_h < window.H && at_w >= 0 && at_w < window.W) {
        const float* from = rows.at(at_h, at_w);
        cover<kWidth>(0, problem_.C, [&](auto lanes, int64_t c) { store<lanes>(to + c, load<lanes>(from + c)); });
      } else {
        std::fill(to, to + problem_.C, 0.0f);
      }
      if (++j == window.kw) ++i, j = 0;
    }
  }

  Filters<F> filters_of(const Task& task) const {
    const dyndeploy_tensor& filters = inputs_[kFilters];
    const int64_t* strides = filters.strides;
    const int64_t row = task.region * problem_.O + task.first;
    return {.data = static_cast<const F*>(filters.data) + task.n * strides[0] + row * strides[1],
            .row = strides[1],
            .step = filters.extents[2] > 1 ? strides[2] : 1};
  }

  float bias(int64_t o) const {
    return to_float(static_cast<const T*>(inputs_[kB].data)[o * inputs_[kB].strides[0]]);
  }

  void multiply(const Task& task, float* scratch) const {
    const Places places = places_of(task);
    task.count > kFewPixels ? multiply_panel_of(task, places, scratch) : multiply_rows_of(task, places, scratch);
  }

  void multiply_panel_of(const Task& task, const Places& places, float* scratch) const {
    const int64_t channels = problem_.C, taps = problem_.window.taps(), depth = problem_.depth();
    const int64_t outputs = task.last - task.first, ld = panel_columns(0, task.count);
    float* products = scratch;  // [outputs][pixels]
    float* tile = products + kColumns * b_.outputs;
    float* panel = tile + kColumns * b_.outputs;
    float* gathered = panel + kColumns * depth;
    float* copies = gathered + kColumns * channels;
    const Rows rows = rows_of(task.n);
    std::fill(gathered + task.count * channels, gathered + ld * channels, 0.0f);
    for (int64_t tap = 0; tap < taps && channels; ++tap) {
      for (int64_t i = 0; i < task.count; ++i)
        gather(rows, places.h[i], places.w[i], tap, 1, gathered + i * channels);
      // In blocks, so that the lines of the panel that are written to stay in the first cache.
      constexpr int64_t kBlock = 64;
      for (int64_t c = 0; c < channels; c += kBlock)
        transpose(ld, std::min(kBlock, channels - c), gathered + c, channels, panel + (c * taps + tap) * ld, taps * ld);
    }
    const Filters<F> filters = filters_of(task);
    for (int64_t o = 0; o < outputs; o += kRows) {
      const int64_t some = std::min<int64_t>(kRows, outputs - o);
      for (int64_t i = o; i < o + some; ++i) {
        std::fill(products + i * ld, products + (i + 1) * ld, bias(task.first + i));
        if (!filters.dense()) filters.copy(i, depth, copies + (i - o) * depth);
      }
      multiply_panel(0, ld, some, depth, filters.dense() ? filters.dense_row(o) : copies,
                     filters.dense() ? filters.row : depth, panel, depth, nullptr, products + o * ld, ld);
    }
    transpose(outputs, ld, products, ld, tile, outputs);
    write(task, places, tile, outputs);
  }

  void multiply_rows_of(const Task& task, const Places& places, float* scratch) const {
    const int64_t channels = problem_.C, taps = problem_.window.taps(), depth = problem_.depth();
    const int64_t outputs = task.last - task.first, ld = round_up(outputs, kFilterRows);
    float* products = scratch;  // [pixels][outputs]
    float* pixels = products + kFewPixels * b_.outputs;
    float* copies = pixels + kFewPixels * b_.ld;
    float* window = copies + kFilterRows * b_.ld;
    const Rows rows = rows_of(task.n);
    for (int64_t i = 0; i < task.count; ++i) {
      float* to = pixels + i * b_.ld;
      if (channels) gather(rows, places.h[i], places.w[i], 0, taps, taps > 1 ? window : to);
      if (taps > 1 && channels) transpose(taps, channels, window, channels, to, taps);
      std::fill(to + depth, to + b_.ld, 0.0f);
    }
    for (int64_t o = 0; o < ld; ++o) products[o] = o < outputs ? bias(task.first + o) : 0.0f;
    for (int64_t i = 1; i < task.count; ++i) std::copy(products, products + ld, products + i * ld);
    const Filters<F> filters = filters_of(task);
    const bool in_place = filters.dense() && depth == b_.ld;
    const int64_t ahead = in_place && outputs > kFilterRows ? kFilterRows * filters.row : 0;
    if (!in_place) std::fill(copies, copies + kFilterRows * b_.ld, 0.0f);
    for (int64_t o = 0; o < outputs; o += kFilterRows) {
      const float* row[kFilterRows];
      for (int64_t i = 0; i < kFilterRows; ++i) {
        // The last block may have fewer rows: what the last one gives once more is not written.
        const int64_t output = std::min(o + i, outputs - 1);
        row[i] = in_place ? filters.dense_row(output) : copies + i * b_.ld;
        if (!in_place) filters.copy(output, depth, copies + i * b_.ld);
      }
      for (int64_t i = 0; i < task.count; i += kPixels)
        rows_function(std::min(kPixels, task.count - i), std::make_integer_sequence<int, kPixels>{})(
            b_.ld, row, ahead, pixels + i * b_.ld, b_.ld, products + i * ld + o, ld);
    }
    write(task, places, products, ld);
  }

  // A tile [pixels][outputs] to the rows of Y, through the ReLU.
  void write(const Task& task, const Places& places, const float* tile, int64_t ld) const {
    for (int64_t i = 0; i < task.count; ++i)
      if (b_.y_in_place)
        write_row(task, tile + i * ld, y_.at(task.n, task.first, 0, 0) + places.y[i]);
      else
        write_row(task, tile + i * ld, b_.y_rows + places.y[i] + task.first);
  }

  template <class Out>
  void write_row(const Task& task, const float* from, Out* to) const {
    for (int64_t o = 0; o < task.last - task.first; ++o)
      to[o] = from_float<Out>(problem_.relu && from[o] < 0 ? 0 : from[o]);
  }

  // Rows of pixels to Y.
  void write_rows() {
    const int64_t pixels = problem_.pixels(), some = row_pixels(problem_.O), pieces = divide_up(pixels, some);
    in_parallel(problem_.N * pieces, [&](int, int64_t index) {
      const int64_t n = index / pieces, begin = index % pieces * some;
      write_tile(y_, n, problem_.window.Wo, begin, std::min(begin + some, pixels), 0, 1, problem_.O, false,
                 b_.y_rows + (n * pixels + begin) * problem_.O, problem_.O);
    });
  }

  const Problem& problem_;
  const dyndeploy_tensor* inputs_;
  const Map<const T> x_;
  const Map<const T> guide_;
  const Map<T> y_;
  const dyndeploy_resources* resources_;
  Workspace workspace_;
  const PixelSort sort_;
  const Buffers b_;
};

}  // namespace

uint64_t drconv_forward_workspace(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                                  const dyndeploy_resources* resources) {
  Workspace workspace;
  const PixelSort sort(problem, workspace);
  lay_out(problem, inputs, Y, resources, workspace);
  return workspace.bytes();
}

void drconv_forward(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                    const dyndeploy_resources* resources) {
  with_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    if (inputs[kFilters].dtype == problem.dtype)
      Forward<T, T>(problem, inputs, Y, resources).run();
    else
      Forward<T, float>(problem, inputs, Y, resources).run();
  });
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

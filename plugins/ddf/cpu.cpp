// Decoupled dynamic filter, forward: one pass over X and Y. A task is some rows of Y of some channels of one sample.
//
//   filters  A task's channel filters are normalised into the scratch memory of its lane, [branch][tap][channel], its
//            spatial filters for some pixels of one head, [branch][tap][pixel]; those serve all channels of the head.
//            Branches are the sub-pixels of DDF-Up. What the next task needs as well stays there.
//   channels last (X and Y)  A vector is some channels of a pixel. A block of channels keeps its taps in registers
//            along a strip of a row; per tap and pixel one number of the spatial filter is broadcast. X is read in
//            place: where a tap lies outside of the map it points to zeros. 16-bit rows are widened to scratch first.
//   planar (all else)  A vector is some pixels of a channel. A few channels at a time are copied to zero-padded planes
//            (planes.h) in the first cache. Sums go straight to Y, or through a copy where it has another order.
//
// Every element of Y is summed up in the order of the taps by the same operations, however the work is divided.
// Cost: 2 operations per tap, half of them a convolution's; X is read once, Y written once. A 3x3 filter on channels
// last runs at 90% of what two operations per tap can reach, planar at half of it.
#include <algorithm>

#include "ddf/cpu.h"
#include "ddf/planes.h"

namespace dyndeploy::DYNDEPLOY_ISA {
namespace {

using ddf::kChannelFilter;
using ddf::kChannelGain;
using ddf::kSpatialFilter;
using ddf::kX;
using ddf::Problem;

// Multiply-adds of a task, at least: some microseconds.
constexpr double kLeastWork = 65536;
// Tasks per lane, so that all are done at about the same time.
constexpr int64_t kTasksPerLane = 8;
// Pixels of a task, at least: channel filters are normalised per task and lane.
constexpr int64_t kLeastPixels = 256;

// Vectors of channels that a block of channels last has: 9 taps of them and their sums are held in registers.
constexpr int kBlock = kWidth == 16 ? 2 : 1;
// Pixels of a strip of channels last.
constexpr int64_t kStrip = 64;
// Floats of the widened rows of a task.
constexpr int64_t kMostWidened = 1 << 17;

// --- division of the work

struct Plan {
  bool planar, widened;
  Tiles tiles;
  int64_t channels, chunks;  // of a task, at most, and how many of them
  int64_t tasks;
  Planes planes;
};

Plan plan_of(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
             const dyndeploy_resources* resources) {
  const Window& window = problem.window;
  Plan plan{};
  // A few channels fill no vector.
  plan.planar = problem.head_channels() < 4 || !channels_last(inputs[kX]) || !channels_last(Y);

  // Parts of a sample that keep all lanes busy, with enough to do for each.
  const int64_t lanes = resources->threads ? resources->threads->lanes : 1;
  const double work = 1.0 * static_cast<double>(problem.C * problem.branches()) *
                      static_cast<double>(window.Ho * window.Wo) * static_cast<double>(window.taps());
  const auto most = static_cast<int64_t>(std::min(work / kLeastWork, 1e6)) + 1;
  const int64_t parts = std::min(most, divide_up(kTasksPerLane * lanes, std::max<int64_t>(problem.N, 1)));

  plan.channels = problem.C;
  if (plan.planar) {
    plan.tiles = tiles_of(window, problem.branches() * window.taps());
    plan.planes = planes_of(window, plan.tiles, problem.scale == 1 && Y.strides[3] == 1);
  } else {
    const int64_t tiles = std::min(parts, window.Ho * window.Wo / kLeastPixels + 1);
    int64_t rows = divide_up(window.Ho, std::min(tiles, window.Ho));
    plan.widened = problem.dtype != DYNDEPLOY_FLOAT32;
    if (plan.widened) {
      const int64_t halo = std::min(window.dilation_h * (window.kh - 1) + 1, window.H);
      plan.channels = std::min(plan.channels, std::max<int64_t>(64, kMostWidened / (2 * halo * window.W + 1)));
      const int64_t fit = kMostWidened / (plan.channels * window.W + 1);
      rows = std::clamp<int64_t>((fit - halo) / window.stride_h + 1, 1, rows);
    }
    plan.tiles = tiles_of(window, rows, window.Wo);
  }
  const int64_t step = 2 * kWidth, shares = divide_up(parts, plan.tiles.count());
  plan.channels = std::min(plan.channels, round_up(divide_up(problem.C, shares), step));
  plan.chunks = plan.channels ? divide_up(problem.C, plan.channels) : 0;
  plan.tasks = problem.N * plan.chunks * plan.tiles.count();
  return plan;
}

// Memory of one lane.
struct Scratch {
  int64_t* channel_key;  // which channel filters are there: n * chunks + chunk, or -1
  int64_t* spatial_key;  // which spatial filters are there, of a planar task: (n * tiles + tile) * heads + head, or -1
  float* channel;        // [branches][taps][channels], padded to kWidth
  float* gain;           // [taps][channels] of one branch
  float* spatial;        // [branches][taps][kStrip or flat]
  const float** taps;    // [kStrip][taps] where the taps of a pixel lie
  float* zeros;          // [channels]
  float* widened;        // [rows][W][channels]
  float* planes;         // [kGroup][size]
  float* sums;           // [branches][kGroup][flat]
  int64_t* offsets;      // [taps] distances in a plane
};

int64_t channel_ld(const Plan& plan) { return round_up(plan.channels, kWidth); }

int64_t widened_rows(const Problem& problem, const Plan& plan) {
  const Window& window = problem.window;
  return std::min((plan.tiles.rows - 1) * window.stride_h + (window.kh - 1) * window.dilation_h + 1, window.H);
}

Scratch take_scratch(const Problem& problem, const Plan& plan, Workspace& workspace) {
  const int64_t taps = problem.window.taps(), branches = problem.branches();
  Scratch scratch{};
  scratch.channel_key = workspace.take<int64_t>(2);
  scratch.spatial_key = scratch.channel_key + 1;
  scratch.channel = workspace.take<float>(branches * taps * channel_ld(plan));
  scratch.gain = workspace.take<float>(taps * channel_ld(plan));
  scratch.spatial = workspace.take<float>(branches * taps * (plan.planar ? plan.planes.flat : kStrip));
  if (plan.planar) {
    scratch.planes = workspace.take<float>(kGroup * plan.planes.size);
    scratch.sums = workspace.take<float>(branches * kGroup * plan.planes.flat);
    scratch.offsets = workspace.take<int64_t>(taps);
  } else {
    scratch.taps = workspace.take<const float*>(kStrip * taps);
    scratch.zeros = workspace.take<float>(plan.channels);
    if (plan.widened)
      scratch.widened = workspace.take<float>(widened_rows(problem, plan) * problem.window.W * plan.channels);
  }
  return scratch;
}

// What a task works on.
struct Task {
  int64_t n, tile, chunk;
  Area area;
  int64_t begin, end;  // channels
};

Task task_of(const Problem& problem, const Plan& plan, int64_t index) {
  // What takes longer to prepare stays the same for the next task of a lane, most often: planar the spatial filters of
  // many pixels, channels last the channel filters.
  const int64_t tiles = plan.tiles.count();
  Task task;
  task.n = index / (tiles * plan.chunks);
  index %= tiles * plan.chunks;
  task.tile = plan.planar ? index / plan.chunks : index % tiles;
  task.chunk = plan.planar ? index % plan.chunks : index / tiles;
  task.area = plan.tiles.area(task.tile, problem.window);
  task.begin = task.chunk * plan.channels;
  task.end = std::min(task.begin + plan.channels, problem.C);
  return task;
}

// The channel filters of a task, unless they are there already.
template <class T>
void prepare_channel_filters(const Problem& problem, const Plan& plan, const dyndeploy_tensor* inputs, const Task& task,
                             const Scratch& scratch) {
  const int64_t key = task.n * plan.chunks + task.chunk;
  if (*scratch.channel_key == key) return;
  *scratch.channel_key = key;
  const dyndeploy_tensor &filters = inputs[kChannelFilter], &gains = inputs[kChannelGain];
  const int64_t taps = problem.window.taps(), ld = channel_ld(plan), count = task.end - task.begin;
  for (int64_t r = 0; r < problem.branches(); ++r) {
    const int64_t begin = r * problem.C + task.begin, end = begin + count;
    float* channel = scratch.channel + r * taps * ld;
    read_per_channel(static_cast<const T*>(filters.data) + task.n * filters.strides[0], filters.strides[1], taps, begin,
                     end, channel, ld);
    normalise(problem, 1, round_up(count, kWidth), channel, ld);
    read_per_channel(static_cast<const T*>(gains.data), gains.strides[0], taps, begin, end, scratch.gain, ld);
    for (int64_t i = 0; i < taps * ld; ++i) channel[i] *= scratch.gain[i];
  }
}

// --- channels last

// A strip of pixels of a row of Y, for one head.
struct Strip {
  int64_t taps, pixels;
  bool relu;
  // Pixels [inner.begin, inner.end) of a 3x3 window have all columns inside of the map. Theirs begin at row[i] and are
  // `tap` apart, and `step` from pixel to pixel; 0 in a row outside of the map, which is a row of zeros.
  Range inner;
  const float* row[3];
  int64_t tap[3], step[3];
  const float* const* pointers;  // [pixels][taps] of all other pixels
  int64_t channel_ld;
  int64_t y_step;
};

// Channels c … c + Vectors * Lanes - 1 of a task, of all pixels of a strip. Taps is 9 (3x3) or 0 (any).
template <int Taps, int Lanes, int Vectors, bool Add, class T>
void filter_strip(const Strip& strip, int64_t c, const float* channel, const float* spatial, T* y) {
  Floats<Lanes> held[Taps ? Taps : 1][Vectors];
  channel += c;
  const int64_t ld = strip.channel_ld;
#pragma GCC unroll 9
  for (int t = 0; t < Taps; ++t)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v) held[t][v] = load<Lanes>(channel + t * ld + v * Lanes);

  const auto pixel = [&](int64_t p, auto tap_at) __attribute__((always_inline)) {
    Floats<Lanes> sum[Vectors] = {};
    const auto add_tap = [&](auto t) __attribute__((always_inline)) {
      const float s = spatial[t * kStrip + p];
      const float* x = tap_at(t);
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; ++v) {
        Floats<Lanes> f;
        if constexpr (Taps)
          f = held[t][v];
        else
          f = load<Lanes>(channel + t * ld + v * Lanes);
        sum[v] += combined<Add>(f, s) * load<Lanes>(x + v * Lanes);
      }
    };
    if constexpr (Taps) {
#pragma GCC unroll 9
      for (int t = 0; t < Taps; ++t) add_tap(t);
    } else {
      for (int64_t t = 0; t < strip.taps; ++t) add_tap(t);
    }
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; ++v)
      store_from_float<Lanes>(y + p * strip.y_step + v * Lanes, strip.relu ? relu<Lanes>(sum[v]) : sum[v]);
  };
  const auto outer = [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t p = begin; p < end; ++p) {
      const float* const* pointers = strip.pointers + p * strip.taps;
      pixel(p, [=](int64_t t) { return pointers[t] + c; });
    }
  };
  if constexpr (Taps) {
    outer(0, strip.inner.begin);
    const float* row[3] = {strip.row[0] + c, strip.row[1] + c, strip.row[2] + c};
    const int64_t tap[3] = {strip.tap[0], strip.tap[1], strip.tap[2]};
    for (int64_t p = strip.inner.begin; p < strip.inner.end; ++p) {
      pixel(p, [&](int64_t t) { return row[t / 3] + t % 3 * tap[t / 3]; });
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) row[i] += strip.step[i];
    }
    outer(strip.inner.end, strip.pixels);
  } else {
    outer(0, strip.pixels);
  }
}

// All channels [begin, end) of a task, which are of one head.
template <int Taps, bool Add, class T>
void filter_channels(const Problem& problem, const Plan& plan, const Strip& strip, int64_t begin, int64_t end,
                     const Scratch& scratch, const Map<T>& y, T* y_first) {
  const auto block = [&](auto lanes, auto vectors, int64_t c) {
    for (int64_t r = 0; r < problem.branches(); ++r) {
      T* to = y_first + r / problem.scale * y.h + r % problem.scale * y.w + c;
      filter_strip<Taps, lanes, vectors, Add>(strip, c, scratch.channel + r * strip.taps * channel_ld(plan),
                                              scratch.spatial + r * strip.taps * kStrip, to);
    }
  };
  constexpr int kWide = kBlock * kWidth;
  const int64_t wide_end = begin + (end - begin) / kWide * kWide;
  for (int64_t c = begin; c < wide_end; c += kWide)
    block(std::integral_constant<int, kWidth>{}, std::integral_constant<int, kBlock>{}, c);
  // The rest may overlap what is done.
  const int64_t rest = end - wide_end;
  if (rest)
    cover<kWidth>(rest < kWidth && end - begin >= kWidth ? end - kWidth : wide_end, end, [&](auto lanes, int64_t c) {
      block(lanes, std::integral_constant<int, 1>{}, c);
    });
}

template <class T>
void run_channels_last(const Problem& problem, const Plan& plan, const dyndeploy_tensor* inputs,
                       const dyndeploy_tensor& Y, const Task& task, const Scratch& scratch) {
  const Window& window = problem.window;
  const Map<const T> X(inputs[kX]), filters(inputs[kSpatialFilter]);
  const Map<T> y(Y);
  const int64_t taps = window.taps(), head_channels = problem.head_channels();

  // Rows of X from `top` on, of the channels of the task.
  const int64_t top = std::max<int64_t>(0, task.area.row * window.stride_h - window.top);
  Rows x{nullptr, X.h, X.w};
  if (plan.widened) {
    const int64_t last_row = task.area.row + task.area.rows - 1;
    const int64_t last = last_row * window.stride_h - window.top + (window.kh - 1) * window.dilation_h;
    x = {scratch.widened, window.W * plan.channels, plan.channels};
    for (int64_t h = top; h <= std::min(last, window.H - 1); ++h)
      for (int64_t w = 0; w < window.W; ++w)
        read_floats(X.at(task.n, task.begin, h, w), task.end - task.begin,
                    scratch.widened + (h - top) * x.row_h + w * x.row_w);
  } else if constexpr (sizeof(T) == sizeof(float)) {
    if (X.data) x.data = X.at(task.n, task.begin, top, 0);
  }
  std::fill_n(scratch.zeros, plan.channels, 0.0f);

  const bool three = window.kh == 3 && window.kw == 3;
  const Range inner_columns = {
      meeting(window.stride_w, -window.left, window.W, window.Wo).begin,
      meeting(window.stride_w, (window.kw - 1) * window.dilation_w - window.left, window.W, window.Wo).end};
  const int64_t strips = divide_up(window.Wo, kStrip), width = divide_up(window.Wo, strips);
  for (int64_t row = task.area.row; row < task.area.row + task.area.rows; ++row)
    for (int64_t first = 0; first < window.Wo; first += width) {
      Strip strip{.taps = taps,
                  .pixels = std::min(width, window.Wo - first),
                  .relu = problem.relu,
                  .inner = {},
                  .row = {},
                  .tap = {},
                  .step = {},
                  .pointers = scratch.taps,
                  .channel_ld = channel_ld(plan),
                  .y_step = problem.scale * y.w};
      if (three) {
        const int64_t begin = std::clamp<int64_t>(inner_columns.begin - first, 0, strip.pixels);
        strip.inner = {begin, std::clamp<int64_t>(inner_columns.end - first, begin, strip.pixels)};
      }
      for (int64_t i = 0; i < window.kh; ++i) {
        const int64_t h = row * window.stride_h - window.top + i * window.dilation_h;
        const bool inside = h >= 0 && h < window.H;
        const auto point = [&](int64_t p) {
          int64_t w = (first + p) * window.stride_w - window.left;
          for (int64_t j = 0; j < window.kw; ++j, w += window.dilation_w)
            scratch.taps[p * taps + i * window.kw + j] =
                inside && w >= 0 && w < window.W ? x.at(h - top, w) : scratch.zeros;
        };
        for (int64_t p = 0; p < strip.inner.begin; ++p) point(p);
        for (int64_t p = strip.inner.end; p < strip.pixels; ++p) point(p);
        if (strip.inner.begin < strip.inner.end) {
          strip.row[i] = scratch.zeros;
          if (inside) {
            strip.row[i] = x.at(h - top, (first + strip.inner.begin) * window.stride_w - window.left);
            strip.tap[i] = window.dilation_w * x.row_w;
            strip.step[i] = window.stride_w * x.row_w;
          }
        }
      }
      T* to = y.at(task.n, task.begin, problem.scale * row, problem.scale * first);
      for (int64_t begin = task.begin; begin < task.end;) {
        const int64_t head = begin / head_channels, end = std::min(task.end, (head + 1) * head_channels);
        for (int64_t r = 0; r < problem.branches(); ++r) {
          float* spatial = scratch.spatial + r * taps * kStrip;
          read_spatial(filters, task.n, (r * problem.heads + head) * taps, taps, row, first, strip.pixels, spatial,
                       kStrip);
          normalise(problem, problem.spatial_gain, round_up(strip.pixels, kWidth), spatial, kStrip);
        }
        const int64_t from = begin - task.begin, until = end - task.begin;
        if (three && problem.add)
          filter_channels<9, true>(problem, plan, strip, from, until, scratch, y, to);
        else if (three)
          filter_channels<9, false>(problem, plan, strip, from, until, scratch, y, to);
        else if (problem.add)
          filter_channels<0, true>(problem, plan, strip, from, until, scratch, y, to);
        else
          filter_channels<0, false>(problem, plan, strip, from, until, scratch, y, to);
        begin = end;
      }
    }
}

// --- planar

template <int... I>
DYNDEPLOY_INLINE void interleave(Vector a, Vector b, float* to, std::integer_sequence<int, I...>) {
  constexpr int kHalf = kWidth / 2;
  store(to, __builtin_shufflevector(a, b, (I / 2 + I % 2 * kWidth)...));
  store(to + kWidth, __builtin_shufflevector(a, b, (kHalf + I / 2 + I % 2 * kWidth)...));
}

// to[2 * i] = a[i], to[2 * i + 1] = b[i]: a row of DDF-Up at scale 2.
void interleave(const float* a, const float* b, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth)
    interleave(load(a + i), load(b + i), to + 2 * i, std::make_integer_sequence<int, kWidth>{});
  for (; i < count; ++i) {
    to[2 * i] = a[i];
    to[2 * i + 1] = b[i];
  }
}

template <int Group, bool Add, class T>
void run_group(const Problem& problem, const Plan& plan, const Map<const T>& X, const Map<T>& y, const Task& task,
               int64_t first, const Scratch& scratch) {
  const Planes& planes = plan.planes;
  const Area& area = task.area;
  const int64_t taps = problem.window.taps(), scale = problem.scale;
  read_planes(X, task.n, first, Group, problem.window, planes, area, scratch.planes);
  Operands operands{.taps = taps,
                    .planes = scratch.planes,
                    .offsets = scratch.offsets,
                    .channel = scratch.channel + (first - task.begin),
                    .ld = channel_ld(plan),
                    .spatial = scratch.spatial,
                    .relu = problem.relu};
  if (planes.by_rows && area.columns >= kWidth) {
    for (int64_t row = 0; row < area.rows; ++row) {
      const int64_t begin = row * planes.pitch;
      T* to = y.at(task.n, first, area.row + row, area.column);
      filter_run<Group, Add>(planes, operands, begin, begin + area.columns, false, [&](int g, int64_t i, Vector sum) {
        store_from_float<kWidth>(to + g * y.c + i - begin, sum);
      });
    }
    return;
  }
  for (int64_t r = 0; r < problem.branches(); ++r) {
    float* sums = scratch.sums + r * Group * planes.flat;
    filter_run<Group, Add>(planes, operands, 0, outputs(planes, area), true,
                           [&](int g, int64_t i, Vector sum) { store(sums + g * planes.flat + i, sum); });
    operands.channel += taps * operands.ld;
    operands.spatial += taps * planes.flat;
  }
  for (int64_t row = 0; row < area.rows; ++row)
    for (int64_t a = 0; a < scale; ++a) {
      T* to = y.at(task.n, first, (area.row + row) * scale + a, area.column * scale);
      const float* from = scratch.sums + a * scale * Group * planes.flat + row * planes.pitch;
      if constexpr (sizeof(T) == sizeof(float)) {
        if (scale == 2 && y.w == 1) {
          for (int64_t g = 0; g < Group; ++g)
            interleave(from + g * planes.flat, from + (Group + g) * planes.flat, area.columns, to + g * y.c);
          continue;
        }
      }
      for (int64_t b = 0; b < scale; ++b)
        write_pixels(from + b * Group * planes.flat, planes.flat, Group, area.columns, to + b * y.w, y.c, scale * y.w);
    }
}

// The spatial filters of a head, unless they are there already.
template <class T>
void prepare_spatial_filters(const Problem& problem, const Plan& plan, const Map<const T>& filters, const Task& task,
                             int64_t head, const Scratch& scratch) {
  const int64_t key = (task.n * plan.tiles.count() + task.tile) * problem.heads + head;
  if (*scratch.spatial_key == key) return;
  *scratch.spatial_key = key;
  const int64_t taps = problem.window.taps();
  std::fill_n(scratch.spatial, problem.branches() * taps * plan.planes.flat, 0.0f);
  for (int64_t r = 0; r < problem.branches(); ++r) {
    float* spatial = scratch.spatial + r * taps * plan.planes.flat;
    for (int64_t row = 0; row < task.area.rows; ++row)
      read_spatial(filters, task.n, (r * problem.heads + head) * taps, taps, task.area.row + row, task.area.column,
                   task.area.columns, spatial + row * plan.planes.pitch, plan.planes.flat);
    normalise(problem, problem.spatial_gain, plan.planes.flat, spatial, plan.planes.flat);
  }
}

template <class T>
void run_planar(const Problem& problem, const Plan& plan, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                const Task& task, const Scratch& scratch) {
  const Map<const T> X(inputs[kX]), filters(inputs[kSpatialFilter]);
  const Map<T> y(Y);
  const int64_t head_channels = problem.head_channels();
  write_offsets(plan.planes, problem.window, scratch.offsets);
  // Padding, here for all groups of channels.
  std::fill_n(scratch.planes, kGroup * plan.planes.size, 0.0f);
  for (int64_t begin = task.begin; begin < task.end;) {
    const int64_t head = begin / head_channels, end = std::min(task.end, (head + 1) * head_channels);
    prepare_spatial_filters(problem, plan, filters, task, head, scratch);
    cover<kGroup>(begin, end, [&](auto group, int64_t first) {
      if (problem.add)
        run_group<group, true>(problem, plan, X, y, task, first, scratch);
      else
        run_group<group, false>(problem, plan, X, y, task, first, scratch);
    });
    begin = end;
  }
}

// --- all

int64_t lane_bytes(const Problem& problem, const Plan& plan) {
  Workspace workspace;
  take_scratch(problem, plan, workspace);
  return round_up(static_cast<int64_t>(workspace.bytes()), 64);
}

}  // namespace

uint64_t ddf_forward_workspace(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                               const dyndeploy_resources* resources) {
  const Plan plan = plan_of(problem, inputs, Y, resources);
  Workspace workspace;
  workspace.take<char>(lanes_for(resources, plan.tasks) * lane_bytes(problem, plan));
  return workspace.bytes();
}

void ddf_forward(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                 const dyndeploy_resources* resources) {
  const Plan plan = plan_of(problem, inputs, Y, resources);
  const int64_t lanes = lanes_for(resources, plan.tasks), bytes = lane_bytes(problem, plan);
  char* memory = Workspace(resources->workspace).take<char>(lanes * bytes);
  const auto scratch_of = [&](int64_t lane) {
    Workspace workspace(memory + lane * bytes);
    return take_scratch(problem, plan, workspace);
  };
  for (int64_t lane = 0; lane < lanes; ++lane) {
    const Scratch scratch = scratch_of(lane);
    *scratch.channel_key = *scratch.spatial_key = -1;
  }

  with_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    auto run = [&](int lane, int64_t index) {
      const Scratch scratch = scratch_of(lane);
      const Task task = task_of(problem, plan, index);
      prepare_channel_filters<T>(problem, plan, inputs, task, scratch);
      if (plan.planar)
        run_planar<T>(problem, plan, inputs, Y, task, scratch);
      else
        run_channels_last<T>(problem, plan, inputs, Y, task, scratch);
    };
    for_each_task(resources, plan.tasks, run);
  });
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

// Decoupled dynamic filter, forward: one pass over X and Y. A task is a tile of Y of some channels of one sample.
//
//   filters  Channel filters are normalised into the scratch memory of a lane, [branch][tap][channel], and the spatial
//            filters of a tile and a head, [branch][tap][pixel]; those serve all channels of the head. Branches are the
//            sub-pixels of DDF-Up. What a later task needs as well stays there.
//   patches  A vector is some channels of a pixel, whatever the layouts are. What a tile meets of X is copied for a
//            block of channels (patches.h), unless it lies so already and all taps are inside of the map. The block's
//            taps are kept in registers; per tap and pixel one number of the spatial filter is broadcast. Sums go
//            straight to Y, or through a copy where it has another order.
//   planes   A vector is some pixels of a channel (planes.h): where a head has few channels, and for wide planar maps.
//
// Every element of Y is summed up in the order of the taps by the same operations, however the work is divided.
// Lanes begin with the same share of Y in every call: maps that one core's cache holds need not come from another's.
// Cost: 2 operations per tap, half of them a convolution's; X is read once, Y written once.
#include <algorithm>
#include <atomic>
#include <new>

#include "ddf/cpu.h"
#include "ddf/patches.h"

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
// Outputs of a tile, at least: rows of a patch that two tiles need are copied twice.
constexpr int64_t kLeastPixels = 256;

// Vectors of channels that a block has: 9 taps of them and their sums are held in registers.
constexpr int kBlock = kWidth == 16 ? 2 : 1;
// Columns of a tile of patches where a row of Y is cut, at most.
constexpr int64_t kMostPatchColumns = 64;
// Pixels of a patch, at most, and numbers of the spatial filters of a tile: they stay in the second cache.
constexpr int64_t kMostPatch = 1024;
constexpr int64_t kMostSpatial = 16384;

// Rows and columns of Y, at least, so that patches of its borders are less to copy than all of X.
constexpr int64_t kLeastInPlace = 20;

// --- division of the work

struct Plan {
  bool planar;
  bool three;  // 3x3 taps, next to each other in a patch
  bool in_place, direct;  // X is read where it lies, but for borders; sums go straight to Y
  Tiles tiles;
  int64_t channels, chunks;  // of a task, at most, and how many of them
  int64_t tasks;
  Planes planes;
  Patches patches;
};

// Tiles of patches: `parts` of them, unless they become too small.
Tiles tiles_of_patches(const Problem& problem, int64_t parts) {
  const Window& window = problem.window;
  const int64_t filters = problem.branches() * window.taps();
  const int64_t columns = divide_up(window.Wo, divide_up(window.Wo, kMostPatchColumns));
  const int64_t down = std::clamp<int64_t>(window.Ho * window.Wo / kLeastPixels, 1, parts) * columns / window.Wo;
  int64_t rows = std::clamp<int64_t>(kMostSpatial / filters, 1, kMostPixels) / columns;
  rows = std::clamp<int64_t>(std::min(rows, window.Ho / std::max<int64_t>(down, 1)), 1, window.Ho);
  Tiles tiles = tiles_of(window, rows, columns);
  while (tiles.rows > 1 && patches_of(window, tiles).pixels() > kMostPatch)
    tiles = tiles_of(window, tiles.rows / 2, columns);
  return tiles;
}

Plan plan_of(const Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
             const dyndeploy_resources* resources) {
  const Window& window = problem.window;
  Plan plan{};
  // Parts of a sample that keep all lanes busy, with enough to do for each.
  const int64_t lanes = resources->threads ? resources->threads->lanes : 1;
  const double work = 1.0 * static_cast<double>(problem.C * problem.branches()) *
                      static_cast<double>(window.Ho * window.Wo) * static_cast<double>(window.taps());
  const auto most = static_cast<int64_t>(std::min(work / kLeastWork, 1e6)) + 1;
  const int64_t parts = std::min(most, divide_up(kTasksPerLane * lanes, std::max<int64_t>(problem.N, 1)));

  // A few channels fill no vector; of wide planes a tile has short pieces of many rows, far from each other.
  const bool last = channels_last(inputs[kX]) && channels_last(Y);
  const bool wide = window.stride_w == 1 && window.Wo > kMostPatchColumns / (problem.scale == 1 ? 2 : 1);
  plan.planar = problem.head_channels() < (last ? 4 : kWidth) || (wide && !last) ||
                problem.branches() * window.taps() > kMostSpatial / 16;
  if (!plan.planar) {
    plan.direct = problem.dtype == DYNDEPLOY_FLOAT32 && channels_last(Y);
    plan.tiles = tiles_of_patches(problem, parts);
    plan.patches = patches_of(window, plan.tiles);
    plan.three = window.kh == 3 && window.kw == 3 && plan.patches.w.tap == 1;
    plan.in_place = plan.three && plan.direct && channels_last(inputs[kX]) &&
                    std::min(window.Ho, window.Wo) >= kLeastInPlace;
    // Planes are copied for fewer channels at a time.
    plan.planar = plan.patches.pixels() > 16 * kMostPatch;
  }
  if (plan.planar) {
    plan.tiles = tiles_of(window, problem.branches() * window.taps());
    plan.planes = planes_of(window, plan.tiles, problem.scale == 1 && Y.strides[3] == 1);
  }
  const int64_t step = 2 * kWidth, shares = divide_up(parts, plan.tiles.count());
  plan.channels = std::min(problem.C, round_up(divide_up(problem.C, shares), step));
  plan.chunks = plan.channels ? divide_up(problem.C, plan.channels) : 0;
  plan.tasks = problem.N * plan.chunks * plan.tiles.count();
  return plan;
}

// Memory of one lane.
struct Scratch {
  std::atomic<int64_t>* next;  // task of the lane's share
  int64_t* channel_key;  // [chunks] of which sample the channel filters of a chunk are there, or -1
  int64_t* spatial_key;  // which spatial filters are there: (n * tiles + tile) * heads + head, or -1
  int64_t* border_key;   // [3] around which outputs a patch has its zeros, and in pixels of how many floats, or -1
  float* channel;        // [chunks][branches][taps][channels], padded to kWidth
  float* gain;           // [taps][channels] of one branch
  float* spatial;        // [branches][taps][kSpatialLd or flat]
  float* patch;          // [pixels][block]
  float* planes;         // [kGroup][size]
  float* sums;           // [rows][scale][columns][scale][block], or [branches][kGroup][flat]
  int64_t* offsets;      // [taps] distances in a plane
};

int64_t channel_ld(const Plan& plan) { return round_up(plan.channels, kWidth); }
int64_t chunk_filters(const Problem& problem, const Plan& plan) {
  return problem.branches() * problem.window.taps() * channel_ld(plan);
}

Scratch take_scratch(const Problem& problem, const Plan& plan, Workspace& workspace) {
  const int64_t taps = problem.window.taps(), branches = problem.branches();
  Scratch scratch{};
  scratch.next = workspace.take<std::atomic<int64_t>>(1);
  scratch.channel_key = workspace.take<int64_t>(plan.chunks);
  scratch.spatial_key = workspace.take<int64_t>(4);
  scratch.border_key = scratch.spatial_key + 1;
  scratch.channel = workspace.take<float>(plan.chunks * chunk_filters(problem, plan));
  scratch.gain = workspace.take<float>(taps * channel_ld(plan));
  scratch.spatial = workspace.take<float>(branches * taps * (plan.planar ? plan.planes.flat : kSpatialLd));
  if (plan.planar) {
    scratch.planes = workspace.take<float>(kGroup * plan.planes.size);
    scratch.sums = workspace.take<float>(branches * kGroup * plan.planes.flat);
    scratch.offsets = workspace.take<int64_t>(taps);
  } else {
    scratch.patch = workspace.take<float>(plan.patches.pixels() * kBlock * kWidth);
    if (!plan.direct)
      scratch.sums = workspace.take<float>(branches * plan.tiles.rows * plan.tiles.columns * kBlock * kWidth);
  }
  return scratch;
}

// What a task works on.
struct Task {
  int64_t n, tile, chunk;
  Area area;
  int64_t begin, end;    // channels
  const float* channel;  // [branches][taps][channels]
};

// The filters of a tile serve all chunks, one after the other.
Task task_of(const Problem& problem, const Plan& plan, const Scratch& scratch, int64_t index) {
  const int64_t tiles = plan.tiles.count();
  Task task;
  task.n = index / (tiles * plan.chunks);
  index %= tiles * plan.chunks;
  task.tile = index / plan.chunks;
  task.chunk = index % plan.chunks;
  task.area = plan.tiles.area(task.tile, problem.window);
  task.begin = task.chunk * plan.channels;
  task.end = std::min(task.begin + plan.channels, problem.C);
  task.channel = scratch.channel + task.chunk * chunk_filters(problem, plan);
  return task;
}

// The channel filters of a task, unless they are there already.
template <class T>
void prepare_channel_filters(const Problem& problem, const Plan& plan, const dyndeploy_tensor* inputs, const Task& task,
                             const Scratch& scratch) {
  if (scratch.channel_key[task.chunk] == task.n) return;
  scratch.channel_key[task.chunk] = task.n;
  const dyndeploy_tensor &filters = inputs[kChannelFilter], &gains = inputs[kChannelGain];
  const int64_t taps = problem.window.taps(), ld = channel_ld(plan), count = task.end - task.begin;
  for (int64_t r = 0; r < problem.branches(); ++r) {
    const int64_t begin = r * problem.C + task.begin, end = begin + count;
    float* channel = scratch.channel + task.chunk * chunk_filters(problem, plan) + r * taps * ld;
    read_per_channel(static_cast<const T*>(filters.data) + task.n * filters.strides[0], filters.strides[1], taps, begin,
                     end, channel, ld);
    normalise(problem, 1, round_up(count, kWidth), channel, ld);
    read_per_channel(static_cast<const T*>(gains.data), gains.strides[0], taps, begin, end, scratch.gain, ld);
    for (int64_t i = 0; i < taps * ld; ++i) channel[i] *= scratch.gain[i];
  }
}

// The spatial filters of a head, unless they are there already: rows of a tile `pitch` apart.
template <class T>
void prepare_spatial_filters(const Problem& problem, const Plan& plan, const Map<const T>& filters, const Task& task,
                             int64_t head, int64_t pitch, int64_t ld, const Scratch& scratch) {
  const int64_t key = (task.n * plan.tiles.count() + task.tile) * problem.heads + head;
  if (*scratch.spatial_key == key) return;
  *scratch.spatial_key = key;
  const Area& area = task.area;
  const int64_t taps = problem.window.taps();
  const int64_t count = round_up((area.rows - 1) * pitch + area.columns, kWidth);
  // Several rows at once, if they follow each other.
  const bool dense = pitch == problem.window.Wo && area.columns == pitch && filters.run(pitch, 0, 2 * pitch) > pitch;
  const int64_t rows = dense ? area.rows : 1;
  if (pitch != area.columns) std::fill_n(scratch.spatial, problem.branches() * taps * ld, 0.0f);
  for (int64_t r = 0; r < problem.branches(); ++r) {
    float* spatial = scratch.spatial + r * taps * ld;
    for (int64_t row = 0; row < area.rows; row += rows)
      read_spatial(filters, task.n, (r * problem.heads + head) * taps, taps, area.row + row, area.column,
                   rows * area.columns, spatial + row * pitch, ld);
    normalise(problem, problem.spatial_gain, count, spatial, ld);
  }
}

// --- patches

// Channels c … c + Vectors * Lanes - 1 of some outputs of a tile. Three: 3x3 taps, next to each other in a patch.
template <bool Three, int Lanes, int Vectors, bool Add, class T>
void run_block(const Problem& problem, const Plan& plan, const Map<const T>& X, const Map<T>& y, const Task& task,
               const Area& area, bool in_place, int64_t c, const Scratch& scratch) {
  constexpr int kPixel = Lanes * Vectors;
  const Window& window = problem.window;
  const int64_t scale = problem.scale, count = window.taps(), ld = channel_ld(plan);
  float* to = scratch.sums;
  int64_t row = scale * area.columns * kPixel, pixel = kPixel;  // of what is written
  if constexpr (sizeof(T) == sizeof(float)) {
    if (plan.direct) {
      to = y.at(task.n, c, scale * area.row, scale * area.column);
      row = y.h;
      pixel = y.w;
    }
  }
  const Outputs outputs{area.rows, area.columns, scale * row, scale * pixel, task.area.columns, problem.relu};
  const int64_t first = (area.row - task.area.row) * task.area.columns + area.column - task.area.column;
  const auto all_branches = [&](auto filter) {
    for (int64_t r = 0; r < problem.branches(); ++r)
      filter(task.channel + r * count * ld + (c - task.begin), scratch.spatial + r * count * kSpatialLd + first,
             to + r / scale * row + r % scale * pixel);
  };

  if constexpr (Three && sizeof(T) == sizeof(float)) {
    if (in_place) {
      const int64_t h = area.row * window.stride_h - window.top, w = area.column * window.stride_w - window.left;
      const Taps taps{X.at(task.n, c, h, w), window.dilation_h * X.h, window.dilation_w * X.w, window.stride_h * X.h,
                      window.stride_w * X.w};
      return all_branches([&](const float* channel, const float* spatial, float* sub_pixel) {
        filter_block_3x3<0, Lanes, Vectors, Add>(taps, channel, ld, spatial, outputs, sub_pixel);
      });
    }
  }
  const int64_t border[] = {task.n * plan.tiles.count() + task.tile, area.row * window.Wo + area.column, kPixel};
  if (!std::equal(border, border + 3, scratch.border_key)) {
    clear_border(window, plan.patches, area, kPixel, scratch.patch);
    std::copy_n(border, 3, scratch.border_key);
  }
  pack_patch<Lanes, Vectors>(X, task.n, c, window, plan.patches, area, scratch.patch);
  const Taps taps = taps_of(plan.patches, scratch.patch, kPixel);
  all_branches([&](const float* channel, const float* spatial, float* sub_pixel) {
    if constexpr (Three)
      filter_block_3x3<kPixel, Lanes, Vectors, Add>(taps, channel, ld, spatial, outputs, sub_pixel);
    else
      filter_block<Lanes, Vectors, Add>(window, taps, channel, ld, spatial, outputs, sub_pixel);
  });
  if (plan.direct) return;
  const int64_t rows = scale * area.rows, columns = scale * area.columns, width = scale * window.Wo;
  const int64_t together = columns == width && y.run(width, 0, 2 * width) > width ? rows : 1;
  for (int64_t i = 0; i < rows; i += together)
    unpack_run<Lanes, Vectors>(scratch.sums + i * row, together * columns,
                               y.at(task.n, c, scale * area.row + i, scale * area.column), y.w, y.c);
}

// call(lanes, vectors, c) for blocks of channels [begin, end), which are of one head.
template <class Call>
DYNDEPLOY_INLINE void for_each_block(int64_t begin, int64_t end, Call call) {
  constexpr int kWide = kBlock * kWidth;
  const int64_t wide_end = begin + (end - begin) / kWide * kWide;
  for (int64_t c = begin; c < wide_end; c += kWide)
    call(std::integral_constant<int, kWidth>{}, std::integral_constant<int, kBlock>{}, c);
  // The rest may overlap what is done.
  const int64_t rest = end - wide_end;
  if (rest)
    cover<kWidth>(rest < kWidth && end - begin >= kWidth ? end - kWidth : wide_end, end, [&](auto lanes, int64_t c) {
      call(lanes, std::integral_constant<int, 1>{}, c);
    });
}

// The outputs of a tile whose taps are all inside of the map, and up to four areas of others.
int split(const Window& window, const Area& area, Area* inner, Area* outer) {
  const auto inside = [](int64_t stride, int64_t before, int64_t reach, int64_t size, int64_t first, int64_t count) {
    const int64_t last = first + count;
    const int64_t begin = std::clamp(meeting(stride, -before, size, last).begin, first, last);
    return Range{begin, std::clamp(meeting(stride, reach - before, size, last).end, begin, last)};
  };
  const int64_t reach_h = window.dilation_h * (window.kh - 1), reach_w = window.dilation_w * (window.kw - 1);
  const Range rows = inside(window.stride_h, window.top, reach_h, window.H, area.row, area.rows);
  const Range columns = inside(window.stride_w, window.left, reach_w, window.W, area.column, area.columns);
  *inner = {rows.begin, rows.end - rows.begin, columns.begin, columns.end - columns.begin};
  int count = 0;
  const auto add = [&](int64_t row, int64_t row_end, int64_t column, int64_t column_end) {
    if (row < row_end && column < column_end) outer[count++] = {row, row_end - row, column, column_end - column};
  };
  const int64_t right = area.column + area.columns;
  add(area.row, rows.begin, area.column, right);
  add(rows.end, area.row + area.rows, area.column, right);
  add(rows.begin, rows.end, area.column, columns.begin);
  add(rows.begin, rows.end, columns.end, right);
  return count;
}

template <bool Three, bool Add, class T>
void run_patches(const Problem& problem, const Plan& plan, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                 const Task& task, const Scratch& scratch) {
  const Map<const T> X(inputs[kX]), filters(inputs[kSpatialFilter]);
  const Map<T> y(Y);
  const int64_t head_channels = problem.head_channels();
  Area inner = task.area, outer[4];
  const int borders = plan.in_place ? split(problem.window, task.area, &inner, outer) : 0;
  for (int64_t begin = task.begin; begin < task.end;) {
    const int64_t head = begin / head_channels, end = std::min(task.end, (head + 1) * head_channels);
    prepare_spatial_filters(problem, plan, filters, task, head, task.area.columns, kSpatialLd, scratch);
    const auto run = [&](const Area& area, bool in_place) {
      for_each_block(begin, end, [&](auto lanes, auto vectors, int64_t c) {
        run_block<Three, lanes, vectors, Add>(problem, plan, X, y, task, area, in_place, c, scratch);
      });
    };
    // In place row by row: so the rows of X are read from one end to the other.
    const int64_t rows = plan.in_place ? 1 : inner.rows;
    for (int64_t row = 0; inner.columns && row < inner.rows; row += rows)
      run({inner.row + row, rows, inner.column, inner.columns}, plan.in_place);
    for (int i = 0; i < borders; ++i) run(outer[i], false);
    begin = end;
  }
}

template <class T>
void run_patches(const Problem& problem, const Plan& plan, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                 const Task& task, const Scratch& scratch) {
  if (plan.three && problem.add)
    run_patches<true, true, T>(problem, plan, inputs, Y, task, scratch);
  else if (plan.three)
    run_patches<true, false, T>(problem, plan, inputs, Y, task, scratch);
  else if (problem.add)
    run_patches<false, true, T>(problem, plan, inputs, Y, task, scratch);
  else
    run_patches<false, false, T>(problem, plan, inputs, Y, task, scratch);
}

// --- planes

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
                    .channel = task.channel + (first - task.begin),
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
    prepare_spatial_filters(problem, plan, filters, task, head, plan.planes.pitch, plan.planes.flat, scratch);
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
    std::fill_n(scratch.channel_key, plan.chunks, int64_t{-1});
    *scratch.spatial_key = *scratch.border_key = -1;
    // A lane begins with its share of Y, as in every call before: there are its caches. Then it helps the others.
    new (scratch.next) std::atomic<int64_t>(plan.tasks * lane / lanes);
  }

  with_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    auto run = [&](int lane, int64_t) {
      const Scratch scratch = scratch_of(lane);
      for (int64_t i = 0; i < lanes; ++i) {
        const int64_t share = (lane + i) % lanes, end = plan.tasks * (share + 1) / lanes;
        std::atomic<int64_t>& next = *scratch_of(share).next;
        for (int64_t index; (index = next.fetch_add(1, std::memory_order_relaxed)) < end;) {
          const Task task = task_of(problem, plan, scratch, index);
          prepare_channel_filters<T>(problem, plan, inputs, task, scratch);
          if (plan.planar)
            run_planar<T>(problem, plan, inputs, Y, task, scratch);
          else
            run_patches<T>(problem, plan, inputs, Y, task, scratch);
        }
      }
    };
    for_each_task(resources, plan.tasks ? lanes : 0, run);
  });
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

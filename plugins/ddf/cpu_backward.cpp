// Decoupled dynamic filter, backward. With a = channel filter, b = spatial filter, g = gradient of Y, p = pixel:
//
//   dX[c, p] = sum over branches and taps of (a * b)[p - tap] * g[c, p - tap], or with a + b
//   da[c, tap] = sum over pixels of b * g * X[c, p + tap],  db[tap, p] = sum over channels of a * g * X[c, p + tap]
//   and through gain and FilterNorm the gradients of what a and b were made from
//
// Four steps, each over all lanes:
//   filters   a, b as they are after FilterNorm, with standard deviations, into the workspace
//   da, db    task: a tile of pixels of one head. All channels of the head pass by, in groups of planes (planes.h);
//             db is complete at the end of the task, da is a sum over this tile that waits in the workspace.
//   dX        task: a tile of X of some channels. The same loop as forward, with g in the place of X, the window turned
//             round, and b moved to where X is: a gather, so that no two tasks add to the same number.
//   channels  da over all tiles, and what follows from it
//
// Tiles and the order of all sums follow from the problem alone. Cost: 5 operations per tap, X read once, g twice.
#include <algorithm>

#include "ddf/cpu_backward_plan.h"

namespace dyndeploy::DYNDEPLOY_ISA {
namespace {

// Pixels of a task that normalises filters.
constexpr int64_t kPixels = 1024;

// --- filters

template <class T>
void normalise_channels(const Problem& problem, const Plan& plan, const dyndeploy_tensor* inputs, int64_t n, int64_t r,
                        const Filters& filters) {
  const dyndeploy_tensor &raw = inputs[kChannelFilter], &gain = inputs[kChannelGain];
  const int64_t taps = problem.window.taps(), begin = r * problem.C, end = begin + problem.C;
  const int64_t branch = n * problem.branches() + r;
  float *z = filters.channel + branch * taps * plan.ld, *gained = filters.gained + branch * taps * plan.ld;
  read_per_channel(static_cast<const T*>(raw.data) + n * raw.strides[0], raw.strides[1], taps, begin, end, z, plan.ld);
  normalise(problem, 1, plan.ld, z, plan.ld, filters.channel_std + branch * plan.ld);
  read_per_channel(static_cast<const T*>(gain.data), gain.strides[0], taps, begin, end, gained, plan.ld);
  for (int64_t i = 0; i < taps * plan.ld; ++i) gained[i] *= z[i];
}

// Pixels [begin, end) of one branch and head, `index` = (n * branches + r) * heads + head; kWidth divides begin.
template <class T>
void normalise_pixels(const Problem& problem, const Plan& plan, const dyndeploy_tensor* inputs, int64_t index,
                      int64_t begin, int64_t end, const Filters& filters) {
  const Map<const T> map(inputs[kSpatialFilter]);
  const int64_t taps = problem.window.taps(), Wo = problem.window.Wo, maps = problem.branches() * problem.heads;
  float* z = filters.spatial + index * taps * plan.pixel_ld;
  for (int64_t p = begin, run; p < end; p += run) {
    run = map.run(Wo, p, end);
    read_spatial(map, index / maps, index % maps * taps, taps, p / Wo, p % Wo, run, z + p, plan.pixel_ld);
  }
  normalise(problem, 1, round_up(end - begin, kWidth), z + begin, plan.pixel_ld,
            filters.spatial_std + index * plan.pixel_ld + begin);
}

// --- da, db

float total(const float* numbers) {
  float sums[kWidth];
  std::copy_n(numbers, kWidth, sums);
  for (int half = kWidth / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  return sums[0];
}

// Adds what `Group` channels, whose planes of X are given, have to say about the filters of one branch.
template <int Group, bool Add>
void add_products(const Planes& planes, int64_t taps, int64_t count, const float* planes_x, const float* gradient,
                  const float* channel, int64_t ld, const float* spatial, float* of_spatial,
                  const FilterScratch& scratch) {
  std::fill_n(scratch.of_channel, taps * Group * kWidth, 0.0f);
  for (int64_t i = 0; i < count; i += kWidth) {
    Mask inside;
    std::memcpy(&inside, scratch.inside + i, sizeof inside);
    Vector g[Group];
#pragma GCC unroll 4
    for (int k = 0; k < Group; ++k) g[k] = load(gradient + k * planes.flat + i);
    for (int64_t t = 0; t < taps; ++t) {
      const float* x = planes_x + scratch.offsets[t] + i;
      const Vector s = load(spatial + t * planes.flat + i);
      Vector sum = load(of_spatial + t * planes.flat + i);
#pragma GCC unroll 4
      for (int k = 0; k < Group; ++k) {
        float* of_channel = scratch.of_channel + (t * Group + k) * kWidth;
        const Vector product = g[k] * load(x + k * planes.size);
        // Between the rows stands what no tap of these outputs meets; it may be NaN.
        const Vector met = reinterpret_cast<Vector>(reinterpret_cast<Mask>(product) & inside);
        if constexpr (Add) {
          sum += product;
          store(of_channel, load(of_channel) + met);
        } else {
          sum += channel[t * ld + k] * product;
          store(of_channel, load(of_channel) + s * met);
        }
      }
      store(of_spatial + t * planes.flat + i, sum);
    }
  }
}

// Group channels from `first` on, whose planes are number `copy` and following.
template <int Group>
void add_group(const Problem& problem, const Plan& plan, int64_t first, int64_t copy, const Area& area,
               const float* gained, float* sums, const FilterScratch& scratch) {
  const Planes& planes = plan.planes;
  const int64_t taps = problem.window.taps();
  for (int64_t r = 0; r < problem.branches(); ++r) {
    const auto add = problem.add ? add_products<Group, true> : add_products<Group, false>;
    add(planes, taps, outputs(planes, area), scratch.planes + copy * planes.size,
        scratch.gradient + (r * kMostCopied + copy) * planes.flat, gained + r * taps * plan.ld + first, plan.ld,
        scratch.spatial + r * taps * planes.flat, scratch.of_spatial + r * taps * planes.flat, scratch);
    const float gain = problem.add ? 1 : problem.spatial_gain;
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t k = 0; k < Group; ++k)
        sums[(r * taps + t) * plan.ld + first + k] = gain * total(scratch.of_channel + (t * Group + k) * kWidth);
  }
}

template <class T>
void run_filters(const Problem& problem, const Plan& plan, const dyndeploy_tensor& gradient,
                 const dyndeploy_tensor* inputs, const dyndeploy_tensor& of_spatial, int64_t index,
                 const Filters& filters, const FilterScratch& scratch) {
  const Planes& planes = plan.planes;
  const int64_t tile = index % plan.tiles.count(), branches = problem.branches(), taps = problem.window.taps();
  const int64_t head = index / plan.tiles.count() % problem.heads, n = index / plan.tiles.count() / problem.heads;
  const Area area = plan.tiles.area(tile, problem.window);
  write_offsets(planes, problem.window, scratch.offsets);
  std::fill_n(scratch.planes, kMostCopied * planes.size, 0.0f);
  std::fill_n(scratch.inside, planes.flat, 0);
  std::fill_n(scratch.spatial, branches * taps * planes.flat, 0.0f);
  std::fill_n(scratch.spatial_std, branches * planes.flat, 0.0f);
  std::fill_n(scratch.of_spatial, branches * taps * planes.flat, 0.0f);
  for (int64_t row = 0; row < area.rows; ++row) {
    const int64_t to = row * planes.pitch, pixel = (area.row + row) * problem.window.Wo + area.column;
    std::fill_n(scratch.inside + to, area.columns, -1);
    for (int64_t r = 0; r < branches; ++r) {
      const int64_t from = (n * branches + r) * problem.heads + head;
      read_floats(filters.spatial_std + from * plan.pixel_ld + pixel, area.columns,
                  scratch.spatial_std + r * planes.flat + to);
      for (int64_t t = 0; t < taps; ++t)
        read_floats(filters.spatial + (from * taps + t) * plan.pixel_ld + pixel, area.columns,
                    scratch.spatial + (r * taps + t) * planes.flat + to);
    }
  }

  const float* gained = filters.gained + n * branches * taps * plan.ld;
  float* sums = filters.sums + (n * plan.tiles.count() + tile) * branches * taps * plan.ld;
  const Map<const T> X(inputs[kX]), g(gradient);
  const int64_t scale = problem.scale, copied = X.c == 1 || g.c == 1 ? kMostCopied : kGroup;
  const int64_t end = (head + 1) * problem.head_channels();
  for (int64_t first = head * problem.head_channels(), count; first < end; first += count) {
    count = std::min(copied, end - first);
    read_planes(X, n, first, count, problem.window, planes, area, scratch.planes);
    for (int64_t r = 0; r < branches; ++r)
      for (int64_t row = 0; row < area.rows; ++row)
        read_pixels(g.at(n, first, (area.row + row) * scale + r / scale, area.column * scale + r % scale), g.c,
                    scale * g.w, count, area.columns,
                    scratch.gradient + r * kMostCopied * planes.flat + row * planes.pitch, planes.flat);
    int64_t c = 0;
    for (; c + kGroup <= count; c += kGroup)
      add_group<kGroup>(problem, plan, first + c, c, area, gained, sums, scratch);
    for (; c < count; ++c) add_group<1>(problem, plan, first + c, c, area, gained, sums, scratch);
  }

  if (!of_spatial.data) return;
  for (int64_t r = 0; r < branches; ++r) {
    float* sum = scratch.of_spatial + r * taps * planes.flat;
    normalise_gradient(problem, problem.spatial_gain, planes.flat, sum, planes.flat,
                       scratch.spatial + r * taps * planes.flat, planes.flat, scratch.spatial_std + r * planes.flat);
    for (int64_t row = 0; row < area.rows; ++row)
      write_spatial(sum + row * planes.pitch, planes.flat, taps, area.columns, Map<T>(of_spatial), n,
                    (r * problem.heads + head) * taps, area.row + row, area.column);
  }
}

// --- dX

// Spatial filters where X is: of every pixel of X and tap that of the output which meets the pixel with the tap, or 0.
void move_filters(const Problem& problem, const Plan& plan, int64_t n, int64_t head, const Area& area,
                  const Filters& filters, float* to) {
  const Window& window = problem.window;
  const Planes& planes = plan.x_planes;
  const float gain = problem.spatial_gain;
  std::fill_n(to, problem.branches() * window.taps() * planes.flat, 0.0f);
  for (int64_t r = 0; r < problem.branches(); ++r) {
    const float* from =
        filters.spatial + ((n * problem.branches() + r) * problem.heads + head) * window.taps() * plan.pixel_ld;
    for (int64_t t = 0; t < window.taps(); ++t, from += plan.pixel_ld, to += planes.flat) {
      const int64_t shift_h = area.row + window.top - t / window.kw * window.dilation_h;
      const int64_t shift_w = area.column + window.left - t % window.kw * window.dilation_w;
      const Range inside = meeting(1, shift_w, plan.reverse.W, area.columns);
      for (int64_t row = 0; row < area.rows; ++row) {
        const int64_t h = row + shift_h;
        if (h < 0 || h >= plan.reverse.H || h % window.stride_h) continue;
        const float* in_row = from + h / window.stride_h * window.Wo;
        if (window.stride_w == 1) {
          for (int64_t i = inside.begin; i < inside.end; ++i) to[row * planes.pitch + i] = gain * in_row[i + shift_w];
        } else {
          for (int64_t i = inside.begin; i < inside.end; ++i)
            if ((i + shift_w) % window.stride_w == 0)
              to[row * planes.pitch + i] = gain * in_row[(i + shift_w) / window.stride_w];
        }
      }
    }
  }
}

// Group channels from `first` on, whose planes are number `copy` and following, straight to dX or to sums.
template <int Group, bool Add, class T>
void run_x_group(const Problem& problem, const Plan& plan, const Map<T>& of_x, int64_t n, int64_t first, int64_t copy,
                 const Area& area, const float* gained, bool straight, const XScratch& scratch) {
  const Planes& planes = plan.x_planes;
  const Operands operands{.taps = problem.branches() * problem.window.taps(),
                          .planes = scratch.planes + copy * planes.size,
                          .offsets = scratch.offsets,
                          .channel = gained + first,
                          .ld = plan.ld,
                          .spatial = scratch.spatial,
                          .relu = false};
  if (!straight) {
    float* sums = scratch.sums + copy * planes.flat;
    return filter_run<Group, Add>(planes, operands, 0, outputs(planes, area), true,
                                  [&](int k, int64_t i, Vector sum) { store(sums + k * planes.flat + i, sum); });
  }
  for (int64_t row = 0; row < area.rows; ++row) {
    const int64_t begin = row * planes.pitch;
    T* to = of_x.at(n, first, area.row + row, area.column);
    filter_run<Group, Add>(planes, operands, begin, begin + area.columns, false, [&](int k, int64_t i, Vector sum) {
      store_from_float<kWidth>(to + k * of_x.c + i - begin, sum);
    });
  }
}

// Channels [begin, end), of one head.
template <class T>
void run_x_channels(const Problem& problem, const Plan& plan, const dyndeploy_tensor& gradient, const Map<T>& of_x,
                    int64_t n, int64_t begin, int64_t end, const Area& area, const float* gained,
                    const XScratch& scratch) {
  const Planes& planes = plan.x_planes;
  const Map<const T> g(gradient);
  const int64_t scale = problem.scale, copied = g.c == 1 || of_x.c == 1 ? kMostCopied : kGroup;
  const bool straight = planes.by_rows && area.columns >= kWidth;
  for (int64_t first = begin, count; first < end; first += count) {
    count = std::min(copied, end - first);
    for (int64_t r = 0; r < problem.branches(); ++r) {
      Map<const T> branch = g;
      branch.data = g.data + r / scale * g.h + r % scale * g.w;
      branch.h *= scale;
      branch.w *= scale;
      read_planes(branch, n, first, count, plan.reverse, planes, area, scratch.planes + r * kMostCopied * planes.size,
                  problem.window.stride_h, problem.window.stride_w);
    }
    cover<kGroup>(0, count, [&](auto group, int64_t copy) {
      const auto run = problem.add ? run_x_group<group, true, T> : run_x_group<group, false, T>;
      run(problem, plan, of_x, n, first + copy, copy, area, gained, straight, scratch);
    });
    for (int64_t row = 0; row < area.rows && !straight; ++row)
      write_pixels(scratch.sums + row * planes.pitch, planes.flat, count, area.columns,
                   of_x.at(n, first, area.row + row, area.column), of_x.c, of_x.w);
  }
}

template <class T>
void run_x(const Problem& problem, const Plan& plan, const dyndeploy_tensor& gradient, const dyndeploy_tensor& of_x,
           int64_t index, const Filters& filters, const XScratch& scratch) {
  const int64_t taps = problem.window.taps(), branches = problem.branches();
  const int64_t chunk = index % plan.chunks, tile = index / plan.chunks % plan.x_tiles.count();
  const int64_t n = index / plan.chunks / plan.x_tiles.count();
  const Area area = plan.x_tiles.area(tile, plan.reverse);
  // Turned round, the first tap is the last.
  write_offsets(plan.x_planes, plan.reverse, scratch.offsets);
  std::reverse(scratch.offsets, scratch.offsets + taps);
  for (int64_t i = taps; i < branches * taps; ++i)
    scratch.offsets[i] = scratch.offsets[i - taps] + kMostCopied * plan.x_planes.size;
  std::fill_n(scratch.planes, branches * kMostCopied * plan.x_planes.size, 0.0f);
  const int64_t chunk_end = std::min((chunk + 1) * plan.channels, problem.C);
  for (int64_t begin = chunk * plan.channels; begin < chunk_end;) {
    const int64_t head = begin / problem.head_channels();
    const int64_t end = std::min(chunk_end, (head + 1) * problem.head_channels());
    const int64_t key = (n * plan.x_tiles.count() + tile) * problem.heads + head;
    if (*scratch.key != key) move_filters(problem, plan, n, head, area, filters, scratch.spatial);
    *scratch.key = key;
    run_x_channels(problem, plan, gradient, Map<T>(of_x), n, begin, end, area,
                   filters.gained + n * branches * taps * plan.ld, scratch);
    begin = end;
  }
}

// --- channels

template <class T>
void run_channels(const Problem& problem, const Plan& plan, const dyndeploy_tensor& gains,
                  const dyndeploy_tensor& of_channel, const dyndeploy_tensor& of_gain, int64_t r, int64_t begin,
                  const Filters& filters, const ChannelScratch& scratch) {
  const int64_t taps = problem.window.taps(), branches = problem.branches(), tiles = plan.tiles.count();
  const int64_t end = std::min(begin + kChannels, problem.C), width = end - begin, first = r * problem.C + begin;
  read_per_channel(static_cast<const T*>(gains.data), gains.strides[0], taps, first, first + width, scratch.gain,
                   kChannels);
  std::fill_n(scratch.of_gain, taps * kChannels, 0.0f);
  for (int64_t n = 0; n < problem.N; ++n) {
    const float* z = filters.channel + (n * branches + r) * taps * plan.ld + begin;
    std::fill_n(scratch.gradient, taps * kChannels, 0.0f);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const float* sums = filters.sums + ((n * tiles + tile) * branches + r) * taps * plan.ld + begin;
      for (int64_t t = 0; t < taps; ++t)
        for (int64_t c = 0; c < width; ++c) scratch.gradient[t * kChannels + c] += sums[t * plan.ld + c];
    }
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t c = 0; c < width; ++c) {
        scratch.of_gain[t * kChannels + c] += scratch.gradient[t * kChannels + c] * z[t * plan.ld + c];
        scratch.gradient[t * kChannels + c] *= scratch.gain[t * kChannels + c];
      }
    if (!of_channel.data) continue;
    normalise_gradient(problem, 1, round_up(width, kWidth), scratch.gradient, kChannels, z, plan.ld,
                       filters.channel_std + (n * branches + r) * plan.ld + begin);
    write_per_channel(scratch.gradient, kChannels, taps, first, first + width,
                      static_cast<T*>(of_channel.data) + n * of_channel.strides[0], of_channel.strides[1]);
  }
  if (of_gain.data)
    write_per_channel(scratch.of_gain, kChannels, taps, first, first + width, static_cast<T*>(of_gain.data),
                      of_gain.strides[0]);
}

}  // namespace

uint64_t ddf_backward_workspace(const Problem& problem, const dyndeploy_tensor* gradients,
                                const dyndeploy_resources* resources) {
  const Plan plan = plan_of(problem, gradients, resources);
  Workspace workspace;
  take_filters(problem, plan, workspace);
  workspace.take<char>(lanes_for(resources, INT64_MAX) * lane_bytes(problem, plan));
  return workspace.bytes();
}

void ddf_backward(const Problem& problem, const dyndeploy_tensor& gradient, const dyndeploy_tensor* inputs,
                  const dyndeploy_tensor* gradients, const dyndeploy_resources* resources) {
  const Plan plan = plan_of(problem, gradients, resources);
  Workspace workspace(resources->workspace);
  const Filters filters = take_filters(problem, plan, workspace);
  const int64_t lanes = lanes_for(resources, INT64_MAX), bytes = lane_bytes(problem, plan);
  char* memory = workspace.take<char>(lanes * bytes);
  const auto memory_of = [&](int64_t lane) { return Workspace(memory + lane * bytes); };

  with_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t branches = problem.branches(), pixels = problem.window.Ho * problem.window.Wo;
    const int64_t pieces = divide_up(pixels, kPixels), of_channels = problem.N * branches;
    auto normalise_some = [&](int, int64_t index) {
      if (index < of_channels)
        return normalise_channels<T>(problem, plan, inputs, index / branches, index % branches, filters);
      const int64_t begin = (index - of_channels) % pieces * kPixels;
      normalise_pixels<T>(problem, plan, inputs, (index - of_channels) / pieces, begin,
                          std::min(begin + kPixels, pixels), filters);
    };
    for_each_task(resources, of_channels * (1 + problem.heads * pieces), normalise_some);

    if (plan.of_filters) {
      auto task = [&](int lane, int64_t index) {
        Workspace mine = memory_of(lane);
        run_filters<T>(problem, plan, gradient, inputs, gradients[kSpatialFilter], index, filters,
                       take_filter_scratch(problem, plan, mine));
      };
      for_each_task(resources, problem.N * problem.heads * plan.tiles.count(), task);
    }

    if (plan.of_x) {
      const auto scratch_of = [&](int64_t lane) {
        Workspace mine = memory_of(lane);
        return take_x_scratch(problem, plan, mine);
      };
      for (int64_t lane = 0; lane < lanes; ++lane) *scratch_of(lane).key = -1;
      auto task = [&](int lane, int64_t index) {
        run_x<T>(problem, plan, gradient, gradients[kX], index, filters, scratch_of(lane));
      };
      for_each_task(resources, problem.N * plan.x_tiles.count() * plan.chunks, task);
    }

    if (gradients[kChannelFilter].data || gradients[kChannelGain].data) {
      const int64_t blocks = divide_up(problem.C, kChannels);
      auto task = [&](int lane, int64_t index) {
        Workspace mine = memory_of(lane);
        run_channels<T>(problem, plan, inputs[kChannelGain], gradients[kChannelFilter], gradients[kChannelGain],
                        index / blocks, index % blocks * kChannels, filters, take_channel_scratch(problem, mine));
      };
      for_each_task(resources, branches * blocks, task);
    }
  });
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

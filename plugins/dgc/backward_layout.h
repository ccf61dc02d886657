// What the gradients on GPUs count and keep: limits of 32 bits, parts, phases, the workspace.
#pragma once

#include <algorithm>
#include <numeric>
#include <type_traits>

#include "common/cuda/bias.cuh"
#include "dgc/convolve_transposed.cuh"
#include "dgc/correlate.cuh"
#include "dgc/join.cuh"
#include "dgc/prepare.h"

namespace dyndeploy::dgc {

// Bytes of a pass of more than one sample, at most.
inline constexpr int64_t kMostPass = int64_t{256} << 20;
// Pixels of Y that are worth a part of W's gradient.
inline constexpr int64_t kPartPixels = 1024;

struct Wanted {
  bool x, saliency, w, b;
  explicit Wanted(const dyndeploy_tensor* gradients)
      : x(gradients[kX].data), saliency(gradients[kSaliency].data), w(gradients[kW].data), b(gradients[kB].data) {}
  bool columns() const { return x || saliency; }
  bool kept() const { return columns() || w; }
};

inline int64_t pixels_of_x(const Problem& problem) { return problem.window.H * problem.window.W; }
inline int64_t pixels_of_y(const Problem& problem) { return problem.window.Ho * problem.window.Wo; }
// Of a pixel of the copy of Y's gradient.
inline int64_t gradient_vectors(const Problem& problem) { return problem.heads * weight_vectors(problem); }
inline int64_t most_parts(const Problem& problem) { return cuda::divide_up(pixels_of_y(problem), kPartPixels); }
inline int64_t join_tiles(const Problem& problem) { return cuda::divide_up(pixels_of_x(problem), kJoinPixels); }

// Tiles have so many rows and columns, or more.
inline constexpr int64_t kLeastTile = 64;

// `factors` have a product that kernels can count; none of them is negative.
inline bool counts(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors) {
    if (factor == 0) return true;
    if (product > cuda::kMostCount / factor) return false;
    product *= factor;
  }
  return true;
}

inline TransposedAxis axis_of(int64_t size, int64_t outputs, int64_t stride, int64_t before, int64_t dilation,
                              int64_t taps) {
  // What only one pixel of Y, or one tap, would be multiplied by.
  if (outputs == 1) stride = 1;
  if (taps == 1) dilation = 1;
  const int64_t common = std::gcd(stride, dilation);
  return {.size = static_cast<int>(size),
          .stride = static_cast<int>(stride),
          .before = static_cast<int>(before),
          .dilation = static_cast<int>(dilation),
          .taps = static_cast<int>(taps),
          .step = static_cast<int>(stride / common),
          .down = static_cast<int>(dilation / common),
          .phases = static_cast<int>(std::min(stride, size))};
}
inline TransposedAxis axis_h(const Window& w) { return axis_of(w.H, w.Ho, w.stride_h, w.top, w.dilation_h, w.kh); }
inline TransposedAxis axis_w(const Window& w) { return axis_of(w.W, w.Wo, w.stride_w, w.left, w.dilation_w, w.kw); }

inline int64_t phase_tiles(const TransposedAxis& h, const TransposedAxis& w, int64_t rows) {
  return cuda::divide_up(cuda::divide_up(h.size, h.stride) * cuda::divide_up(w.size, w.stride), rows);
}

inline dyndeploy_status check_backward(const Problem& problem) {
  DYNDEPLOY_TRY(check_sizes(problem));
  const int64_t N = problem.N, heads = problem.heads, most = most_kept(problem), taps = problem.window.taps();
  const int64_t x = pixels_of_x(problem), y = pixels_of_y(problem), outputs = problem.head_outputs();
  if (!counts({y, gradient_vectors(problem)}) || !counts({N, y})) return cuda::too_large(kOp, "pixels of Y");
  if (!counts({taps, most})) return cuda::too_large(kOp, "taps and channels");
  const TransposedAxis h = axis_h(problem.window), w = axis_w(problem.window);
  const auto tiles = [](int64_t size) { return cuda::divide_up(size, kLeastTile); };
  if (!counts({N, heads, h.phases, w.phases, phase_tiles(h, w, kLeastTile), tiles(most)}) ||
      !counts({N, heads, most_parts(problem), tiles(taps * most), tiles(outputs)}) ||
      !counts({N, cuda::divide_up(problem.C, kJoinChannels), join_tiles(problem)}) ||
      !counts({N, cuda::divide_up(y, cuda::kCopyPixels),
               cuda::divide_up(gradient_vectors(problem), cuda::kCopyVectors)}))
    return cuda::too_large(kOp, "tiles");
  // Far below the end of int64, and of blocks of a sum.
  constexpr int64_t kMostElements = int64_t{1} << 40;
  const int64_t w_elements = problem.O * problem.C * taps;  // fewer than 2^44
  if (heads * most > kMostElements / std::max<int64_t>(x, 1) || w_elements > cuda::kMostCount * kWeightThreads ||
      outputs * heads * most_parts(problem) > kMostElements / std::max<int64_t>(taps * most, 1))
    return cuda::too_large(kOp, "what is between the products");
  return DYNDEPLOY_OK;
}

// --- memory

// Bytes of one sample, in pieces that begin at lines.
struct Sample {
  int64_t counts = 0, channels = 0, gates = 0, places = 0;  // of its heads
  int64_t gradient = 0, x = 0, columns = 0, slopes = 0, sums = 0;

  Sample(const Problem& problem, const Wanted& wanted) {
    const int64_t heads = problem.heads, most = most_kept(problem), map = pixels_of_x(problem);
    const auto lines = [](int64_t bytes) { return cuda::round_up(bytes, 64); };
    if (!wanted.kept()) return;
    counts = lines(heads * 4);
    channels = gates = lines(heads * most * 4);
    places = lines(heads * problem.C * 4);
    gradient = lines(pixels_of_y(problem) * gradient_vectors(problem) * 16);
    if (wanted.columns()) columns = lines(heads * most * map * 4);
    if (wanted.saliency) slopes = lines(heads * join_tiles(problem) * most * 4);
    if (!wanted.w) return;
    x = lines(heads * map * (most / cuda::wide(problem.dtype)) * 16);
    sums = lines(problem.O * most_parts(problem) * problem.window.taps() * most * 4);
  }
  int64_t bytes() const { return counts + channels + gates + places + gradient + x + columns + slopes + sums; }
};

struct BackwardBuffers {
  int64_t samples = 1;  // of a pass
  cuda::Sixteen* packed = nullptr;
  float* bias_sums = nullptr;
  float* earlier = nullptr;
  Kept kept{};
  cuda::Sixteen* gradient = nullptr;
  cuda::Sixteen* x = nullptr;
  float* columns = nullptr;
  float* slopes = nullptr;
  float* sums = nullptr;
};

// `most`: bytes of a pass of more than one sample. They do not fall where an extent grows and fewer samples fit.
inline BackwardBuffers lay_out(const Problem& problem, const Wanted& wanted, int64_t most, Workspace& workspace) {
  BackwardBuffers b;
  const Sample one(problem, wanted);
  const int64_t bytes = std::max<int64_t>(one.bytes(), 1), all = bytes * problem.N;
  b.samples = std::clamp<int64_t>(most / bytes, 1, std::max<int64_t>(problem.N, 1));
  if (wanted.columns()) b.packed = workspace.take<cuda::Sixteen>(packed_vectors(problem));
  if (wanted.b) b.bias_sums = workspace.take<float>(cuda::bias_sums(problem.N * pixels_of_y(problem), problem.O));
  if (wanted.w && b.samples < problem.N)
    b.earlier = workspace.take<float>(problem.O * problem.C * problem.window.taps());
  if (!wanted.kept()) return b;
  auto* pass = workspace.take<unsigned char>(std::max(bytes, std::min(all, most)));
  const auto take = [&](auto*& to, int64_t of_sample) {
    to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(pass);
    pass += of_sample * b.samples;
  };
  take(b.kept.counts, one.counts);
  take(b.kept.channels, one.channels);
  take(b.kept.gates, one.gates);
  take(b.kept.places, one.places);
  b.kept.most = static_cast<int>(most_kept(problem));
  take(b.gradient, one.gradient);
  take(b.x, one.x);
  take(b.columns, one.columns);
  take(b.slopes, one.slopes);
  take(b.sums, one.sums);
  return b;
}

}  // namespace dyndeploy::dgc

// Dynamic region-aware convolution whose filters are mixed of banks, forward: the filters of some outputs of one sample are
// mixed, then cpu.cpp convolves with them.
//
//   banks   [base][output][depth]     read once per sample, `bases` rows side by side
//   mixed   [region][output][depth]   in float, of as many outputs as fit kMixedBytes: they are read again at once; of all
//                                     outputs, where there are many pixels, whose windows would be gathered for each block
//
// Cost besides the convolution: regions * bases * O * C * taps operations and bases * O * C * taps numbers read per sample,
// whichever regions have pixels. Filters as a tensor would be written and read again, regions * O * C * taps per sample.
#include <algorithm>

#include "common/cpu/gemm.h"
#include "common/cpu/layout.h"
#include "drconv/cpu.h"

namespace dyndeploy::DYNDEPLOY_ISA {
namespace {

namespace mix = drconv::mix;

// Of mixed filters: what a second cache, or a share of the third, holds.
constexpr int64_t kMixedBytes = 4 << 20;
// Of a region, on the average. Measured on Zen 4, one thread, with 525 pixels (256@50x84, 3x3): 69 -> 55 ms.
constexpr int64_t kManyPixels = 64;
// Outputs at a time: in these steps, in which cpu.cpp divides them among tasks.
constexpr int64_t kOutputs = 2 * kRows;
// Regions whose sums are held in registers, and numbers of depth mixed at a time.
constexpr int64_t kRegions = 8, kDepth = 1024;

// mixed[r][d] = sum over j of share[r][j] * banks[j][d], for d < depth.
template <int Regions>
void mix_some(int64_t depth, int64_t bases, const float* const* banks, const float* share, float* mixed, int64_t ld) {
  cover<kWidth>(0, depth, [&](auto lanes, int64_t d) {
    Floats<lanes> sum[Regions] = {};
    for (int64_t j = 0; j < bases; ++j) {
      const Floats<lanes> bank = load<lanes>(banks[j] + d);
#pragma GCC unroll 8
      for (int r = 0; r < Regions; ++r) sum[r] += share[r * bases + j] * bank;
    }
#pragma GCC unroll 8
    for (int r = 0; r < Regions; ++r) store<lanes>(mixed + r * ld + d, sum[r]);
  });
}

using Mix = void (*)(int64_t, int64_t, const float* const*, const float*, float*, int64_t);

template <int... R>
Mix mix_function(int64_t regions, std::integer_sequence<int, R...>) {
  static constexpr Mix functions[] = {mix_some<R + 1>...};
  return functions[regions - 1];
}

struct Buffers {
  int64_t outputs;      // at a time, at most
  float* share;         // [regions][bases] of a sample
  float* mixed;
  const float** rows;   // [lane][bases]
  float* copies;        // [lane][bases][kDepth]; none where banks are dense floats
  char* convolution;    // the workspace of cpu.cpp
  uint64_t convolution_bytes;
};

bool dense_floats(const dyndeploy_tensor& banks) {
  return banks.dtype == DYNDEPLOY_FLOAT32 && (banks.strides[1] == 1 || banks.extents[1] <= 1);
}

// Outputs first, first + 1, … of one sample as a call of cpu.cpp.
struct Part {
  drconv::Problem problem;
  dyndeploy_tensor inputs[4], Y;

  Part(const mix::Problem& whole, const dyndeploy_tensor* from, const dyndeploy_tensor& of_y, int64_t n, int64_t first,
       int64_t outputs, float* mixed)
      : problem(whole.convolution), Y(outputs_of(mix::samples_of(of_y, n, 1), 1, first, outputs)) {
    problem.N = 1;
    problem.O = outputs;
    inputs[drconv::kX] = mix::samples_of(from[mix::kX], n, 1);
    inputs[drconv::kFilters] = mix::filters_of(whole, 1, outputs, DYNDEPLOY_FLOAT32, mixed);
    inputs[drconv::kGuide] = mix::samples_of(from[mix::kGuide], n, 1);
    inputs[drconv::kB] = outputs_of(from[mix::kB], 0, first, outputs);
  }

 private:
  static dyndeploy_tensor outputs_of(dyndeploy_tensor tensor, int axis, int64_t first, int64_t outputs) {
    tensor.extents[axis] = outputs;
    if (tensor.data && first > 0)
      tensor.data = static_cast<char*>(tensor.data) +
                    first * tensor.strides[axis] * (tensor.dtype == DYNDEPLOY_FLOAT32 ? 4 : 2);
    return tensor;
  }
};

Buffers lay_out(const mix::Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                const dyndeploy_resources* resources, Workspace& workspace) {
  const drconv::Problem& convolution = problem.convolution;
  const int64_t of_output = convolution.regions * convolution.depth();
  const int64_t fit = kMixedBytes / static_cast<int64_t>(sizeof(float)) / std::max<int64_t>(of_output, 1);
  Buffers b{};
  const bool many = convolution.pixels() >= kManyPixels * convolution.regions;
  b.outputs = many ? convolution.O : std::min(convolution.O, std::max(fit / kOutputs, int64_t{1}) * kOutputs);
  b.share = workspace.take<float>(convolution.regions * problem.bases);
  b.mixed = workspace.take<float>(b.outputs * of_output);
  const int64_t lanes = lanes_for(resources, int64_t{1} << 31);
  b.rows = workspace.take<const float*>(lanes * problem.bases);
  if (!dense_floats(inputs[mix::kBanks])) b.copies = workspace.take<float>(lanes * problem.bases * kDepth);
  const int64_t rest = b.outputs ? convolution.O % b.outputs : 0;
  for (const int64_t outputs : {b.outputs, rest}) {
    const Part part(problem, inputs, Y, 0, 0, outputs, nullptr);
    b.convolution_bytes =
        std::max(b.convolution_bytes, drconv_forward_workspace(part.problem, part.inputs, part.Y, resources));
  }
  b.convolution = workspace.take<char>(static_cast<int64_t>(b.convolution_bytes));
  return b;
}

template <class T>
class ForwardMix {
 public:
  ForwardMix(const mix::Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
             const dyndeploy_resources* resources)
      : problem_(problem),
        inputs_(inputs),
        Y_(Y),
        resources_(resources),
        workspace_(resources->workspace),
        b_(lay_out(problem, inputs, Y, resources, workspace_)) {}

  void run() const {
    dyndeploy_resources of_convolution = *resources_;
    of_convolution.workspace = b_.convolution;
    of_convolution.workspace_bytes = b_.convolution_bytes;
    const int64_t O = problem_.convolution.O;
    for (int64_t n = 0; n < problem_.convolution.N; ++n) {
      read_share(n);
      for (int64_t first = 0; first < O; first += b_.outputs) {
        const int64_t outputs = std::min(b_.outputs, O - first);
        mix_outputs(first, outputs);
        const Part part(problem_, inputs_, Y_, n, first, outputs, b_.mixed);
        drconv_forward(part.problem, part.inputs, part.Y, &of_convolution);
      }
    }
  }

 private:
  void read_share(int64_t n) const {
    const dyndeploy_tensor& share = inputs_[mix::kShare];
    const int64_t regions = problem_.convolution.regions, bases = problem_.bases;
    const T* from = static_cast<const T*>(share.data) + stride(share, 0) * n;
    for (int64_t r = 0; r < regions; ++r)
      for (int64_t j = 0; j < bases; ++j)
        b_.share[r * bases + j] = to_float(from[r * stride(share, 1) + j * stride(share, 2)]);
  }

  void mix_outputs(int64_t first, int64_t outputs) const {
    const int64_t pieces = (problem_.convolution.depth() + kDepth - 1) / kDepth;
    auto task = [&](int lane, int64_t index) {
      mix_row(lane, first + index / pieces, index / pieces, outputs, index % pieces * kDepth);
    };
    for_each_task(resources_, outputs * pieces, task);
  }

  // Some of the depth of output o, the i-th of those that are mixed, in all regions.
  void mix_row(int lane, int64_t o, int64_t i, int64_t outputs, int64_t begin) const {
    const drconv::Problem& convolution = problem_.convolution;
    const dyndeploy_tensor& banks = inputs_[mix::kBanks];
    const int64_t bases = problem_.bases, ld = outputs * convolution.depth();
    const int64_t depth = std::min(kDepth, convolution.depth() - begin), step = stride(banks, 1);
    const float** rows = b_.rows + lane * bases;
    for (int64_t j = 0; j < bases; ++j) {
      const T* from = static_cast<const T*>(banks.data) + (j * convolution.O + o) * stride(banks, 0) + begin * step;
      if (!b_.copies) {
        rows[j] = reinterpret_cast<const float*>(from);
        continue;
      }
      float* copy = b_.copies + (lane * bases + j) * kDepth;
      for (int64_t d = 0; d < depth; ++d) copy[d] = to_float(from[d * step]);
      rows[j] = copy;
    }
    for (int64_t r = 0; r < convolution.regions; r += kRegions) {
      const Mix mix = mix_function(std::min(kRegions, convolution.regions - r), std::make_integer_sequence<int, kRegions>{});
      mix(depth, bases, rows, b_.share + r * bases, b_.mixed + r * ld + i * convolution.depth() + begin, ld);
    }
  }

  static int64_t stride(const dyndeploy_tensor& tensor, int axis) {
    return tensor.extents[axis] > 1 ? tensor.strides[axis] : 0;
  }

  const mix::Problem& problem_;
  const dyndeploy_tensor* inputs_;
  const dyndeploy_tensor& Y_;
  const dyndeploy_resources* resources_;
  Workspace workspace_;
  const Buffers b_;
};

}  // namespace

uint64_t drconv_forward_mix_workspace(const mix::Problem& problem, const dyndeploy_tensor* inputs,
                                      const dyndeploy_tensor& Y, const dyndeploy_resources* resources) {
  Workspace workspace;
  lay_out(problem, inputs, Y, resources, workspace);
  return workspace.bytes();
}

void drconv_forward_mix(const mix::Problem& problem, const dyndeploy_tensor* inputs, const dyndeploy_tensor& Y,
                        const dyndeploy_resources* resources) {
  if (elements(Y) == 0) return;
  with_type(problem.convolution.dtype, [&](auto type) { ForwardMix<decltype(type)>(problem, inputs, Y, resources).run(); });
}

}  // namespace dyndeploy::DYNDEPLOY_ISA

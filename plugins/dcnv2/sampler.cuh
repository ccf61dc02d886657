// The rows of the product: what a deformable convolution samples for a tile of output pixels, stage by stage of depth.
//
//   locate   per (pixel of the tile, tap of the block of taps), for one offset group: reads offset_mask, and keeps in shared
//            memory where the four neighbours lie, how far the point is behind the first one, and the mask
//   load     a thread has one vector of depth (tap, channels) of some pixels: up to four loads of sixteen bytes each
//   store    the weighted sum of the four in float, rounded once to the storage type, goes to the stage
//
//            at ──────> .           The first neighbour may lie outside of the map, by one pixel. One that does is not
//       row_h │   x                 read: it counts 0, whatever its weight, so that a NaN or an infinity of another pixel
//             v                     cannot come in.
//             .         .
//                 row_w
//
// Cost per stage and pixel: four times 64 bytes of X, from the first cache where points of neighbouring pixels lie close
// together, and 4 x 137 instructions of a lane: of a vector of halves 68 are its arithmetic (32 conversions, 32
// multiply-adds, 4 packings), the rest addresses, weights and the copies of zeros (counted in sm_90 code).
#pragma once

#include "dcnv2/depth.cuh"

namespace dyndeploy::dcnv2 {

struct Sampling {
  const cuda::Sixteen* x;   // channels last
  int row_n, row_h, row_w;  // strides in sixteen bytes
  const void* offset_mask;
  int64_t n, c, h, w;  // strides in elements
  int H, W;            // of X
  int pixels, width;   // of a sample of the output, of its rows
  int rows;            // pixels of all samples
  int kw, stride_h, stride_w, top, left, dilation_h, dilation_w;
  int points;  // offset groups times taps
  int units_of_offset_group;
  bool sigmoid;
  float mask_scale;
};

// Offsets beyond this are those of nobody; checks on the host keep coordinates without them far below.
inline constexpr float kMostOffset = 0x1p30f;

// A sampling point. The two highest bits of dy and dx, free in a float from 0 to 1, say which neighbours exist.
struct alignas(16) Point {
  int at;       // the first neighbour, in sixteen bytes from X
  uint32_t dy;  // fraction | upper row exists << 31 | lower row exists << 30
  uint32_t dx;  // fraction | left column exists << 31 | right column exists << 30
  float mask;
};
inline constexpr uint32_t kFirstExists = 1u << 31, kSecondExists = 1u << 30, kFraction = kSecondExists - 1;

// A pixel of the tile.
struct Pixel {
  int64_t offset_mask;  // where its offsets begin, in elements
  int h, v;             // where its window begins
  int sample;           // of X, in sixteen bytes; -1: there is no such pixel
};

template <class Tile>
struct SamplerShared {
  Point points[kBlockTaps * Tile::kRows];
  Pixel pixels[Tile::kRows];
};

// Rows of multiply() in gemm.cuh.
template <class T, class Tile>
class Sampler {
 public:
  // For rows `row`, … of the product of `group`, from `stage` on.
  __device__ __forceinline__ Sampler(const Sampling& sampling, const DepthOrder& order, SamplerShared<Tile>& shared,
                                     int row, int group, int stage)
      : s_(sampling), order_(order), shared_(shared), group_(group), position_(order, stage, place()) {
    for (int r = static_cast<int>(threadIdx.x); r < Tile::kRows; r += Tile::kThreads) {
      Pixel pixel{0, 0, 0, -1};
      if (row + r < s_.rows) {
        const int n = (row + r) / s_.pixels, of_sample = row + r - n * s_.pixels;
        const int i = of_sample / s_.width, j = of_sample - i * s_.width;
        pixel = {n * s_.n + i * s_.h + j * s_.w, i * s_.stride_h - s_.top, j * s_.stride_w - s_.left, n * s_.row_n};
      }
      shared_.pixels[r] = pixel;
    }
    __syncthreads();
  }

  __device__ __forceinline__ void load() {
    if (begins_) {
      locate();
      __syncthreads();
      begins_ = false;
    }
    const bool exists = position_.vector < order_.unit_vectors;
    const int channels = (group_ * order_.units + position_.unit) * order_.unit_vectors + position_.vector;
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      const Point point = shared_.points[point_of(task)];
      const cuda::Sixteen* at = s_.x + point.at + channels;
      const bool up = exists && point.dy & kFirstExists, down = exists && point.dy & kSecondExists;
      const bool left = point.dx & kFirstExists, right = point.dx & kSecondExists;
      neighbours_[task][0] = load_if(up && left, at);
      neighbours_[task][1] = load_if(up && right, at + s_.row_w);
      neighbours_[task][2] = load_if(down && left, at + s_.row_h);
      neighbours_[task][3] = load_if(down && right, at + s_.row_h + s_.row_w);
    }
  }

  __device__ __forceinline__ void store(cuda::Sixteen* a) {
    const bool exists = position_.vector < order_.unit_vectors;
#pragma unroll
    for (int task = 0; task < kTasks; ++task) {
      const Point point = shared_.points[point_of(task)];
      a[cuda::place(row_of(task), place())] = interpolate(point, neighbours_[task], exists);
    }
    begins_ = position_.advance(order_, place());
  }

 private:
  static constexpr int kPixelsAtOnce = Tile::kThreads / cuda::kStageVectors;
  static constexpr int kTasks = Tile::kRows / kPixelsAtOnce;
  static_assert(kTasks * kPixelsAtOnce == Tile::kRows);

  static __device__ __forceinline__ int place() { return static_cast<int>(threadIdx.x) % cuda::kStageVectors; }
  static __device__ __forceinline__ int row_of(int task) {
    return static_cast<int>(threadIdx.x) / cuda::kStageVectors + task * kPixelsAtOnce;
  }
  __device__ __forceinline__ int point_of(int task) const { return position_.tap * Tile::kRows + row_of(task); }

  static __device__ __forceinline__ cuda::Sixteen load_if(bool there, const cuda::Sixteen* at) {
    cuda::Sixteen v{};
    if (there) v = cuda::load_sixteen(at);
    return v;
  }

  static __device__ __forceinline__ cuda::Sixteen interpolate(const Point& point, const cuda::Sixteen (&from)[4],
                                                              bool exists) {
    constexpr int kWide = cuda::kPerSixteen<T>;
    const float dy = __uint_as_float(point.dy & kFraction), dx = __uint_as_float(point.dx & kFraction);
    const float upper = (1.0f - dy) * point.mask, lower = dy * point.mask;
    const float weights[4] = {upper * (1.0f - dx), upper * dx, lower * (1.0f - dx), lower * dx};
    float sums[kWide];
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      float values[kWide];
      cuda::unpack<T>(from[corner], values);
#pragma unroll
      for (int i = 0; i < kWide; ++i)
        sums[i] = corner == 0 ? weights[0] * values[i] : fmaf(weights[corner], values[i], sums[i]);
    }
    // A mask that is not finite times nothing would be NaN.
    return exists ? cuda::pack<T>(sums) : cuda::Sixteen{};
  }

  // The points of the position's block of taps. Of the block before, all threads have stored the last stage: a barrier of
  // multiply() is between.
  __device__ __forceinline__ void locate() {
    constexpr int kAtOnce = 3;  // so that nine loads are under way
    const int taps = position_.taps, count = taps * Tile::kRows;
    const int unit = group_ * order_.units + position_.unit;
    const int first = unit / s_.units_of_offset_group * order_.taps + position_.block * order_.block_taps;
    const T* offset_mask = static_cast<const T*>(s_.offset_mask);
    // Neighbouring threads read neighbouring elements: channels or pixels.
    const bool taps_first = s_.c == 1;
#pragma unroll 1
    for (int begin = static_cast<int>(threadIdx.x); begin < count; begin += kAtOnce * Tile::kThreads) {
      int slot[kAtOnce];  // of points[]; -1: none
      T y[kAtOnce], x[kAtOnce], mask[kAtOnce];  // converted below, or a thread would wait for each
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int index = begin + k * Tile::kThreads;
        slot[k] = index >= count ? -1 : taps_first ? index % taps * Tile::kRows + index / taps : index;
        y[k] = x[k] = mask[k] = T{};
        if (slot[k] < 0) continue;
        const Pixel& pixel = shared_.pixels[slot[k] % Tile::kRows];
        if (pixel.sample < 0) continue;
        const T* from = offset_mask + pixel.offset_mask + (first + slot[k] / Tile::kRows) * s_.c;
        const T* from_mask = from + 2 * s_.points * s_.c;
        from += (first + slot[k] / Tile::kRows) * s_.c;
        y[k] = from[0];
        x[k] = from[s_.c];
        mask[k] = *from_mask;
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k)
        if (slot[k] >= 0)
          shared_.points[slot[k]] =
              point_at(shared_.pixels[slot[k] % Tile::kRows],
                       position_.block * order_.block_taps + slot[k] / Tile::kRows, cuda::to_float(y[k]),
                       cuda::to_float(x[k]), cuda::to_float(mask[k]));
    }
  }

  // Whole pixels are added up as integers, so that on large maps, too, the fraction is as exact as the offset.
  __device__ __forceinline__ Point point_at(const Pixel& pixel, int tap, float y, float x, float mask) const {
    if (pixel.sample < 0) return {0, 0, 0, 0.0f};
    if (s_.sigmoid) mask = 1.0f / (1.0f + expf(-mask));
    mask *= s_.mask_scale;
    // False for NaN.
    if (!(fabsf(y) < kMostOffset && fabsf(x) < kMostOffset)) return {0, 0, 0, mask};
    const float whole_y = floorf(y), whole_x = floorf(x);
    const int down = tap / s_.kw, right = tap - down * s_.kw;
    const int h = pixel.h + down * s_.dilation_h + static_cast<int>(whole_y);
    const int v = pixel.v + right * s_.dilation_w + static_cast<int>(whole_x);
    if (h < -1 || h >= s_.H || v < -1 || v >= s_.W) return {0, 0, 0, mask};
    uint32_t dy = __float_as_uint(y - whole_y), dx = __float_as_uint(x - whole_x);
    if (h >= 0) dy |= kFirstExists;
    if (h + 1 < s_.H) dy |= kSecondExists;
    if (v >= 0) dx |= kFirstExists;
    if (v + 1 < s_.W) dx |= kSecondExists;
    return {pixel.sample + h * s_.row_h + v * s_.row_w, dy, dx, mask};
  }

  const Sampling& s_;
  const DepthOrder& order_;
  SamplerShared<Tile>& shared_;
  const int group_;
  DepthPosition position_;
  bool begins_ = true;
  cuda::Sixteen neighbours_[kTasks][4];
};

}  // namespace dyndeploy::dcnv2

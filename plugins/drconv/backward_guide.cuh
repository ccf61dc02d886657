// Dynamic region-aware convolution, the gradient of the guide: as if the choice were soft.
//
//   g[t] = <gradient of Y, filters[t] * window> per pixel, of all regions t
//   share[t] * (g[t] - sum over s of share[s] * g[s]), share = softmax of the logits
//
//   respond   the forward's product of all pixels, in the order of the map, with the filters of every region; its tile is
//             multiplied with the gradient of Y as it leaves the registers, and only g is stored, a number per tile of outputs,
//             region and pixel
//   soften    the tiles' numbers added up in order, the softmax, the gradient
//
// Cost: `regions` times the products of a convolution.
#pragma once

#include "drconv/backward_x.cuh"

namespace dyndeploy::drconv {

struct Response {
  cuda::WindowMap map;
  const cuda::Sixteen* x;
  int vectors, taps;  // of a pixel's channels
  Filters filters;
  GradientMap of_y;
  int regions, outputs, column_tiles;
  int pixels, width, pixel_tiles;
  float* g;  // [sample][column tile][region][pixel]
};

// Blocks: [sample][region][column tile][pixel tile].
template <class T, class Shape, class Product>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks) respond(const Response p) {
  int index = static_cast<int>(blockIdx.x);
  const int first = index % p.pixel_tiles * Shape::kRows;
  index /= p.pixel_tiles;
  const int column_tile = index % p.column_tiles, column = column_tile * Shape::kColumns;
  index /= p.column_tiles;
  const int n = index / p.regions, region = index - n * p.regions;
  auto& shared = cuda::shared_memory<cuda::GemmShared<Shape>>();

  Product product;
  const int stages = p.taps * cuda::Windows<T, Shape>::stages_of_tap(p.vectors);
  if (stages > 0) {
    const FilterColumns<Shape> filters(p.filters, index, p.outputs, column, stages);
    cuda::Windows<T, Shape> windows(p.map, p.x + n * p.map.n, p.vectors, [&](int r, int& i, int& j) {
      if (first + r >= p.pixels) return false;
      i = (first + r) / p.width;
      j = first + r - i * p.width;
      return true;
    });
    cuda::multiply<Shape>(shared, product, windows, filters, 0, stages);
  }

  // A few threads have every second vector, or so, of a row.
  constexpr int kWide = cuda::kPerSixteen<T>, kOfRow = Shape::kThreads / Shape::kRows;
  static_assert(kOfRow == 2);
  const int row = static_cast<int>(threadIdx.x) / kOfRow, own = static_cast<int>(threadIdx.x) % kOfRow;
  const int pixel = first + row, i = pixel / p.width, j = pixel - i * p.width;
  const cuda::Sixteen* y = p.of_y.data + n * p.of_y.map.n + i * p.of_y.map.row_h + j * p.of_y.map.row_w;
  float sum = 0.0f;
  cuda::store_sums<Shape>(shared, product, [&](int begin, const float* slab) {
    if (pixel >= p.pixels) return;
#pragma unroll
    for (int v = own; v < cuda::kSlabColumns / kWide; v += kOfRow) {
      const int vector = (column + begin) / kWide + v;
      if (vector >= p.of_y.vectors) continue;
      float of_y[kWide];
      cuda::unpack<T>(cuda::load_sixteen(y + vector), of_y);
#pragma unroll
      for (int k = 0; k < kWide; ++k) sum = fmaf(slab[row * cuda::kSlabPitch + v * kWide + k], of_y[k], sum);
    }
  });
  sum += __shfl_xor_sync(~0u, sum, 1);
  if (own == 0 && pixel < p.pixels)
    p.g[((static_cast<int64_t>(n) * p.column_tiles + column_tile) * p.regions + region) * p.pixels + pixel] = sum;
}

struct Softening {
  const void* guide;
  int64_t n, c, h, w;  // strides in elements
  Target to;
  const float* g;
  int column_tiles, regions;
  int pixels, width, rows;  // rows: pixels of all samples
};

inline constexpr int kSoftenThreads = 128;

// A thread: one pixel.
template <class T>
__global__ void __launch_bounds__(kSoftenThreads) soften(const Softening p) {
  const int row = static_cast<int>(blockIdx.x) * kSoftenThreads + static_cast<int>(threadIdx.x);
  if (row >= p.rows) return;
  const int n = row / p.pixels, pixel = row - n * p.pixels, i = pixel / p.width, j = pixel - i * p.width;
  const T* logits = static_cast<const T*>(p.guide) + n * p.n + i * p.h + j * p.w;
  T* to = static_cast<T*>(p.to.data) + n * p.to.n + i * p.to.h + j * p.to.w;
  const int64_t tile = static_cast<int64_t>(p.regions) * p.pixels;
  const float* g = p.g + n * p.column_tiles * tile + pixel;
  const auto g_of = [&](int region) {
    float sum = 0.0f;
    for (int k = 0; k < p.column_tiles; ++k) sum += g[k * tile + static_cast<int64_t>(region) * p.pixels];
    return sum;
  };
  float most = -INFINITY, all = 0.0f, mean = 0.0f;
  for (int t = 0; t < p.regions; ++t) most = fmaxf(most, cuda::to_float(logits[t * p.c]));
  for (int t = 0; t < p.regions; ++t) {
    const float size = expf(cuda::to_float(logits[t * p.c]) - most);
    all += size;
    mean = fmaf(size, g_of(t), mean);
  }
  mean /= all;
  for (int t = 0; t < p.regions; ++t) {
    const float share = expf(cuda::to_float(logits[t * p.c]) - most) / all;
    to[t * p.to.c] = cuda::from_float<T>(share * (g_of(t) - mean));
  }
}

}  // namespace dyndeploy::drconv

// The pixels of every sample sorted by region: argmax of the guide per pixel, then a counting sort of each sample's pixels,
// which keeps the order of the map within a region.
#pragma once

#include <algorithm>
#include <cmath>

#include "common/cpu/layout.h"
#include "drconv/problem.h"

namespace dyndeploy::DYNDEPLOY_ISA {

// The regions of `count` <= kArgmax pixels from (h, w) to the right.
inline constexpr int64_t kArgmax = 64;

template <class T>
void argmax(const Map<const T>& guide, int64_t n, int64_t h, int64_t w, int64_t count, int64_t regions,
            int32_t* region) {
  constexpr int64_t kSome = 16;
  float best[kArgmax], logits[kSome * kArgmax];
  std::fill(best, best + count, -INFINITY);
  std::fill(region, region + count, 0);
  for (int64_t begin = 0; begin < regions; begin += kSome) {
    const int64_t some = std::min(kSome, regions - begin);
    const T* from = guide.at(n, begin, h, w);
    if (sizeof(T) == sizeof(float) && guide.c == 1)
      transpose(count, some, reinterpret_cast<const float*>(from), guide.w, logits, kArgmax);
    else
      for (int64_t r = 0; r < some; ++r)
        for (int64_t i = 0; i < count; ++i) logits[r * kArgmax + i] = to_float(from[r * guide.c + i * guide.w]);
    for (int64_t r = 0; r < some; ++r)
      for (int64_t i = 0; i < count; ++i) {
        const float logit = logits[r * kArgmax + i];
        // Greater, or the first NaN.
        const bool wins = !(logit <= best[i]) & (best[i] == best[i]);
        best[i] = wins ? logit : best[i];
        region[i] = wins ? static_cast<int32_t>(begin + r) : region[i];
      }
  }
}

// Its steps: count() of every piece, place(), sort() of every piece. Each before the next.
class PixelSort {
 public:
  // Pixels of a piece.
  static constexpr int64_t kPiece = 1024;

  PixelSort(const drconv::Problem& problem, Workspace& workspace)
      : samples_(problem.N),
        pixels_(problem.pixels()),
        regions_(problem.regions),
        width_(problem.window.Wo),
        pieces_((pixels_ + kPiece - 1) / kPiece),
        region_(workspace.take<int32_t>(samples_ * pixels_)),
        sorted_(workspace.take<int32_t>(samples_ * pixels_)),
        starts_(workspace.take<int32_t>(samples_ * pieces_ * regions_)),
        bounds_(workspace.take<int32_t>(samples_ * (regions_ + 1))) {}

  int64_t pieces() const { return pieces_; }
  int64_t begin_of(int64_t piece) const { return piece * kPiece; }
  int64_t end_of(int64_t piece) const { return std::min(pixels_, (piece + 1) * kPiece); }

  // The regions of a piece's pixels, and how many lie in each.
  template <class T>
  void count(const Map<const T>& guide, int64_t n, int64_t piece) const {
    int32_t* counts = starts(n, piece);
    std::fill(counts, counts + regions_, 0);
    for (int64_t begin = begin_of(piece), end = end_of(piece), run; begin < end; begin += run) {
      run = std::min(kArgmax, guide.run(width_, begin, end));
      int32_t* region = region_ + n * pixels_ + begin;
      argmax(guide, n, begin / width_, begin % width_, run, regions_, region);
      for (int64_t i = 0; i < run; ++i) ++counts[region[i]];
    }
  }

  // Counts become the places where a piece's pixels go. One lane is quick enough.
  void place() const {
    for (int64_t n = 0; n < samples_; ++n) {
      int32_t* bounds = bounds_ + n * (regions_ + 1);
      int32_t end = 0;
      for (int64_t region = 0; region < regions_; ++region) {
        bounds[region] = end;
        for (int64_t piece = 0; piece < pieces_; ++piece) {
          int32_t& start = starts(n, piece)[region];
          const int32_t count = start;
          start = end;
          end += count;
        }
      }
      bounds[regions_] = end;
    }
  }

  // Every pixel of a piece to its place: call(pixel, place).
  template <class Call>
  void sort(int64_t n, int64_t piece, Call call) const {
    const int32_t* region = region_ + n * pixels_;
    int32_t* sorted = sorted_ + n * pixels_;
    int32_t* start = starts(n, piece);
    for (int64_t i = begin_of(piece); i < end_of(piece); ++i) {
      const int32_t place = start[region[i]]++;
      sorted[place] = static_cast<int32_t>(i);
      call(i, place);
    }
  }

  const int32_t* sorted(int64_t n) const { return sorted_ + n * pixels_; }
  // Of a region's pixels among the sorted ones.
  int64_t begin(int64_t n, int64_t region) const { return bounds_[n * (regions_ + 1) + region]; }
  int64_t end(int64_t n, int64_t region) const { return begin(n, region + 1); }

 private:
  int32_t* starts(int64_t n, int64_t piece) const { return starts_ + (n * pieces_ + piece) * regions_; }

  int64_t samples_, pixels_, regions_, width_, pieces_;
  int32_t* region_;  // of every pixel
  int32_t* sorted_;  // pixels of a sample by region
  int32_t* starts_;  // [N][pieces][regions]: pixels of a region in a piece; then where they go
  int32_t* bounds_;  // [N][regions + 1]
};

}  // namespace dyndeploy::DYNDEPLOY_ISA

// The kernels by name: for launches, reports and tests.
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>

#include "ddf/channels_last.cuh"
#include "ddf/general.cuh"
#include "ddf/planar.cuh"

namespace dyndeploy::cuda::ddf {

template <size_t Size>
struct Text {
  char text[Size];
  constexpr Text(const char (&from)[Size]) { std::copy_n(from, Size, text); }
};
template <class T>
inline constexpr Text kType = "bfloat16";
template <>
inline constexpr Text kType<float> = "float32";
template <>
inline constexpr Text kType<float16> = "float16";

// "ddf `Kernel` `T`".
template <Text Kernel, class T>
inline constexpr auto kName = [] {
  std::array<char, sizeof "ddf " + sizeof Kernel.text + sizeof kType<T>.text - 1> name{};
  char* to = std::copy_n("ddf ", 4, name.data());
  to = std::copy_n(Kernel.text, sizeof Kernel.text - 1, to);
  *to++ = ' ';
  std::copy_n(kType<T>.text, sizeof kType<T>.text, to);
  return name;
}();

template <Text Kernel, class T>
dyndeploy_cuda_kernel known(const void* function, int threads, size_t shared_bytes, int blocks) {
  return {kName<Kernel, T>.data(), function, threads, static_cast<int32_t>(shared_bytes), blocks};
}

// All kernels of a type, with the most threads that they are launched with.
template <class T>
auto kernels_of() {
  using Last = ChannelsLastTile;
  const auto channels_last = [](auto kernel, auto group) {
    return known<"filter_channels_last", T>(reinterpret_cast<const void*>(kernel), Last::kThreads,
                                            sizeof(ChannelsLastShared<group>), Last::blocks(group));
  };
  const auto planar = [](auto kernel, int scale) {
    return known<"filter_planar", T>(reinterpret_cast<const void*>(kernel), PlanarTile::kThreads, sizeof(PlanarShared),
                                     PlanarTile::blocks(scale));
  };
  const auto general = [](auto kernel) {
    return known<"filter_general", T>(reinterpret_cast<const void*>(kernel), GeneralTile::kThreads,
                                      sizeof(GeneralShared), GeneralTile::kBlocks);
  };
  constexpr std::integral_constant<int, 1> kOne;
  constexpr std::integral_constant<int, 2> kTwo;
  return std::array{known<"make_channel_filters", T>(reinterpret_cast<const void*>(make_channel_filters<T>),
                                                     kChannelFilterThreads, 0, 1),
                    channels_last(filter_channels_last<T, false, 1>, kOne),
                    channels_last(filter_channels_last<T, true, 1>, kOne),
                    channels_last(filter_channels_last<T, false, 2>, kTwo),
                    channels_last(filter_channels_last<T, true, 2>, kTwo),
                    planar(filter_planar<T, false, 1>, 1),
                    planar(filter_planar<T, true, 1>, 1),
                    planar(filter_planar<T, false, 2>, 2),
                    planar(filter_planar<T, true, 2>, 2),
                    general(filter_general<T, kPerSixteen<T>>),
                    general(filter_general<T, 1>)};
}

}  // namespace dyndeploy::cuda::ddf

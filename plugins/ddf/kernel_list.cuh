// The kernels of the forward by name: for launches, reports and tests.
#pragma once

#include <array>
#include <type_traits>

#include "ddf/channels_last.cuh"
#include "ddf/general.cuh"
#include "ddf/names.cuh"
#include "ddf/planar.cuh"

namespace dyndeploy::cuda::ddf {

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
                                                     kChannelFilterThreads, 0, kChannelFilterBlocks),
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

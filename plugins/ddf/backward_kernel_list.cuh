// The kernels of the gradients by name: for reports and tests.
#pragma once

#include <vector>

#include "ddf/gather_x.cuh"
#include "ddf/names.cuh"
#include "ddf/norm_gradients.cuh"
#include "ddf/reduce_3x3.cuh"

namespace dyndeploy::cuda::ddf {

// Those of a type.
template <class T>
void add_backward_kernels(std::vector<dyndeploy_cuda_kernel>& all) {
  const auto add = [&]<Text Kernel>(auto kernel, int threads, size_t shared_bytes, int blocks) {
    all.push_back(known<Kernel, T>(reinterpret_cast<const void*>(kernel), threads, shared_bytes, blocks));
  };
  constexpr int kThreads = Lanes::kThreads;
  add.template operator()<"gather_x">(gather_x<T, true>, kThreads, 0, GatherX<T>::kBlocks);
  add.template operator()<"gather_x">(gather_x<T, false>, kThreads, 0, GatherX<T>::kBlocks);
  add.template operator()<"reduce_pixels">(reduce_pixels<T, true>, kThreads, sizeof(ReducePixelsShared<T, true>),
                                           ReducePixels<T>::kBlocks);
  add.template operator()<"reduce_pixels">(reduce_pixels<T, false>, kThreads, sizeof(ReducePixelsShared<T, false>),
                                           ReducePixels<T>::kBlocks);
  add.template operator()<"reduce_channels">(reduce_channels<T, true>, kThreads, sizeof(ReduceChannelsShared),
                                             ReduceChannels<T>::kBlocks);
  add.template operator()<"reduce_channels">(reduce_channels<T, false>, kThreads, sizeof(ReduceChannelsShared),
                                             ReduceChannels<T>::kBlocks);
  add.template operator()<"reduce_pixels_3x3">(reduce_pixels_3x3<T, true>, kThreads,
                                               sizeof(ReducePixelsShared<T, true>), PixelStrip<T, true>::kBlocks);
  add.template operator()<"reduce_pixels_3x3">(reduce_pixels_3x3<T, false>, kThreads,
                                               sizeof(ReducePixelsShared<T, false>), PixelStrip<T, false>::kBlocks);
  add.template operator()<"reduce_channels_3x3">(reduce_channels_3x3<T, true>, kThreads, sizeof(ReduceChannelsShared),
                                                 ChannelStrip<T, true>::kBlocks);
  add.template operator()<"reduce_channels_3x3">(reduce_channels_3x3<T, false>, kThreads, sizeof(ReduceChannelsShared),
                                                 ChannelStrip<T, false>::kBlocks);
  add.template operator()<"make_spatial_filters">(make_spatial_filters<T>, kNormThreads, 0, kNormBlocks);
  add.template operator()<"finish_spatial_filters">(finish_spatial_filters<T>, kNormThreads, 0, kNormBlocks);
  add.template operator()<"finish_channel_filters">(finish_channel_filters<T>, kNormThreads, 0, kNormBlocks);
  add.template operator()<"add_gain_gradients">(add_gain_gradients<T>, kNormThreads, 0, kNormBlocks);
}

}  // namespace dyndeploy::cuda::ddf

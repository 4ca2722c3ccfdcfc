// Dense blocks whose input has a number of channels that BLOCK does not divide.
//
// The input is zero-padded to whole blocks; the channels that layers append come after the padding.

#ifndef DENSEFACE_PADDING_H_
#define DENSEFACE_PADDING_H_

#include <algorithm>
#include <utility>
#include <vector>

#include "layer.h"
#include "vectors.h"

namespace {

class Padding {
 public:
  Padding(int channels, int bottleneck, int growth)
      : input_(channels), gap_((BLOCK - channels % BLOCK) % BLOCK), bottleneck_(bottleneck), growth_(growth) {}

  // Channels of the padded input.
  int channels() const { return input_ + gap_; }

  // Copies of the layers whose parameters are zero-padded like the input; the layers themselves if nothing is padded.
  std::vector<Layer> padded(const std::vector<Layer>& layers) {
    if (gap_ == 0) return layers;
    std::vector<Layer> copies(layers);
    values_.resize(layers.size());
    for (size_t l = 0; l < layers.size(); ++l) {
      const Layer& from = layers[l];
      Layer& to = copies[l];
      int channels = input_ + int(l) * growth_, width = channels + gap_;
      float* next = values_[l].get(size_t(width) * (8 + 2 * bottleneck_));
      auto allocate = [&](int rows) { return std::exchange(next, next + long(rows) * width); };
      auto copy = [&](const float* values, int rows) { return widen(values, rows, channels, allocate(rows)); };
      copy_norm(from.norm1, &to.norm1, copy);
      to.norm1.gamma_grad = allocate(1), to.norm1.beta_grad = allocate(1);
      if (from.norm1.slopes > 1) to.norm1.slope_grad = allocate(1);
      to.weight1 = copy(from.weight1, bottleneck_), to.weight1_grad = allocate(bottleneck_);
    }
    return copies;
  }

  // A copy of the transition after some layers that is zero-padded like the input, and to whole blocks of outputs. It
  // has no room for gradients.
  Transition padded(const Transition& from, int layers, int outputs) {
    int channels = input_ + layers * growth_, width = channels + gap_, rows = (outputs + BLOCK - 1) / BLOCK * BLOCK;
    float* next = after_.get(size_t(width) * (5 + rows));
    auto copy = [&](const float* values, int count) {
      return widen(values, count, channels, std::exchange(next, next + long(count) * width));
    };
    Transition to(from);
    copy_norm(from.norm, &to.norm, copy);
    to.weight = copy(from.weight, outputs);
    std::fill_n(next, long(rows - outputs) * width, 0.0f);
    return to;
  }

  void write_moving_averages(const std::vector<Layer>& copies, const std::vector<Layer>& layers) const {
    write(copies, layers, [](const Layer& layer) { return layer.norm1.moving_mean; }, 1);
    write(copies, layers, [](const Layer& layer) { return layer.norm1.moving_variance; }, 1);
  }

  void write_gradients(const std::vector<Layer>& copies, const std::vector<Layer>& layers) const {
    write(copies, layers, [](const Layer& layer) { return layer.norm1.gamma_grad; }, 1);
    write(copies, layers, [](const Layer& layer) { return layer.norm1.beta_grad; }, 1);
    write(copies, layers, [](const Layer& layer) { return layer.norm1.slope_grad; }, 1);
    write(copies, layers, [](const Layer& layer) { return layer.weight1_grad; }, bottleneck_);
  }

 private:
  // Copy rows of channels with the padding.
  float* widen(const float* values, int rows, int channels, float* copied) const {
    for (int r = 0; r < rows; ++r) {
      const float* row = values + long(r) * channels;
      float* appended = std::fill_n(std::copy_n(row, input_, copied + long(r) * (channels + gap_)), gap_, 0.0f);
      std::copy(row + input_, row + channels, appended);
    }
    return copied;
  }

  template <class Copy>
  static void copy_norm(const Norm& from, Norm* to, Copy copy) {
    to->gamma = copy(from.gamma, 1), to->beta = copy(from.beta, 1);
    to->moving_mean = copy(from.moving_mean, 1), to->moving_variance = copy(from.moving_variance, 1);
    if (from.slopes > 1) to->slope = copy(from.slope, 1);
  }

  // Copy one array of every layer back, without the padding. Arrays that were not copied are left alone.
  template <class Array>
  void write(const std::vector<Layer>& copies, const std::vector<Layer>& layers, Array array, int rows) const {
    for (size_t l = 0; l < layers.size(); ++l) {
      const float* from = array(copies[l]);
      float* to = array(layers[l]);
      if (from == to) continue;
      for (int r = 0, channels = input_ + int(l) * growth_; r < rows; ++r, from += channels + gap_, to += channels)
        std::copy(from + input_ + gap_, from + channels + gap_, std::copy_n(from, input_, to));
    }
  }

  int input_, gap_, bottleneck_, growth_;  // channels
  std::vector<Buffer> values_;             // per layer
  Buffer after_;                           // of the transition
};

}  // namespace

#endif  // DENSEFACE_PADDING_H_

// Layers whose input has a number of channels that B does not divide.
//
// The first channels, those of a block's input, are filled up to whole blocks with zeros; what layers add comes behind.

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
      : first_(channels), gap_((B - channels % B) % B), bottleneck_(bottleneck), growth_(growth) {}

  // Of a block's input.
  int channels() const { return first_ + gap_; }

  // Copies of layers with zeros for the channels that are not there.
  std::vector<Layer> spread(const std::vector<Layer>& layers) {
    if (gap_ == 0) return layers;
    std::vector<Layer> copies(layers);
    values_.resize(layers.size());
    for (size_t l = 0; l < layers.size(); ++l) {
      const Layer& from = layers[l];
      Layer& to = copies[l];
      int channels = first_ + int(l) * growth_, width = channels + gap_;
      float* next = values_[l].get(size_t(width) * (8 + 2 * bottleneck_));
      auto space = [&](int rows) { return std::exchange(next, next + long(rows) * width); };
      auto copy = [&](const float* values, int rows) {
        float* made = space(rows);
        for (int r = 0; r < rows; ++r) {
          const float* row = values + long(r) * channels;
          float* rest = std::fill_n(std::copy_n(row, first_, made + long(r) * width), gap_, 0.0f);
          std::copy(row + first_, row + channels, rest);
        }
        return made;
      };
      to.norm1.gamma = copy(from.norm1.gamma, 1), to.norm1.beta = copy(from.norm1.beta, 1);
      to.norm1.moving_mean = copy(from.norm1.moving_mean, 1);
      to.norm1.moving_variance = copy(from.norm1.moving_variance, 1);
      to.norm1.gamma_grad = space(1), to.norm1.beta_grad = space(1);
      if (from.norm1.slopes > 1) to.norm1.slope = copy(from.norm1.slope, 1), to.norm1.slope_grad = space(1);
      to.weight1 = copy(from.weight1, bottleneck_), to.weight1_grad = space(bottleneck_);
    }
    return copies;
  }

  void give_moving_averages(const std::vector<Layer>& copies, const std::vector<Layer>& layers) const {
    give(copies, layers, [](const Layer& layer) { return layer.norm1.moving_mean; }, 1);
    give(copies, layers, [](const Layer& layer) { return layer.norm1.moving_variance; }, 1);
  }

  void give_gradients(const std::vector<Layer>& copies, const std::vector<Layer>& layers) const {
    give(copies, layers, [](const Layer& layer) { return layer.norm1.gamma_grad; }, 1);
    give(copies, layers, [](const Layer& layer) { return layer.norm1.beta_grad; }, 1);
    give(copies, layers, [](const Layer& layer) { return layer.norm1.slope_grad; }, 1);
    give(copies, layers, [](const Layer& layer) { return layer.weight1_grad; }, bottleneck_);
  }

 private:
  // What copies of layers hold, without the zeros, where they are copies.
  template <class Array>
  void give(const std::vector<Layer>& copies, const std::vector<Layer>& layers, Array array, int rows) const {
    for (size_t l = 0; l < layers.size(); ++l) {
      const float* from = array(copies[l]);
      float* to = array(layers[l]);
      if (from == to) continue;
      for (int r = 0, channels = first_ + int(l) * growth_; r < rows; ++r, from += channels + gap_, to += channels)
        std::copy(from + first_ + gap_, from + channels + gap_, std::copy_n(from, first_, to));
    }
  }

  int first_, gap_, bottleneck_, growth_;
  std::vector<Buffer> values_;  // by layer
};

}  // namespace

#endif  // DENSEFACE_PADDING_H_

// Dense blocks whose input has a number of channels that BLOCK does not divide.
//
// The input is zero-padded to whole blocks; the channels that layers append come after the padding.

#ifndef DENSEFACE_PADDING_H_
#define DENSEFACE_PADDING_H_

#include <algorithm>
#include <vector>

#include "arena.h"
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
    return carved(&layers_, [&](Arena* arena) {
      std::vector<Layer> copies(layers);
      for (size_t l = 0; l < layers.size(); ++l) {
        int channels = input_ + int(l) * growth_;
        auto copy = [&](const float* values, int rows) { return widened(values, rows, channels, rows, arena); };
        auto take = [&](int rows) { return arena->take<float>(long(rows) * (channels + gap_)); };
        Layer& to = copies[l];
        copy_norm(&to.norm1, copy);
        to.norm1.gamma_grad = take(1), to.norm1.beta_grad = take(1);
        if (to.norm1.slopes > 1) to.norm1.slope_grad = take(1);
        to.weight1 = copy(to.weight1, bottleneck_), to.weight1_grad = take(bottleneck_);
      }
      return copies;
    });
  }

  // A copy of the transition after some layers that is zero-padded like the input, and to whole blocks of outputs. It
  // has no room for gradients.
  Transition padded(const Transition& transition, int layers, int outputs) {
    int channels = input_ + layers * growth_, rows = (outputs + BLOCK - 1) / BLOCK * BLOCK;
    return carved(&transition_, [&](Arena* arena) {
      Transition copied(transition);
      copy_norm(&copied.norm, [&](const float* values, int) { return widened(values, 1, channels, 1, arena); });
      copied.weight = widened(transition.weight, outputs, channels, rows, arena);
      return copied;
    });
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
  // A copy of rows of channels with the padding, and with rows of zeros up to a number of rows.
  float* widened(const float* values, int rows, int channels, int all_rows, Arena* arena) const {
    int width = channels + gap_;
    float* copied = arena->take<float>(long(all_rows) * width);
    if (arena->measures()) return nullptr;
    std::fill_n(copied, long(all_rows) * width, 0.0f);
    for (int r = 0; r < rows; ++r) {
      const float* row = values + long(r) * channels;
      float* to = copied + long(r) * width;
      std::copy(row + input_, row + channels, std::copy_n(row, input_, to) + gap_);
    }
    return copied;
  }

  template <class Copy>
  static void copy_norm(Norm* norm, Copy copy) {
    norm->gamma = copy(norm->gamma, 1), norm->beta = copy(norm->beta, 1);
    norm->moving_mean = copy(norm->moving_mean, 1), norm->moving_variance = copy(norm->moving_variance, 1);
    if (norm->slopes > 1) norm->slope = copy(norm->slope, 1);
  }

  // Copy one array of every layer back, without the padding. Arrays that were not copied are left alone.
  template <class ArrayOf>
  void write(const std::vector<Layer>& copies, const std::vector<Layer>& layers, ArrayOf array, int rows) const {
    for (size_t l = 0; l < layers.size(); ++l) {
      const float* from = array(copies[l]);
      float* to = array(layers[l]);
      if (from == to) continue;
      for (int r = 0, channels = input_ + int(l) * growth_; r < rows; ++r, from += channels + gap_, to += channels)
        std::copy(from + input_ + gap_, from + channels + gap_, std::copy_n(from, input_, to));
    }
  }

  int input_, gap_, bottleneck_, growth_;  // channels
  Array<char> layers_, transition_;        // their parameters
};

}  // namespace

#endif  // DENSEFACE_PADDING_H_

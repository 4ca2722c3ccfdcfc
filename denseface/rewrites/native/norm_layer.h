// A batch normalization in training and the activation after it, outside of dense blocks, as one operator of MXNet. A
// thread computes whole channels, which stay in its cache between the passes over them.

#ifndef DENSEFACE_NORM_LAYER_H_
#define DENSEFACE_NORM_LAYER_H_

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "normalization.h"

namespace {

class NormLayer {
 public:
  enum Activation { NONE, RELU, PRELU };

  NormLayer(int batch, int channels, long pixels, Activation activation, float eps, float momentum)
      : batch_(batch), channels_(channels), pixels_(pixels), activation_(activation), eps_(eps), momentum_(momentum),
        mean_(channels), inverse_(channels) {}

  // in, out: (N, C, H, W). In training the moving averages follow the statistics of the batch.
  void forward(const Norm& norm, const float* in, float* out, bool training) {
#pragma omp parallel for schedule(static)
    for (int c = 0; c < channels_; ++c) {
      float mean = norm.moving_mean[c], variance = norm.moving_variance[c];
      if (training) {
        measure(c, in, &mean, &variance);
        norm.moving_mean[c] = momentum_ * norm.moving_mean[c] + (1 - momentum_) * mean;
        norm.moving_variance[c] = momentum_ * norm.moving_variance[c] + (1 - momentum_) * variance;
      }
      mean_[c] = mean, inverse_[c] = 1 / std::sqrt(variance + eps_);
      float scale = norm.gamma[c] * inverse_[c], shift = norm.beta[c] - mean * scale, slope = slope_of(norm, c);
      for_each_part(c, [=](long first, long end) {
#pragma omp simd
        for (long k = first; k < end; ++k) {
          float value = scale * in[k] + shift;
          out[k] = value > 0 ? value : slope * value;
        }
      });
    }
  }

  // Write the gradients of the input and of the parameters.
  void backward(const Norm& norm, const float* in, const float* out_grad, float* in_grad) const {
    std::vector<double> slopes(channels_);  // their gradients
#pragma omp parallel for schedule(static)
    for (int c = 0; c < channels_; ++c) {
      float mean = mean_[c], scale = norm.gamma[c] * inverse_[c], shift = norm.beta[c] - mean * scale;
      float slope = slope_of(norm, c);
      auto grad_at = [=](long k) {  // of the normalized value
        return scale * in[k] + shift > 0 ? out_grad[k] : slope * out_grad[k];
      };
      double shifts = 0, alongs = 0;
      for_each_part(c, [&](long first, long end) {
        float shift_sum = 0, along = 0, negative = 0;
#pragma omp simd reduction(+ : shift_sum, along, negative)
        for (long k = first; k < end; ++k) {
          float grad = grad_at(k);
          shift_sum += grad;
          along += grad * (in[k] - mean);
          negative += std::min(scale * in[k] + shift, 0.0f) * out_grad[k];
        }
        shifts += shift_sum, alongs += along, slopes[c] += negative;
      });
      norm.beta_grad[c] = float(shifts);
      norm.gamma_grad[c] = float(alongs * inverse_[c]);
      // scale (g - mean(g) - x' mean(g x')), where g is the gradient of the normalized value and x' = (x - mean) inverse
      float factor = float(alongs / count() * inverse_[c] * inverse_[c]), offset = float(shifts / count());
      for_each_part(c, [=](long first, long end) {
#pragma omp simd
        for (long k = first; k < end; ++k)
          in_grad[k] = scale * (grad_at(k) - offset - factor * (in[k] - mean));
      });
    }
    if (norm.slopes == 1)
      norm.slope_grad[0] = float(std::accumulate(slopes.begin(), slopes.end(), 0.0));
    else
      std::copy_n(slopes.begin(), norm.slopes, norm.slope_grad);
  }

 private:
  double count() const { return double(batch_) * pixels_; }  // values per channel

  float slope_of(const Norm& norm, int c) const {
    if (activation_ == PRELU) return norm.slope[norm.slopes == 1 ? 0 : c];
    return activation_ == RELU ? 0 : 1;
  }

  // Mean and variance of a channel. Distances from its first value are squared, so that a large mean costs no digits.
  void measure(int c, const float* in, float* mean, float* variance) const {
    float pivot = in[c * pixels_];
    double sums = 0, squares = 0;
    for_each_part(c, [&](long first, long end) {
      float sum = 0, square = 0;
#pragma omp simd reduction(+ : sum, square)
      for (long k = first; k < end; ++k) {
        float distance = in[k] - pivot;
        sum += distance;
        square += distance * distance;
      }
      sums += sum, squares += square;
    });
    double distance = sums / count();
    *mean = float(pivot + distance);
    *variance = float(std::max(0.0, squares / count() - distance * distance));
  }

  // Call work(first, end) for the values of a channel, so few at a time that single precision suffices for their sums.
  template <class Work>
  void for_each_part(int c, Work work) const {
    for (int n = 0; n < batch_; ++n) {
      long plane = (long(n) * channels_ + c) * pixels_, end = plane + pixels_;
      for (long first = plane; first < end; first += PART) work(first, std::min(first + PART, end));
    }
  }

  static constexpr long PART = 4096;

  int batch_, channels_;
  long pixels_;
  Activation activation_;
  float eps_, momentum_;
  std::vector<float> mean_, inverse_;  // of the last forward pass; inverse_: 1 / standard deviation
};

}  // namespace

#endif  // DENSEFACE_NORM_LAYER_H_

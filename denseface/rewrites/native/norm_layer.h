// A batch normalization in training and the activation after it, outside of dense blocks, as one operator of MXNet. A
// thread computes whole channels, which stay in its cache between the passes over them.

#ifndef DENSEFACE_NORM_LAYER_H_
#define DENSEFACE_NORM_LAYER_H_

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "bfloat16.h"
#include "normalization.h"

namespace {

class NormLayer {
 public:
  enum Activation { NONE, RELU, PRELU };

  NormLayer(int batch, int channels, long pixels, Activation activation, float eps, float momentum)
      : batch_(batch), channels_(channels), pixels_(pixels), activation_(activation), eps_(eps), momentum_(momentum),
        mean_(channels), inverse_(channels) {}

  // in, out: (N, C, H, W), float or BFloat16. In training the moving averages follow the statistics of the batch.
  template <class In, class Out>
  void forward(const Norm& norm, const In* in, Out* out, bool training) {
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
          float value = scale * value_of(in[k]) + shift;
          put(out + k, value > 0 ? value : slope * value);
        }
      });
    }
  }

  // Write the gradients of the input and of the parameters.
  template <class In, class Out>
  void backward(const Norm& norm, const In* in, const Out* out_grad, In* in_grad) const {
    std::vector<double> slopes(channels_);  // their gradients
#pragma omp parallel for schedule(static)
    for (int c = 0; c < channels_; ++c) {
      float mean = mean_[c], scale = norm.gamma[c] * inverse_[c], shift = norm.beta[c] - mean * scale;
      float slope = slope_of(norm, c);
      auto grad_at = [=](long k) {  // of the normalized value
        float grad = value_of(out_grad[k]);
        return scale * value_of(in[k]) + shift > 0 ? grad : slope * grad;
      };
      double shifts = 0, alongs = 0;
      for_each_part(c, [&](long first, long end) {
        float shift_sum = 0, along = 0, negative = 0;
#pragma omp simd reduction(+ : shift_sum, along, negative)
        for (long k = first; k < end; ++k) {
          float grad = grad_at(k);
          shift_sum += grad;
          along += grad * (value_of(in[k]) - mean);
          negative += std::min(scale * value_of(in[k]) + shift, 0.0f) * value_of(out_grad[k]);
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
          put(in_grad + k, scale * (grad_at(k) - offset - factor * (value_of(in[k]) - mean)));
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
  template <class In>
  void measure(int c, const In* in, float* mean, float* variance) const {
    float pivot = value_of(in[c * pixels_]);
    double sums = 0, squares = 0;
    for_each_part(c, [&](long first, long end) {
      float sum = 0, square = 0;
#pragma omp simd reduction(+ : sum, square)
      for (long k = first; k < end; ++k) {
        float distance = value_of(in[k]) - pivot;
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

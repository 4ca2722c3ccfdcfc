// Batch normalisation and the activation behind it, forward and backward.

#ifndef DENSEFACE_NORMALISATION_H_
#define DENSEFACE_NORMALISATION_H_

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "vectors.h"

namespace {

// Sums by channel over strips, in double precision, by thread: the same for every run on as many threads.
class Sums {
 public:
  Sums(int channels, int kinds)
      : channels_(channels), kinds_(kinds), values_(size_t(omp_get_max_threads()) * channels * kinds) {}

  void add(int kind, int block, const Vec& values, double factor = 1) {
    double* sums = &values_[(size_t(omp_get_thread_num()) * kinds_ + kind) * channels_ + block * B];
    for (int k = 0; k < B; ++k) sums[k] += factor * values[k];
  }

  double get(int kind, int channel) const {
    double sum = 0;
    for (size_t k = size_t(kind) * channels_ + channel; k < values_.size(); k += size_t(kinds_) * channels_)
      sum += values_[k];
    return sum;
  }

 private:
  int channels_, kinds_;
  std::vector<double> values_;
};

// Add a strip's values to the sums of values and of squares; what is squared is the distance from the first value.
void add_moments(Sums* sums, int block, const float* values, int rows, int width, int row) {
  Vec pivot = at(values), sum{}, square{};
  for (int r = 0; r < rows; ++r)
    for (int p = 0; p < width; ++p) {
      Vec distance = at(values + (r * row + p) * B) - pivot;
      sum += distance;
      square += distance * distance;
    }
  sums->add(0, block, sum);
  sums->add(0, block, pivot, rows * width);
  sums->add(1, block, square);
  sums->add(1, block, 2 * pivot * sum);
  sums->add(1, block, pivot * pivot, rows * width);
}

struct Moments {
  std::vector<float> mean, variance;

  void take(const Sums& sums, int first, int channels, double count) {
    for (int c = 0; c < channels; ++c) {
      double m = sums.get(0, c) / count;
      mean[first + c] = float(m);
      variance[first + c] = float(std::max(0.0, sums.get(1, c) / count - m * m));
    }
  }
};

// Parameters of a normalisation and the activation behind it, and their gradients when going backward.
struct Norm {
  const float *gamma, *beta;
  float *moving_mean, *moving_variance;
  const float* slope;  // null for ReLU
  int slopes;          // 1, or one a channel
  float *gamma_grad, *beta_grad, *slope_grad;
};

// What a normalisation and its activation do to each channel: v = scale x + shift, then v or slope v.
struct Affine {
  Buffer buffer;
  float *scale, *shift, *slope, *mean, *inverse;

  void set(const Norm& norm, const float* means, const float* variances, int channels, float eps) {
    scale = buffer.get(size_t(5) * channels);
    shift = scale + channels, slope = shift + channels, mean = slope + channels, inverse = mean + channels;
    for (int c = 0; c < channels; ++c) {
      mean[c] = means[c];
      inverse[c] = 1 / std::sqrt(variances[c] + eps);
      scale[c] = norm.gamma[c] * inverse[c];
      shift[c] = norm.beta[c] - means[c] * scale[c];
      slope[c] = !norm.slope ? 0 : norm.slope[norm.slopes == 1 ? 0 : c];
    }
  }

  // next: pixels from these to those that come after them, in other memory.
  void apply(int block, const float* in, float* out, int pixels, long next) const {
    Vec s = at(scale + block * B), t = at(shift + block * B), a = at(slope + block * B);
    for (int p = 0; p < pixels; ++p) {
      __builtin_prefetch(in + (next + p) * B);
      Vec v = at(in + p * B) * s + t;
      at(out + p * B) = v > 0 ? v : a * v;
    }
  }

  // Hand on the gradient of v for that of the output; sum up what the gradients of beta, gamma and slope are.
  template <class Give>
  void back(int block, const float* in, const float* grad, int pixels, Sums* sums, Give give) const {
    Vec s = at(scale + block * B), t = at(shift + block * B), a = at(slope + block * B);
    Vec m = at(mean + block * B), inv = at(inverse + block * B);
    Vec sum{}, product{}, negative{};
    for (int p = 0; p < pixels; ++p) {
      Vec x = at(in + p * B), v = x * s + t, d = at(grad + p * B);
      Vec below = v > 0 ? Vec{} : d;
      negative += below * v;
      d = v > 0 ? d : a * d;
      sum += d;
      product += d * (x - m);
      give(p, d);
    }
    sums->add(0, block, sum);
    sums->add(1, block, product * inv);
    sums->add(2, block, negative);
  }
};

void give_gradients(const Sums& sums, int channels, const Norm& norm) {
  double slope_sum = 0;
  for (int c = 0; c < channels; ++c) {
    norm.beta_grad[c] = float(sums.get(0, c));
    norm.gamma_grad[c] = float(sums.get(1, c));
    if (norm.slope && norm.slopes > 1) norm.slope_grad[c] = float(sums.get(2, c));
    slope_sum += sums.get(2, c);
  }
  if (norm.slope && norm.slopes == 1) norm.slope_grad[0] = float(slope_sum);
}

}  // namespace

#endif  // DENSEFACE_NORMALISATION_H_

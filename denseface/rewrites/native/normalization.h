// Batch normalization and the activation after it, forward and backward.

#ifndef DENSEFACE_NORMALIZATION_H_
#define DENSEFACE_NORMALIZATION_H_

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "arena.h"
#include "bfloat16.h"
#include "vectors.h"

namespace {

// Sums per channel in double precision. Every thread adds to its own, so that runs on equally many threads are equal.
class Sums {
 public:
  Sums(int channels, int kinds)
      : channels_(channels), kinds_(kinds), values_(size_t(omp_get_max_threads()) * channels * kinds) {}

  void add(int kind, int block, const Vec& values, double factor = 1) {
    double* sums = &values_[(size_t(omp_get_thread_num()) * kinds_ + kind) * channels_ + block * BLOCK];
    for (int k = 0; k < BLOCK; ++k) sums[k] += factor * values[k];
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

// Sums of values and of their squares.
class MomentSums : public Sums {
 public:
  enum { VALUES, SQUARES, KINDS };
  explicit MomentSums(int channels) : Sums(channels, KINDS) {}

  // Add a strip. Distances from its first value are squared, so that a large mean costs no digits.
  template <class Value>
  void add_strip(int block, const Value* values, int rows, int width, int pitch) {
    Vec pivot = load(values), sum{}, square{};
    for (int row = 0; row < rows; ++row)
      for (int column = 0; column < width; ++column) {
        Vec distance = load(values + (row * pitch + column) * BLOCK) - pivot;
        sum += distance;
        square += distance * distance;
      }
    add(VALUES, block, sum);
    add(VALUES, block, pivot, rows * width);
    add(SQUARES, block, square);
    add(SQUARES, block, 2 * pivot * sum);
    add(SQUARES, block, pivot * pivot, rows * width);
  }
};

// Batch statistics of channels.
struct Moments {
  std::vector<float> mean, variance;

  void resize(int channels) { mean.resize(channels), variance.resize(channels); }

  void set(const MomentSums& sums, int first, int channels, double count) {
    for (int c = 0; c < channels; ++c) {
      double value = sums.get(MomentSums::VALUES, c) / count;
      mean[first + c] = float(value);
      variance[first + c] = float(std::max(0.0, sums.get(MomentSums::SQUARES, c) / count - value * value));
    }
  }
};

// Parameters of a normalization and of the activation after it; their gradients are set in the backward pass.
struct Norm {
  const float *gamma, *beta;
  float *moving_mean, *moving_variance;
  const float* slope;  // null for ReLU
  int slopes;          // 1, or one per channel
  float *gamma_grad, *beta_grad, *slope_grad;
};

// Sums of which a normalization's gradients are made.
class NormSums : public Sums {
 public:
  enum { BETA, GAMMA, SLOPE, KINDS };
  explicit NormSums(int channels) : Sums(channels, KINDS) {}

  void write_gradients(const Norm& norm, int channels) const {
    double slope_sum = 0;
    for (int c = 0; c < channels; ++c) {
      norm.beta_grad[c] = float(get(BETA, c));
      norm.gamma_grad[c] = float(get(GAMMA, c));
      if (norm.slope && norm.slopes > 1) norm.slope_grad[c] = float(get(SLOPE, c));
      slope_sum += get(SLOPE, c);
    }
    if (norm.slope && norm.slopes == 1) norm.slope_grad[0] = float(slope_sum);
  }
};

// A normalization with known statistics, and its activation: v = scale x + shift, then v where v > 0, else slope v.
struct Affine {
  // Of one block of channels.
  struct Activation {
    Vec scale, shift, slope;
    Vec operator()(const Vec& x) const {
      Vec value = x * scale + shift;
      return value > 0 ? value : slope * value;
    }
  };

  Array<char> memory;
  float *scale, *shift, *slope, *mean, *inverse;  // inverse: 1 / standard deviation

  void set(const Norm& norm, const float* means, const float* variances, int channels, float eps) {
    carved(&memory, [=](Arena* arena) {
      for (float** values : {&scale, &shift, &slope, &mean, &inverse}) *values = arena->take<float>(channels);
      return 0;
    });
    for (int c = 0; c < channels; ++c) {
      mean[c] = means[c];
      inverse[c] = 1 / std::sqrt(variances[c] + eps);
      scale[c] = norm.gamma[c] * inverse[c];
      shift[c] = norm.beta[c] - means[c] * scale[c];
      slope[c] = !norm.slope ? 0 : norm.slope[norm.slopes == 1 ? 0 : c];
    }
  }

  Activation activation(int block) const {
    return {at(scale + block * BLOCK), at(shift + block * BLOCK), at(slope + block * BLOCK)};
  }

  // PITCH: distance from the channels of one pixel in out to those of the next. next: distance in pixels to those that
  // are read after these, which are fetched into the cache meanwhile.
  template <int PITCH = BLOCK, class Value, class Out>
  void apply(int block, const Value* in, Out* out, int pixels, long next) const {
    Activation activate = activation(block);
    for (int p = 0; p < pixels; ++p) {
      __builtin_prefetch(in + (next + p) * BLOCK);
      store(out + p * PITCH, activate(load(in + p * BLOCK)));
    }
  }

  // From gradients of outputs, compute those of v and call store(pixel, gradient); add to the sums for the parameters.
  // Rows of in follow each other; those of out_grads have a pitch.
  template <class Value, class Store>
  void backward(int block, const Value* in, const float* out_grads, int rows, int width, int pitch, NormSums* sums,
                Store store) const {
    Vec scales = at(scale + block * BLOCK), shifts = at(shift + block * BLOCK), slopes = at(slope + block * BLOCK);
    Vec means = at(mean + block * BLOCK), inverses = at(inverse + block * BLOCK);
    Vec beta_sum{}, gamma_sum{}, slope_sum{};
    for (int row = 0; row < rows; ++row, in += width * BLOCK, out_grads += pitch * BLOCK)
      for (int column = 0; column < width; ++column) {
        Vec x = load(in + column * BLOCK), value = x * scales + shifts, grad = at(out_grads + column * BLOCK);
        Vec negative = value > 0 ? Vec{} : grad;
        slope_sum += negative * value;
        grad = value > 0 ? grad : slopes * grad;
        beta_sum += grad;
        gamma_sum += grad * (x - means);
        store(row * width + column, grad);
      }
    sums->add(NormSums::BETA, block, beta_sum);
    sums->add(NormSums::GAMMA, block, gamma_sum * inverses);
    sums->add(NormSums::SLOPE, block, slope_sum);
  }
};

// What a normalization's batch statistics add to the gradient of its input x. With g the gradient of v and
// x' = (x - mean) / deviation, that gradient is scale (g - mean(g) - x' mean(g x')). The two means are known only after
// the whole batch; being affine in x, their part is kept as offset + factor x and subtracted later.
class MeanTerms {
 public:
  explicit MeanTerms(int channels = 0) : offset_(channels), factor_(channels) {}

  void add(const NormSums& sums, const Affine& affine, int channels, double count) {
    for (int c = 0; c < channels; ++c) {
      double along = affine.scale[c] * sums.get(NormSums::GAMMA, c) / count * affine.inverse[c];
      factor_[c] += float(along);
      offset_[c] += float(affine.scale[c] * sums.get(NormSums::BETA, c) / count - along * affine.mean[c]);
    }
  }

  // out = scale * grads - (offset + factor * x)
  template <int PITCH = BLOCK, class Value, class Grad, class Out>
  void subtract(int block, const Vec& scale, const Value* x, const Grad* grads, Out* out, int pixels) const {
    Vec offset, factor;
    for (int k = 0; k < BLOCK; ++k) offset[k] = offset_[block * BLOCK + k], factor[k] = factor_[block * BLOCK + k];
    for (int p = 0; p < pixels; ++p) {
      Vec scaled = scale * load(grads + p * BLOCK);
#ifdef __AMX_BF16__
      // Compilers fuse this product with the subtraction or not, as the code around it is. It never is with AMX, so that
      // a run that is resumed finds the same bits.
      if (PITCH != BLOCK) asm("" : "+v"(scaled));
#endif
      store(out + p * PITCH, scaled - (offset + factor * load(x + p * BLOCK)));
    }
  }

 private:
  std::vector<float> offset_, factor_;
};

}  // namespace

#endif  // DENSEFACE_NORMALIZATION_H_

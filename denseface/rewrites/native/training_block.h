// A dense block in training as one operator of MXNet: every layer of
//   BN - activation - 1x1 convolution - BN - activation - 3x3 convolution, appended to its input.
//
// What it saves, compared with one operator per step:
// - Features are in one array that every layer reads and appends to; nothing is concatenated.
// - A feature's batch statistics are computed once, not by every later layer.
// - Normalised and activated values exist for one strip of a picture at a time, in the cache, and are computed again in
//   the backward pass. Only the features and the outputs of the 1x1 convolutions are kept.
// - Gradients of features are summed in one array; the terms of batch means (see MeanTerms) are summed apart, and
//   subtracted from a feature's gradient once all layers that read the feature have added theirs.

#ifndef DENSEFACE_TRAINING_BLOCK_H_
#define DENSEFACE_TRAINING_BLOCK_H_

#include <omp.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "convolutions.h"
#include "layer.h"
#include "layout.h"
#include "normalisation.h"
#include "padding.h"
#include "vectors.h"

namespace {

class TrainingBlock {
 public:
  TrainingBlock(const BlockShape& shape, float eps, float momentum)
      : padding_(shape.channels, shape.bottleneck, shape.growth), batch_(shape.batch), height_(shape.height),
        width_(shape.width), channels_(padding_.channels()), bottleneck_(shape.bottleneck), growth_(shape.growth),
        layers_(shape.layers), total_(channels_ + layers_ * growth_), pixels_(long(height_) * width_),
        layout_{shape.channels, channels_, total_, pixels_}, eps_(eps), momentum_(momentum),
        count_(double(batch_) * pixels_), rows_(std::max(1, std::min(height_, 224 / width_))), pitch_(width_ + 2),
        hidden_(layers_), hidden_moments_(layers_) {
    feature_moments_.resize(total_);
    for (auto& moments : hidden_moments_) moments.resize(bottleneck_);
    for (int row = 0; row < 3; ++row)
      for (int column = 0; column < 3; ++column) taps_3x3_.push_back(row * pitch_ + column);
  }

  // in: (N, channels, H, W), out: (N, channels + layers * growth, H, W)
  void forward(const std::vector<Layer>& given, const float* in, float* out, bool training) {
    std::lock_guard<std::mutex> lock(mutex);
    float* features = features_.get(batch_ * layout_.size());
    std::vector<Layer> layers = padding_.padded(given);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) layout_.read_input(in, n, features);
    if (training) measure_input(features);
    for (int l = 0; l < layers_; ++l) forward_layer(layers[l], l, features, training);
    if (training) padding_.write_moving_averages(layers, given);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) layout_.write_output(features, n, out);
  }

  // out_grad: gradient of the output; in_grad: gradient of the input, which is written.
  void backward(const std::vector<Layer>& given, const float* out_grad, float* in_grad) {
    std::lock_guard<std::mutex> lock(mutex);
    const float* features = features_.data();
    float* feature_grads = feature_grads_space.get(batch_ * layout_.size());
    float* hidden_grads = hidden_grads_space.get(batch_ * hidden_size());
    std::vector<Layer> layers = padding_.padded(given);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) layout_.read_output(out_grad, n, feature_grads);
    feature_terms_ = MeanTerms(total_);
    for (int l = layers_ - 1; l >= 0; --l) backward_layer(layers[l], l, features, feature_grads, hidden_grads);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) {
      View<float> grads = layout_.picture(feature_grads, n);
      for (int b = 0; b < channels_ / BLOCK; ++b)
        feature_terms_.subtract(b, ONES, layout_.picture(features, n)[b], grads[b], grads[b], int(pixels_));
      layout_.write_input(feature_grads, n, in_grad);
    }
    padding_.write_gradients(layers, given);
  }

 private:
  // Part of the work of a layer: pixels of picture n from the first on, or rows; scratch is the thread's own memory.
  struct Job {
    int n, first, count;
    float* scratch;
  };

  void measure_input(const float* features) {
    MomentSums sums(channels_);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n)
      for (int b = 0; b < channels_ / BLOCK; ++b)
        for (long first = 0; first < pixels_; first += 256) {
          int pixels = int(std::min(256L, pixels_ - first));
          sums.add_strip(b, layout_.picture(features, n).from_pixel(first)[b], 1, pixels, 0);
        }
    feature_moments_.set(sums, 0, channels_, count_);
  }

  void forward_layer(const Layer& layer, int index, float* features, bool training) {
    float* hidden = hidden_[index].get(batch_ * hidden_size());
    forward_1x1(layer, index, features, hidden, training);
    forward_3x3(layer, index, hidden, features, training);
  }

  // From features to the hidden array, the outputs of the 1x1 convolution.
  void forward_1x1(const Layer& layer, int index, const float* features, float* hidden, bool training) {
    int channels = inputs(index), in_blocks = channels / BLOCK, hidden_blocks = bottleneck_ / BLOCK;
    float* weights = weights_space.get(size_t(bottleneck_) * channels);
    pack(layer.weight1, order_1x1(channels), hidden_blocks, in_blocks, 1, weights);
    Affine affine;
    set_forward(&affine, layer.norm1, feature_moments_, channels, training);
    MomentSums sums(bottleneck_);
    int step = pixels_at_once(channels);
    for_each_strip(int(pixels_), step, long(step) * channels, [&](Job job) {
      View<const float> in = layout_.picture(features, job.n).from_pixel(job.first);
      View<float> out = picture(hidden, job.n).from_pixel(job.first), activated(job.scratch, long(step) * BLOCK);
      for (int b = 0; b < in_blocks; ++b) affine.apply(b, in[b], activated[b], job.count, pixels_);
      convolve(activated, {1, job.count, 0}, {0}, in_blocks, weights, out, 0, hidden_blocks);
      if (training)
        for (int b = 0; b < hidden_blocks; ++b) sums.add_strip(b, out[b], 1, job.count, 0);
    });
    if (training) hidden_moments_[index].set(sums, 0, bottleneck_, count_);
  }

  // From the hidden array to the features that the layer appends.
  void forward_3x3(const Layer& layer, int index, const float* hidden, float* features, bool training) {
    int appended = inputs(index), hidden_blocks = bottleneck_ / BLOCK, out_blocks = growth_ / BLOCK;
    float* weights = weights_space.get(9L * bottleneck_ * growth_);
    pack(layer.weight2, order_3x3(bottleneck_), out_blocks, hidden_blocks, 9, weights);
    Affine affine;
    set_forward(&affine, layer.norm2, hidden_moments_[index], bottleneck_, training);
    MomentSums sums(growth_);
    for_each_strip(height_, rows_, padded_size() * hidden_blocks, [&](Job job) {
      long first_pixel = long(job.first) * width_;
      View<float> activated(job.scratch, padded_size());
      activate_padded(affine, picture(hidden, job.n), job, activated);
      View<float> out = layout_.picture(features, job.n).from_pixel(first_pixel).from_block(appended / BLOCK);
      convolve(activated, {job.count, width_, pitch_}, taps_3x3_, hidden_blocks, weights, out, width_, out_blocks);
      if (training)
        for (int b = 0; b < out_blocks; ++b) sums.add_strip(b, out[b], job.count, width_, width_);
    });
    if (training) feature_moments_.set(sums, appended, growth_, count_);
  }

  // Add to the gradients of the features that a layer reads, and write the gradients of its parameters.
  void backward_layer(const Layer& layer, int index, const float* features, float* feature_grads, float* hidden_grads) {
    Affine affine2;
    affine2.set(layer.norm2, hidden_moments_[index].mean.data(), hidden_moments_[index].variance.data(), bottleneck_,
                eps_);
    MeanTerms hidden_terms = backward_3x3(layer, index, affine2, features, feature_grads, hidden_grads);
    backward_1x1(layer, index, affine2, hidden_terms, features, hidden_grads, feature_grads);
  }

  // From the gradients of the appended features, through the 3x3 convolution, to hidden_grads: those of the second
  // normalisation's output. The terms of its batch means are returned.
  MeanTerms backward_3x3(const Layer& layer, int index, const Affine& affine2, const float* features,
                         const float* feature_grads, float* hidden_grads) {
    int hidden_blocks = bottleneck_ / BLOCK, out_blocks = growth_ / BLOCK, appended = inputs(index) / BLOCK;
    long weights_size = 9L * bottleneck_ * growth_;
    const float* hidden = hidden_[index].data();
    WeightOrder order = order_3x3(bottleneck_);
    float* weights = weights_space.get(weights_size * (1 + omp_get_max_threads()));
    pack(layer.weight2, order.transposed(9), hidden_blocks, out_blocks, 9, weights);
    float* weight_sums = zeros_per_thread(weights + weights_size, weights_size);
    NormSums sums(bottleneck_);
    for_each_strip(height_, rows_, padded_size() * (hidden_blocks + out_blocks), [&](Job job) {
      long first_pixel = long(job.first) * width_;
      View<float> activated(job.scratch, padded_size());
      View<float> out_grads = activated.from_block(hidden_blocks);
      activate_padded(affine2, picture(hidden, job.n), job, activated);
      for (int b = appended; b < appended + out_blocks; ++b)
        pad_rows(out_grads[b - appended], job, [&](int row, float* to) {
          long pixel = long(row) * width_;
          feature_terms_.subtract(b, ONES, layout_.picture(features, job.n).from_pixel(pixel)[b],
                                  layout_.picture(feature_grads, job.n).from_pixel(pixel)[b], to, width_);
        });
      Strip strip{job.count, width_, pitch_};
      weight_gradient(activated, pitch_, taps_3x3_, hidden_blocks, out_grads.from_pixel(pitch_ + 1), strip, out_blocks,
                      weight_sums + omp_get_thread_num() * weights_size);
      View<const float> in = picture(hidden, job.n).from_pixel(first_pixel);
      View<float> in_grads = picture(hidden_grads, job.n).from_pixel(first_pixel);
      convolve(out_grads, strip, taps_3x3_, out_blocks, weights, in_grads, width_, hidden_blocks);
      for (int b = 0; b < hidden_blocks; ++b) {
        float* grads = in_grads[b];
        affine2.backward(b, in[b], grads, job.count * width_, &sums,
                         [=](int pixel, const Vec& grad) { at(grads + pixel * BLOCK) = grad; });
      }
    });
    sums.write_gradients(layer.norm2, bottleneck_);
    write_weight_gradient(weight_sums, weights_size, layer.weight2_grad, order, out_blocks, hidden_blocks, 9);
    MeanTerms terms(bottleneck_);
    terms.add(sums, affine2, bottleneck_, count_);
    return terms;
  }

  // From hidden_grads, through the second normalisation, the 1x1 convolution and the first normalisation, to the
  // gradients of the features that the layer reads; the first normalisation's terms go to feature_terms_.
  void backward_1x1(const Layer& layer, int index, const Affine& affine2, const MeanTerms& hidden_terms,
                    const float* features, const float* hidden_grads, float* feature_grads) {
    int channels = inputs(index), in_blocks = channels / BLOCK, hidden_blocks = bottleneck_ / BLOCK;
    long weights_size = long(bottleneck_) * channels;
    const float* hidden = hidden_[index].data();
    WeightOrder order = order_1x1(channels);
    float* weights = weights_space.get(weights_size * (1 + omp_get_max_threads()));
    pack(layer.weight1, order.transposed(1), in_blocks, hidden_blocks, 1, weights);
    float* weight_sums = zeros_per_thread(weights + weights_size, weights_size);
    Affine affine1;
    affine1.set(layer.norm1, feature_moments_.mean.data(), feature_moments_.variance.data(), channels, eps_);
    NormSums sums(channels);
    int step = pixels_at_once(2 * channels);
    for_each_strip(int(pixels_), step, long(step) * (2 * channels + bottleneck_), [&](Job job) {
      View<float> activated(job.scratch, long(step) * BLOCK);
      View<float> activated_grads = activated.from_block(in_blocks);
      View<float> out_grads = activated_grads.from_block(in_blocks);
      for (int b = 0; b < hidden_blocks; ++b)
        hidden_terms.subtract(b, at(affine2.scale + b * BLOCK), picture(hidden, job.n).from_pixel(job.first)[b],
                              picture(hidden_grads, job.n).from_pixel(job.first)[b], out_grads[b], job.count);
      View<const float> in = layout_.picture(features, job.n).from_pixel(job.first);
      for (int b = 0; b < in_blocks; ++b) affine1.apply(b, in[b], activated[b], job.count, pixels_);
      Strip strip{1, job.count, 0};
      weight_gradient(activated, 0, {0}, in_blocks, out_grads, strip, hidden_blocks,
                      weight_sums + omp_get_thread_num() * weights_size);
      convolve(out_grads, strip, {0}, hidden_blocks, weights, activated_grads, 0, in_blocks);
      for (int b = 0; b < in_blocks; ++b) {
        Vec scale = at(affine1.scale + b * BLOCK);
        float* in_grads = layout_.picture(feature_grads, job.n).from_pixel(job.first)[b];
        affine1.backward(b, in[b], activated_grads[b], job.count, &sums, [=](int pixel, const Vec& grad) {
          __builtin_prefetch(in_grads + (pixels_ + pixel) * BLOCK, 1);  // of the next block
          at(in_grads + pixel * BLOCK) += scale * grad;
        });
      }
    });
    sums.write_gradients(layer.norm1, channels);
    write_weight_gradient(weight_sums, weights_size, layer.weight1_grad, order, hidden_blocks, in_blocks, 1);
    feature_terms_.add(sums, affine1, channels, count_);
  }

  // Statistics for a normalisation in the forward pass; in training the moving averages follow those of the batch.
  void set_forward(Affine* affine, const Norm& norm, const Moments& moments, int channels, bool training) const {
    if (!training) return affine->set(norm, norm.moving_mean, norm.moving_variance, channels, eps_);
    affine->set(norm, moments.mean.data(), moments.variance.data(), channels, eps_);
    for (int c = 0; c < channels; ++c) {
      norm.moving_mean[c] = momentum_ * norm.moving_mean[c] + (1 - momentum_) * moments.mean[c];
      norm.moving_variance[c] = momentum_ * norm.moving_variance[c] + (1 - momentum_) * moments.variance[c];
    }
  }

  // Cut every picture into strips of `step` out of `length` rows or pixels, and do the work for each, on all threads.
  template <class Work>
  void for_each_strip(int length, int step, long scratch_size, Work work) const {
    int strips = (length + step - 1) / step;
    float* scratch = threads_space.get(omp_get_max_threads() * scratch_size);
#pragma omp parallel for schedule(static)
    for (int job = 0; job < batch_ * strips; ++job) {
      int first = job % strips * step;
      work(Job{job / strips, first, std::min(step, length - first), scratch + omp_get_thread_num() * scratch_size});
    }
  }

  // Normalise and activate the rows of a job, with one row and one column of neighbours, or zeros, around them.
  void activate_padded(const Affine& affine, View<const float> hidden, Job job, View<float> activated) const {
    for (int b = 0; b < bottleneck_ / BLOCK; ++b)
      pad_rows(activated[b], job, [&](int row, float* to) {
        affine.apply(b, hidden.from_pixel(long(row) * width_)[b], to, width_, width_);
      });
  }

  template <class Fill>
  void pad_rows(float* padded, Job job, Fill fill) const {
    pad(padded, pitch_, width_, job.first - 1, job.first + job.count + 1, height_, fill);
  }

  static float* zeros_per_thread(float* sums, long size) {
    std::fill(sums, sums + omp_get_max_threads() * size, 0.0f);
    return sums;
  }

  static void write_weight_gradient(const float* sums, long size, float* gradients, WeightOrder order, int out_blocks,
                                    int in_blocks, int taps) {
    int threads = omp_get_max_threads();
    for_each_weight(order, out_blocks, in_blocks, taps, [=](long from, long to) {
      float sum = 0;
      for (int thread = 0; thread < threads; ++thread) sum += sums[thread * size + from];
      gradients[to] = sum;
    });
  }

  int inputs(int layer) const { return channels_ + layer * growth_; }
  int pixels_at_once(int channels) const { return int(std::min<long>(cached_pixels(channels), pixels_)); }
  long hidden_size() const { return bottleneck_ * pixels_; }  // of one picture
  long padded_size() const { return long(rows_ + 2) * pitch_ * BLOCK; }  // of one block of a padded strip

  // A picture of the hidden array.
  template <class Float>
  View<Float> picture(Float* hidden, int n) const {
    return {hidden + n * hidden_size(), pixels_ * BLOCK};
  }

  static constexpr Vec ONES = Vec{} + 1.0f;

  Padding padding_;
  int batch_, height_, width_;
  int channels_, bottleneck_, growth_, layers_, total_;  // channels_ and total_ include the padding
  long pixels_;
  Layout layout_;
  float eps_, momentum_;
  double count_;  // values per channel
  int rows_;      // of a strip of the 3x3 convolution
  int pitch_;     // pixels of a zero-padded row
  std::vector<int> taps_3x3_;
  Buffer features_;
  std::vector<Buffer> hidden_;  // outputs of the 1x1 convolutions, per layer
  Moments feature_moments_;
  std::vector<Moments> hidden_moments_;
  MeanTerms feature_terms_;

  // Shared by all blocks: one computes at a time, on all cores.
  static std::mutex mutex;
  static Buffer feature_grads_space, hidden_grads_space, weights_space, threads_space;
};

std::mutex TrainingBlock::mutex;
Buffer TrainingBlock::feature_grads_space, TrainingBlock::hidden_grads_space, TrainingBlock::weights_space,
    TrainingBlock::threads_space;

}  // namespace

#endif  // DENSEFACE_TRAINING_BLOCK_H_

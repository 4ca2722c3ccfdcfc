// A dense block in training in float32.

#ifndef DENSEFACE_TRAINING_BLOCK_H_
#define DENSEFACE_TRAINING_BLOCK_H_

#include <omp.h>

#include <algorithm>
#include <vector>

#include "convolutions.h"
#include "dense_block.h"

namespace {

class TrainingBlock : public StoredBlock<float> {
 public:
  TrainingBlock(const BlockShape& shape, float eps, float momentum)
      : StoredBlock(shape, eps, momentum, true), rows_(std::max(1, std::min(height_, 224 / width_))) {}

 private:
  void forward_1x1(const Layer& layer, int index, const Affine& affine1, const float* features, float* hidden,
                   MomentSums* sums) override {
    int channels = inputs(index), in_blocks = channels / BLOCK, hidden_blocks = bottleneck_ / BLOCK;
    float* weights = weights_space.get(size_t(bottleneck_) * channels);
    pack(layer.weight1, order_1x1(channels), hidden_blocks, in_blocks, 1, weights);
    int step = pixels_at_once(channels);
    for_each_strip(int(pixels_), step, long(step) * channels, [&](Job job) {
      View<const float> in = layout_.picture(features, job.n).from_pixel(job.first);
      View<float> out = picture(hidden, job.n).from_pixel(job.first), activated(job.scratch, long(step) * BLOCK);
      for (int b = 0; b < in_blocks; ++b) affine1.apply(b, in[b], activated[b], job.count, pixels_);
      convolve(activated, {1, job.count, 0}, {0}, in_blocks, weights, out, 0, hidden_blocks);
      if (sums)
        for (int b = 0; b < hidden_blocks; ++b) sums->add_strip(b, out[b], 1, job.count, 0);
    });
  }

  void forward_3x3(const Layer& layer, int index, const Affine& affine2, const float* hidden, float* features,
                   MomentSums* sums) override {
    int appended = inputs(index), hidden_blocks = bottleneck_ / BLOCK, out_blocks = growth_ / BLOCK;
    float* weights = weights_space.get(9L * bottleneck_ * growth_);
    pack(layer.weight2, order_3x3(bottleneck_), out_blocks, hidden_blocks, 9, weights);
    for_each_strip(height_, rows_, padded_size() * hidden_blocks, [&](Job job) {
      long first_pixel = long(job.first) * width_;
      View<float> activated(job.scratch, padded_size());
      activate_padded(affine2, picture(hidden, job.n), job, activated);
      View<float> out = layout_.picture(features, job.n).from_pixel(first_pixel).from_block(appended / BLOCK);
      convolve(activated, {job.count, width_, pitch_}, taps_3x3_, hidden_blocks, weights, out, width_, out_blocks);
      if (sums)
        for (int b = 0; b < out_blocks; ++b) sums->add_strip(b, out[b], job.count, width_, width_);
    });
  }

  MeanTerms backward_3x3(const Layer& layer, int index, const Affine& affine2, const float* features,
                         const float* hidden, const float* feature_grads, float* hidden_grads) override {
    int hidden_blocks = bottleneck_ / BLOCK, out_blocks = growth_ / BLOCK, appended = inputs(index) / BLOCK;
    long weights_size = 9L * bottleneck_ * growth_;
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
        affine2.backward(b, in[b], grads, 1, job.count * width_, 0, &sums,
                         [=](int pixel, const Vec& grad) { at(grads + pixel * BLOCK) = grad; });
      }
    });
    sums.write_gradients(layer.norm2, bottleneck_);
    write_weight_gradient(weight_sums, weights_size, layer.weight2_grad, order, out_blocks, hidden_blocks, 9);
    MeanTerms terms(bottleneck_);
    terms.add(sums, affine2, bottleneck_, count_);
    return terms;
  }

  void backward_1x1(const Layer& layer, int index, const Affine& affine1, const Affine& affine2,
                    const MeanTerms& hidden_terms, const float* features, const float* hidden, const float* hidden_grads,
                    float* feature_grads) override {
    int channels = inputs(index), in_blocks = channels / BLOCK, hidden_blocks = bottleneck_ / BLOCK;
    long weights_size = long(bottleneck_) * channels;
    WeightOrder order = order_1x1(channels);
    float* weights = weights_space.get(weights_size * (1 + omp_get_max_threads()));
    pack(layer.weight1, order.transposed(1), in_blocks, hidden_blocks, 1, weights);
    float* weight_sums = zeros_per_thread(weights + weights_size, weights_size);
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
        affine1.backward(b, in[b], activated_grads[b], 1, job.count, 0, &sums, [=](int pixel, const Vec& grad) {
          __builtin_prefetch(in_grads + (pixels_ + pixel) * BLOCK, 1);  // of the next block
          at(in_grads + pixel * BLOCK) += scale * grad;
        });
      }
    });
    sums.write_gradients(layer.norm1, channels);
    write_weight_gradient(weight_sums, weights_size, layer.weight1_grad, order, hidden_blocks, in_blocks, 1);
    feature_terms_.add(sums, affine1, channels, count_);
  }

  void forward_transition(const Transition& transition, const float* features, float* out, bool training) override {
    int in_blocks = total_ / BLOCK, out_blocks = transition_ / BLOCK, step = pooled_rows(), width = width_ / 2;
    float* weights = weights_space.get(size_t(total_) * transition_);
    pack(transition.weight, order_1x1(total_), out_blocks, in_blocks, 1, weights);
    Affine affine;
    set_forward(&affine, transition.norm, feature_moments_, total_, training);
    long size = long(step) * width * BLOCK;
    for_each_strip(height_ / 2, step, size * (in_blocks + out_blocks), [&](Job job) {
      View<float> activated(job.scratch, size), products = activated.from_block(in_blocks);
      View<const float> in = layout_.picture(features, job.n).from_pixel(2L * job.first * width_);
      int pixels = job.count * width;
      for (int b = 0; b < in_blocks; ++b)
        for (int p = 0; p < pixels; ++p) at(activated[b] + p * BLOCK) = pooled(affine.activation(b), in[b], p, width_);
      convolve(activated, {1, pixels, 0}, {0}, in_blocks, weights, products, 0, out_blocks);
      from_blocks(products.data, size, transition_, pixels, pooled_part(out, job), pixels_ / 4);
    });
  }

  void backward_transition(const Transition& transition, const float* features, const float* out_grad,
                           float* feature_grads) override {
    int in_blocks = total_ / BLOCK, out_blocks = transition_ / BLOCK, step = pooled_rows(), width = width_ / 2;
    long weights_size = long(total_) * transition_;
    WeightOrder order = order_1x1(total_);
    float* weights = weights_space.get(weights_size * (1 + omp_get_max_threads()));
    pack(transition.weight, order.transposed(1), in_blocks, out_blocks, 1, weights);
    float* weight_sums = zeros_per_thread(weights + weights_size, weights_size);
    Affine affine;
    affine.set(transition.norm, feature_moments_.mean.data(), feature_moments_.variance.data(), total_, eps_);
    NormSums sums(total_);
    long size = long(step) * width * BLOCK;
    for_each_strip(height_ / 2, step, size * (2 * in_blocks + out_blocks + 4), [&](Job job) {
      View<float> activated(job.scratch, size), grads = activated.from_block(in_blocks);
      View<float> out_grads = grads.from_block(in_blocks), spread = out_grads.from_block(out_blocks);
      View<const float> in = layout_.picture(features, job.n).from_pixel(2L * job.first * width_);
      int pixels = job.count * width;
      for (int b = 0; b < in_blocks; ++b)
        for (int p = 0; p < pixels; ++p) at(activated[b] + p * BLOCK) = pooled(affine.activation(b), in[b], p, width_);
      to_blocks(pooled_part(out_grad, job), pixels_ / 4, transition_, pixels, out_grads.data, size);
      weight_gradient(activated, 0, {0}, in_blocks, out_grads, {1, pixels, 0}, out_blocks,
                      weight_sums + omp_get_thread_num() * weights_size);
      convolve(out_grads, {1, pixels, 0}, {0}, out_blocks, weights, grads, 0, in_blocks);
      View<float> in_grads = layout_.picture(feature_grads, job.n).from_pixel(2L * job.first * width_);
      for (int b = 0; b < in_blocks; ++b) {
        unpool(grads[b], 2 * job.count, width_, spread.data);
        Vec scale = at(affine.scale + b * BLOCK);
        float* to = in_grads[b];
        affine.backward(b, in[b], spread.data, 1, 4 * pixels, 0, &sums,
                        [=](int pixel, const Vec& grad) { at(to + pixel * BLOCK) = scale * grad; });
      }
    });
    sums.write_gradients(transition.norm, total_);
    write_weight_gradient(weight_sums, weights_size, transition.weight_grad, order, out_blocks, in_blocks, 1);
    feature_terms_.add(sums, affine, total_, count_);
  }

  // Rows of a strip of the transition's output.
  int pooled_rows() const { return std::max(1, std::min(height_ / 2, cached_pixels(2 * total_) / (width_ / 2))); }

  // Normalize and activate the rows of a job, with one row and one column of neighbors, or zeros, around them.
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

  static void write_weight_gradient(const float* sums, long size, float* gradients, WeightOrder order, int out_blocks,
                                    int in_blocks, int taps) {
    int threads = omp_get_max_threads();
    for_each_weight(order, out_blocks, in_blocks, taps, [=](long from, long to) {
      float sum = 0;
      for (int thread = 0; thread < threads; ++thread) sum += sums[thread * size + from];
      gradients[to] = sum;
    });
  }

  int pixels_at_once(int channels) const { return int(std::min<long>(cached_pixels(channels), pixels_)); }
  long padded_size() const { return long(rows_ + 2) * pitch_ * BLOCK; }  // of one block of a padded strip

  int rows_;  // of a strip of the 3x3 convolution

  static Buffer weights_space;
};

Buffer TrainingBlock::weights_space;

}  // namespace

#endif  // DENSEFACE_TRAINING_BLOCK_H_

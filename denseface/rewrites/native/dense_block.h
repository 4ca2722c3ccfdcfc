// A dense block in training as one operator of MXNet: every layer of
//   BN - activation - 1x1 convolution - BN - activation - 3x3 convolution, appended to its input.
// Here is what does not depend on how products are computed.
//
// What it saves, compared with one operator per step:
// - Features are in one array that every layer reads and appends to; nothing is concatenated.
// - A feature's batch statistics are computed once, not by every later layer.
// - Normalized and activated values exist for one strip of a picture at a time, in the cache, and are computed again in
//   the backward pass. Only the features are kept, and in float32 the outputs of the 1x1 convolutions.
// - Gradients of features are summed in one array; the terms of batch means (see MeanTerms) are summed apart, and
//   subtracted from a feature's gradient once all layers that read the feature have added theirs.

#ifndef DENSEFACE_DENSE_BLOCK_H_
#define DENSEFACE_DENSE_BLOCK_H_

#include <omp.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "layer.h"
#include "layout.h"
#include "normalization.h"
#include "padding.h"
#include "pooling.h"
#include "vectors.h"

namespace {

const Vec ONES = Vec{} + 1.0f;

class DenseBlock {
 public:
  virtual ~DenseBlock() = default;
  virtual void forward(const Parameters& given, const float* in, float* out, bool training) = 0;
  virtual void backward(const Parameters& given, const float* out_grad, float* in_grad) = 0;

 protected:
  // Shared by all blocks: one computes at a time, on all cores.
  static std::mutex mutex;
  static Buffer feature_grads_space, threads_space;
};

std::mutex DenseBlock::mutex;
Buffer DenseBlock::feature_grads_space, DenseBlock::threads_space;

// A block that keeps its features, and its hidden arrays, as Values.
template <class Value>
class StoredBlock : public DenseBlock {
 public:
  // keeps_hidden: false to compute the hidden arrays again in the backward pass, from the features: half of the memory.
  StoredBlock(const BlockShape& shape, float eps, float momentum, bool keeps_hidden)
      : padding_(shape.channels, shape.bottleneck, shape.growth), batch_(shape.batch), height_(shape.height),
        width_(shape.width), channels_(padding_.channels()), bottleneck_(shape.bottleneck), growth_(shape.growth),
        layers_(shape.layers),
        transition_(shape.transition), total_(channels_ + layers_ * growth_), pixels_(long(height_) * width_),
        layout_{shape.channels, channels_, total_, pixels_}, eps_(eps), momentum_(momentum),
        count_(double(batch_) * pixels_), pitch_(width_ + 2), hidden_(keeps_hidden ? layers_ : 0),
        hidden_moments_(layers_) {
    feature_moments_.resize(total_);
    for (auto& moments : hidden_moments_) moments.resize(bottleneck_);
    for (int row = 0; row < 3; ++row)
      for (int column = 0; column < 3; ++column) taps_3x3_.push_back(row * pitch_ + column);
  }

  // in: (N, channels, H, W), out: (N, channels + layers * growth, H, W), or with a transition (N, channels, H/2, W/2)
  void forward(const Parameters& given, const float* in, float* out, bool training) override {
    std::lock_guard<std::mutex> lock(mutex);
    Value* features = features_.get(batch_ * layout_.size());
    std::vector<Layer> layers = padding_.padded(given.layers);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) layout_.read_input(in, n, features);
    if (training) measure_input(features);
    for (int l = 0; l < layers_; ++l) forward_layer(layers[l], l, features, training);
    if (training) padding_.write_moving_averages(layers, given.layers);
    if (transition_) return forward_transition(given.transition, features, out, training);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) layout_.write_output(features, n, out);
  }

  // out_grad: gradient of the output; in_grad: gradient of the input, which is written.
  void backward(const Parameters& given, const float* out_grad, float* in_grad) override {
    std::lock_guard<std::mutex> lock(mutex);
    const Value* features = features_.data();
    float* feature_grads = feature_grads_space.get(batch_ * layout_.size());
    Value* hidden_grads = hidden_grads_space.get(batch_ * hidden_size());
    std::vector<Layer> layers = padding_.padded(given.layers);
    feature_terms_ = MeanTerms(total_);
    if (transition_) {
      backward_transition(given.transition, features, out_grad, feature_grads);
    } else {
#pragma omp parallel for schedule(static)
      for (int n = 0; n < batch_; ++n) layout_.read_output(out_grad, n, feature_grads);
    }
    for (int l = layers_ - 1; l >= 0; --l) backward_layer(layers[l], l, features, feature_grads, hidden_grads);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) {
      View<float> grads = layout_.picture(feature_grads, n);
      for (int b = 0; b < channels_ / BLOCK; ++b)
        feature_terms_.subtract(b, ONES, layout_.picture(features, n)[b], grads[b], grads[b], int(pixels_));
      layout_.write_input(feature_grads, n, in_grad);
    }
    padding_.write_gradients(layers, given.layers);
  }

 protected:
  // Part of the work of a layer: pixels of picture n from the first on, or rows; scratch is the thread's own memory.
  struct Job {
    int n, first, count;
    float* scratch;
  };

  // From features to the hidden array, the outputs of the 1x1 convolution, which are added to the sums if there are any.
  virtual void forward_1x1(const Layer& layer, int index, const Affine& affine1, const Value* features, Value* hidden,
                           MomentSums* sums) = 0;

  // From the hidden array to the features that the layer appends.
  virtual void forward_3x3(const Layer& layer, int index, const Affine& affine2, const Value* hidden, Value* features,
                           MomentSums* sums) = 0;

  // From the gradients of the appended features, through the 3x3 convolution, to hidden_grads: those of the second
  // normalization's output. The terms of its batch means are returned.
  virtual MeanTerms backward_3x3(const Layer& layer, int index, const Affine& affine2, const Value* features,
                                 const Value* hidden, const float* feature_grads, Value* hidden_grads) = 0;

  // From hidden_grads, through the second normalization, the 1x1 convolution and the first normalization, to the
  // gradients of the features that the layer reads; the first normalization's terms go to feature_terms_.
  virtual void backward_1x1(const Layer& layer, int index, const Affine& affine1, const Affine& affine2,
                            const MeanTerms& hidden_terms, const Value* features, const Value* hidden,
                            const Value* hidden_grads, float* feature_grads) = 0;

  // From all features to the output of the transition, which pools before it convolves: both are linear.
  virtual void forward_transition(const Transition& transition, const Value* features, float* out, bool training) = 0;

  // From the output's gradient to those of all features, which are written, and to feature_terms_.
  virtual void backward_transition(const Transition& transition, const Value* features, const float* out_grad,
                                   float* feature_grads) = 0;

  // Where a strip of the transition is in MXNet's array (N, transition, H/2, W/2).
  template <class Float>
  Float* pooled_part(Float* out, Job job) const {
    return out + job.n * transition_ * (pixels_ / 4) + job.first * (width_ / 2);
  }

  // Statistics for a normalization in the forward pass; in training the moving averages follow those of the batch.
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

  int inputs(int layer) const { return channels_ + layer * growth_; }
  long hidden_size() const { return bottleneck_ * pixels_; }  // of one picture

  // A picture of the hidden array.
  template <class Element>
  View<Element> picture(Element* hidden, int n) const {
    return {hidden + n * hidden_size(), pixels_ * BLOCK};
  }

  Padding padding_;
  int batch_, height_, width_;
  int channels_, bottleneck_, growth_, layers_, transition_, total_;  // channels_ and total_ include the padding
  long pixels_;
  Layout layout_;
  float eps_, momentum_;
  double count_;  // values per channel
  int pitch_;     // pixels of a zero-padded row
  std::vector<int> taps_3x3_;
  Array<Value> features_;
  std::vector<Array<Value>> hidden_;  // outputs of the 1x1 convolutions, per layer, if they are kept
  Moments feature_moments_;
  std::vector<Moments> hidden_moments_;
  MeanTerms feature_terms_;

  static Array<Value> hidden_space, hidden_grads_space;

 private:
  void measure_input(const Value* features) {
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

  Value* hidden_of(int index) {
    return (hidden_.empty() ? hidden_space : hidden_[index]).get(batch_ * hidden_size());
  }

  void forward_layer(const Layer& layer, int index, Value* features, bool training) {
    Value* hidden = hidden_of(index);
    Affine affine1, affine2;
    MomentSums hidden_sums(bottleneck_), sums(growth_);
    set_forward(&affine1, layer.norm1, feature_moments_, inputs(index), training);
    forward_1x1(layer, index, affine1, features, hidden, training ? &hidden_sums : nullptr);
    if (training) hidden_moments_[index].set(hidden_sums, 0, bottleneck_, count_);
    set_forward(&affine2, layer.norm2, hidden_moments_[index], bottleneck_, training);
    forward_3x3(layer, index, affine2, hidden, features, training ? &sums : nullptr);
    if (training) feature_moments_.set(sums, inputs(index), growth_, count_);
  }

  // Add to the gradients of the features that a layer reads, and write the gradients of its parameters.
  void backward_layer(const Layer& layer, int index, const Value* features, float* feature_grads, Value* hidden_grads) {
    const Moments& moments = hidden_moments_[index];
    Affine affine1, affine2;
    affine1.set(layer.norm1, feature_moments_.mean.data(), feature_moments_.variance.data(), inputs(index), eps_);
    affine2.set(layer.norm2, moments.mean.data(), moments.variance.data(), bottleneck_, eps_);
    Value* hidden = hidden_of(index);
    if (hidden_.empty()) forward_1x1(layer, index, affine1, features, hidden, nullptr);
    MeanTerms hidden_terms = backward_3x3(layer, index, affine2, features, hidden, feature_grads, hidden_grads);
    backward_1x1(layer, index, affine1, affine2, hidden_terms, features, hidden, hidden_grads, feature_grads);
  }

};

template <class Value>
Array<Value> StoredBlock<Value>::hidden_space;
template <class Value>
Array<Value> StoredBlock<Value>::hidden_grads_space;

}  // namespace

#endif  // DENSEFACE_DENSE_BLOCK_H_

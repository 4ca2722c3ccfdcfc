// A dense block in training as one operator of MXNet: every layer of
//   BN - activation - 1x1 convolution - BN - activation - 3x3 convolution, appended to its input.
// How products are computed, and in which precision values are kept, is told by a template's argument.
//
// What it saves, compared with one operator per step:
// - Features are in one array that every layer reads and appends to; nothing is concatenated.
// - A feature's batch statistics are computed once, not by every later layer.
// - Normalized and activated values exist for one strip of a picture at a time, in the cache, and are computed again in
//   the backward pass. Only the features are kept, and the outputs of the 1x1 convolutions.
// - Gradients of features are summed in one array; the terms of batch means (see MeanTerms) are summed apart, and
//   subtracted from a feature's gradient once all layers that read the feature have added theirs.
//
// In bfloat16, features, the outputs of the 1x1 convolutions, and the gradients of the latter are rounded, while sums of
// features' gradients are float32. Statistics are those of the rounded values, which later layers read.

#ifndef DENSEFACE_TRAINING_BLOCK_H_
#define DENSEFACE_TRAINING_BLOCK_H_

#include <omp.h>

#include <algorithm>
#include <vector>

#include "arena.h"
#include "convolutions.h"
#include "layer.h"
#include "layout.h"
#include "normalization.h"
#include "padding.h"
#include "pooling.h"
#include "vectors.h"

namespace {

const Vec ONES = Vec{} + 1.0f;

class TrainingBlock {
 public:
  virtual ~TrainingBlock() = default;

  // in: (N, channels, H, W), out: (N, channels + layers * growth, H, W), or with a transition (N, channels, H/2, W/2).
  virtual void forward(const Parameters& given, const float* in, float* out, bool training) = 0;

  // out_grad: gradient of the output; in_grad: gradient of the input, which is written.
  virtual void backward(const Parameters& given, const float* out_grad, float* in_grad) = 0;
};

// Products: FloatProducts or BFloat16Products.
template <class Products>
class TrainingBlockOf : public TrainingBlock {
 public:
  TrainingBlockOf(const BlockShape& shape, float eps, float momentum)
      : padding_(shape.channels, shape.bottleneck, shape.growth), batch_(shape.batch), height_(shape.height),
        width_(shape.width), channels_(padding_.channels()), bottleneck_(shape.bottleneck), growth_(shape.growth),
        layers_(shape.layers),
        transition_(shape.transition), total_(channels_ + layers_ * growth_), pixels_(long(height_) * width_),
        layout_{shape.channels, channels_, total_, pixels_}, eps_(eps), momentum_(momentum),
        count_(double(batch_) * pixels_), pitch_(width_ + 2),
        rows_(std::max(1, std::min(height_, Products::strip_rows(width_)))), hidden_moments_(layers_), hidden_(layers_) {
    feature_moments_.resize(total_);
    for (auto& moments : hidden_moments_) moments.resize(bottleneck_);
    for (int row = 0; row < 3; ++row)
      for (int column = 0; column < 3; ++column) taps_3x3_.push_back(row * pitch_ + column);
  }

  void forward(const Parameters& given, const float* in, float* out, bool training) override {
    Value* features = features_.get(batch_ * layout_.size());
    std::vector<Layer> layers = padding_.padded(given.layers);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) layout_.read_input(in, n, features);
    if (training) measure_input(features);
    for (int l = 0; l < layers_; ++l)
      forward_layer(layers[l], l, features, hidden_[l].get(batch_ * hidden_size()), training);
    if (training) padding_.write_moving_averages(layers, given.layers);
    if (transition_) return forward_transition(given.transition, features, out, training);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) layout_.write_output(features, n, out);
  }

  void backward(const Parameters& given, const float* out_grad, float* in_grad) override {
    const Value* features = features_.data();
    Backward arrays = carved(&shared.arrays, [this](Arena* arena) {
      return Backward{arena->take<float>(batch_ * layout_.size()), arena->take<Value>(batch_ * hidden_size())};
    });
    std::vector<Layer> layers = padding_.padded(given.layers);
    feature_terms_ = MeanTerms(total_);
    if (transition_) {
      backward_transition(given.transition, features, out_grad, arrays.feature_grads);
    } else {
#pragma omp parallel for schedule(static)
      for (int n = 0; n < batch_; ++n) layout_.read_output(out_grad, n, arrays.feature_grads);
    }
    for (int l = layers_ - 1; l >= 0; --l) backward_layer(layers[l], l, features, arrays);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) {
      View<float> grads = layout_.picture(arrays.feature_grads, n);
      for (int b = 0; b < channels_ / BLOCK; ++b)
        feature_terms_.subtract(b, ONES, layout_.picture(features, n)[b], grads[b], grads[b], int(pixels_));
      layout_.write_input(arrays.feature_grads, n, in_grad);
    }
    padding_.write_gradients(layers, given.layers);
  }

 private:
  using Value = typename Products::Value;
  using Convolution = typename Products::Convolution;
  using WeightGradient = typename Products::WeightGradient;
  static constexpr int PITCH = Products::PITCH;

  // Arrays of the backward pass, of all pictures: gradients of the features, and of the second normalization's output in
  // one layer.
  struct Backward {
    float* feature_grads;
    Value* hidden_grads;
  };

  // What a thread needs for a strip in the backward pass. spread: gradients before the pooling of a transition.
  struct Scratch {
    typename Convolution::Scratch convolution;
    typename WeightGradient::Scratch gradient;
    float* spread;
  };

  // Part of the work of a layer: pixels of picture n from the first on, or rows.
  struct Job {
    int n, first, count;
  };

  void measure_input(const Value* features) {
    MomentSums sums(channels_);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n)
      for (int b = 0; b < channels_ / BLOCK; ++b)
        for (long first = 0; first < pixels_; first += MEASURED) {
          int pixels = int(std::min(MEASURED, pixels_ - first));
          sums.add_strip(b, layout_.picture(features, n).from_pixel(first)[b], 1, pixels, 0);
        }
    feature_moments_.set(sums, 0, channels_, count_);
  }

  void forward_layer(const Layer& layer, int index, Value* features, Value* hidden, bool training) {
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
  void backward_layer(const Layer& layer, int index, const Value* features, const Backward& arrays) {
    const Moments& moments = hidden_moments_[index];
    Affine affine1, affine2;
    affine1.set(layer.norm1, feature_moments_.mean.data(), feature_moments_.variance.data(), inputs(index), eps_);
    affine2.set(layer.norm2, moments.mean.data(), moments.variance.data(), bottleneck_, eps_);
    const Value* hidden = hidden_[index].data();
    MeanTerms terms = backward_3x3(layer, index, affine2, features, hidden, arrays);
    backward_1x1(layer, index, affine1, affine2, terms, features, hidden, arrays);
  }

  // From features to the hidden array, the outputs of the 1x1 convolution, which are added to the sums if there are any.
  void forward_1x1(const Layer& layer, int index, const Affine& affine, const Value* features, Value* hidden,
                   MomentSums* sums) const {
    int channels = inputs(index), step = strip_pixels(channels);
    Convolution convolution(layer.weight1, order_1x1(channels), bottleneck_, channels, ONE_TAP, step, step);
    auto carve = [&](Arena* arena) { return convolution.scratch(arena); };
    for_each_strip(int(pixels_), step, carve, [&](Job job, const typename Convolution::Scratch& scratch) {
      View<const Value> in = layout_.picture(features, job.n).from_pixel(job.first);
      View<Value> out = picture(hidden, job.n).from_pixel(job.first);
      for (int b = 0; b < channels / BLOCK; ++b)
        affine.template apply<PITCH>(b, in[b], scratch.in[b], job.count, pixels_);
      convolution.compute(scratch, {1, job.count, job.count}, [&](int b, const float* products, int) {
        keep(b, products, {1, job.count, job.count}, out[b], sums);
      });
    });
  }

  // From the hidden array to the features that the layer appends.
  void forward_3x3(const Layer& layer, int index, const Affine& affine, const Value* hidden, Value* features,
                   MomentSums* sums) const {
    Convolution convolution(layer.weight2, order_3x3(bottleneck_), growth_, bottleneck_, taps_3x3_, padded_pixels(),
                            long(rows_) * pitch_);
    auto carve = [&](Arena* arena) { return convolution.scratch(arena); };
    for_each_strip(height_, rows_, carve, [&](Job job, const typename Convolution::Scratch& scratch) {
      View<const Value> in = picture(hidden, job.n);
      View<Value> out = appended(layout_.picture(features, job.n), index).from_pixel(long(job.first) * width_);
      for (int b = 0; b < bottleneck_ / BLOCK; ++b)
        pad_rows<PITCH>(scratch.in[b], job, [&](int row, Value* to) {
          affine.template apply<PITCH>(b, in.from_pixel(long(row) * width_)[b], to, width_, width_);
        });
      convolution.compute(scratch, {job.count, width_, pitch_}, [&](int b, const float* products, int pitch) {
        keep(b, products, {job.count, width_, pitch}, out[b], sums);
      });
    });
  }

  // From the gradients of the appended features, through the 3x3 convolution, to hidden_grads: those of the second
  // normalization's output. The terms of its batch means are returned.
  MeanTerms backward_3x3(const Layer& layer, int index, const Affine& affine, const Value* features,
                         const Value* hidden, const Backward& arrays) const {
    long out_pixels = long(rows_) * pitch_;
    WeightOrder order = order_3x3(bottleneck_);
    Convolution convolution(layer.weight2, order.transposed(9), bottleneck_, growth_, taps_3x3_, padded_pixels(),
                            out_pixels);
    WeightGradient gradient(growth_, bottleneck_, taps_3x3_, padded_pixels(), out_pixels);
    NormSums sums(bottleneck_);
    auto carve = [&](Arena* arena) { return Scratch{convolution.scratch(arena), gradient.scratch(arena), nullptr}; };
    for_each_strip(height_, rows_, carve, [&](Job job, const Scratch& scratch) {
      View<const Value> in = picture(hidden, job.n);
      for (int b = 0; b < bottleneck_ / BLOCK; ++b)
        gradient.write_rows(scratch.gradient, b, long(job.count + 2) * pitch_, [&](Value* padded) {
          pad_rows<BLOCK>(padded, job, [&](int row, Value* to) {
            affine.apply(b, in.from_pixel(long(row) * width_)[b], to, width_, width_);
          });
        });
      View<const Value> out = appended(layout_.picture(features, job.n), index);
      View<const float> out_grads = appended(layout_.picture(arrays.feature_grads, job.n), index);
      for (int b = 0; b < growth_ / BLOCK; ++b)
        pad_rows<PITCH>(scratch.convolution.in[b], job, [&](int row, Value* to) {
          long pixel = long(row) * width_;
          feature_terms_.template subtract<PITCH>(inputs(index) / BLOCK + b, ONES, out.from_pixel(pixel)[b],
                                                  out_grads.from_pixel(pixel)[b], to, width_);
        });
      Strip strip{job.count, width_, pitch_};
      gradient.add(scratch.gradient, scratch.convolution.in.from_pixel(pitch_ + 1), strip);
      long first_pixel = long(job.first) * width_;
      View<Value> in_grads = picture(arrays.hidden_grads, job.n).from_pixel(first_pixel);
      convolution.compute(scratch.convolution, strip, [&](int b, const float* products, int pitch) {
        affine.backward(b, in.from_pixel(first_pixel)[b], products, job.count, width_, pitch, &sums,
                        [to = in_grads[b]](int pixel, const Vec& grad) { store(to + pixel * BLOCK, grad); });
      });
    });
    sums.write_gradients(layer.norm2, bottleneck_);
    gradient.write(order, layer.weight2_grad);
    MeanTerms terms(bottleneck_);
    terms.add(sums, affine, bottleneck_, count_);
    return terms;
  }

  // From hidden_grads, through the second normalization, the 1x1 convolution and the first normalization, to the
  // gradients of the features that the layer reads; the first normalization's terms go to feature_terms_.
  void backward_1x1(const Layer& layer, int index, const Affine& affine1, const Affine& affine2, const MeanTerms& terms,
                    const Value* features, const Value* hidden, const Backward& arrays) {
    int channels = inputs(index), step = strip_pixels(2 * channels);
    WeightOrder order = order_1x1(channels);
    Convolution convolution(layer.weight1, order.transposed(1), channels, bottleneck_, ONE_TAP, step, step);
    WeightGradient gradient(bottleneck_, channels, ONE_TAP, step, step);
    NormSums sums(channels);
    auto carve = [&](Arena* arena) { return Scratch{convolution.scratch(arena), gradient.scratch(arena), nullptr}; };
    for_each_strip(int(pixels_), step, carve, [&](Job job, const Scratch& scratch) {
      View<const Value> out = picture(hidden, job.n).from_pixel(job.first);
      View<const Value> out_grads = picture(arrays.hidden_grads, job.n).from_pixel(job.first);
      for (int b = 0; b < bottleneck_ / BLOCK; ++b)
        terms.template subtract<PITCH>(b, at(affine2.scale + b * BLOCK), out[b], out_grads[b],
                                       scratch.convolution.in[b], job.count);
      View<const Value> in = layout_.picture(features, job.n).from_pixel(job.first);
      for (int b = 0; b < channels / BLOCK; ++b)
        gradient.write_pixels(scratch.gradient, b, job.count,
                              [this, activate = affine1.activation(b), values = in[b]](int p) {
                                __builtin_prefetch(values + (pixels_ + p) * BLOCK);  // of the next block
                                return activate(load(values + p * BLOCK));
                              });
      Strip strip{1, job.count, job.count};
      gradient.add(scratch.gradient, scratch.convolution.in, strip);
      View<float> in_grads = layout_.picture(arrays.feature_grads, job.n).from_pixel(job.first);
      convolution.compute(scratch.convolution, strip, [&](int b, const float* products, int) {
        affine1.backward(b, in[b], products, 1, job.count, 0, &sums,
                         [this, scale = at(affine1.scale + b * BLOCK), to = in_grads[b]](int pixel, const Vec& grad) {
                           __builtin_prefetch(to + (pixels_ + pixel) * BLOCK, 1);  // of the next block
                           at(to + pixel * BLOCK) += scale * grad;
                         });
      });
    });
    sums.write_gradients(layer.norm1, channels);
    gradient.write(order, layer.weight1_grad);
    feature_terms_.add(sums, affine1, channels, count_);
  }

  // From all features to the output of the transition, which pools before it convolves: both are linear.
  void forward_transition(const Transition& transition, const Value* features, float* out, bool training) const {
    int step = pooled_rows() * (width_ / 2);
    Convolution convolution(transition.weight, order_1x1(total_), transition_, total_, ONE_TAP, step, step);
    Affine affine;
    set_forward(&affine, transition.norm, feature_moments_, total_, training);
    auto carve = [&](Arena* arena) { return convolution.scratch(arena); };
    for_each_strip(height_ / 2, pooled_rows(), carve, [&](Job job, const typename Convolution::Scratch& scratch) {
      View<const Value> in = layout_.picture(features, job.n).from_pixel(2L * job.first * width_);
      int pixels = job.count * (width_ / 2);
      for (int b = 0; b < total_ / BLOCK; ++b)
        for (int p = 0; p < pixels; ++p)
          store(scratch.in[b] + p * PITCH, pooled(affine.activation(b), in[b], p, width_));
      convolution.compute(scratch, {1, pixels, pixels}, [&](int b, const float* products, int) {
        from_blocks(products, 0, BLOCK, pixels, pooled_block(out, job, b), pixels_ / 4);
      });
    });
  }

  // From the output's gradient to those of all features, which are written, and to feature_terms_.
  void backward_transition(const Transition& transition, const Value* features, const float* out_grad,
                           float* feature_grads) {
    int step = pooled_rows() * (width_ / 2);
    WeightOrder order = order_1x1(total_);
    Convolution convolution(transition.weight, order.transposed(1), total_, transition_, ONE_TAP, step, step);
    WeightGradient gradient(transition_, total_, ONE_TAP, step, step);
    Affine affine;
    affine.set(transition.norm, feature_moments_.mean.data(), feature_moments_.variance.data(), total_, eps_);
    NormSums sums(total_);
    auto carve = [&](Arena* arena) {
      return Scratch{convolution.scratch(arena), gradient.scratch(arena), arena->take<float>(4L * step * BLOCK)};
    };
    for_each_strip(height_ / 2, pooled_rows(), carve, [&](Job job, const Scratch& scratch) {
      View<const Value> in = layout_.picture(features, job.n).from_pixel(2L * job.first * width_);
      int pixels = job.count * (width_ / 2);
      for (int b = 0; b < transition_ / BLOCK; ++b)
        to_blocks<PITCH>(pooled_block(out_grad, job, b), pixels_ / 4, BLOCK, pixels, scratch.convolution.in[b], 0);
      for (int b = 0; b < total_ / BLOCK; ++b)
        gradient.write_pixels(scratch.gradient, b, pixels,
                              [&](int p) { return pooled(affine.activation(b), in[b], p, width_); });
      Strip strip{1, pixels, pixels};
      gradient.add(scratch.gradient, scratch.convolution.in, strip);
      View<float> in_grads = layout_.picture(feature_grads, job.n).from_pixel(2L * job.first * width_);
      convolution.compute(scratch.convolution, strip, [&](int b, const float* products, int) {
        unpool(products, 2 * job.count, width_, scratch.spread);
        affine.backward(b, in[b], scratch.spread, 1, 4 * pixels, 0, &sums,
                        [scale = at(affine.scale + b * BLOCK), to = in_grads[b]](int pixel, const Vec& grad) {
                          at(to + pixel * BLOCK) = scale * grad;
                        });
      });
    });
    sums.write_gradients(transition.norm, total_);
    gradient.write(order, transition.weight_grad);
    feature_terms_.add(sums, affine, total_, count_);
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

  // Write a block of outputs of a convolution, and add it to the sums if there are any.
  static void keep(int block, const float* products, Strip strip, Value* to, MomentSums* sums) {
    for (int row = 0; row < strip.rows; ++row)
      for (int column = 0; column < strip.width; ++column)
        store(to + (row * strip.width + column) * BLOCK, at(products + (row * strip.pitch + column) * BLOCK));
    if (sums) sums->add_strip(block, to, strip.rows, strip.width, strip.width);
  }

  // Fill the rows of a job, with one row and one column of neighbors, or zeros, around them. DISTANCE: values from
  // one pixel to the next.
  template <int DISTANCE, class Fill>
  void pad_rows(Value* padded, Job job, Fill fill) const {
    pad<DISTANCE>(padded, pitch_, width_, job.first - 1, job.first + job.count + 1, height_, fill);
  }

  // Cut every picture into strips of `step` out of `length` rows or pixels, and call work(job, scratch) for each, on all
  // threads; carve(arena) takes a thread's scratch.
  template <class Carve, class Work>
  void for_each_strip(int length, int step, Carve carve, Work work) const {
    int strips = (length + step - 1) / step;
    for_each_job<typename Products::Registers>(batch_ * strips, carve, [&](int job, const auto& scratch) {
      int first = job % strips * step;
      work(Job{job / strips, first, std::min(step, length - first)}, scratch);
    });
  }

  // Where a strip of a block of the transition is in MXNet's array (N, transition, H/2, W/2).
  template <class Float>
  Float* pooled_block(Float* plain, Job job, int block) const {
    return plain + (job.n * transition_ + block * BLOCK) * (pixels_ / 4) + job.first * (width_ / 2);
  }

  int strip_pixels(int channels) const { return int(std::min<long>(Products::strip_pixels(channels), pixels_)); }
  // Rows of a strip of the transition's output.
  int pooled_rows() const { return std::max(1, std::min(height_ / 2, Products::pooled_pixels(total_) / (width_ / 2))); }
  // Pixels of a strip of the 3x3 convolution, with its padding.
  long padded_pixels() const { return long(rows_ + 2) * pitch_; }

  int inputs(int layer) const { return channels_ + layer * growth_; }
  long hidden_size() const { return bottleneck_ * pixels_; }  // of one picture

  // A picture of the hidden array.
  template <class Element>
  View<Element> picture(Element* hidden, int n) const {
    return {hidden + n * hidden_size(), pixels_ * BLOCK};
  }

  // The features that a layer appends to a picture.
  template <class Element>
  View<Element> appended(View<Element> features, int layer) const {
    return features.from_block(inputs(layer) / BLOCK);
  }

  static constexpr long MEASURED = 256;  // pixels whose sums are in single precision

  Padding padding_;
  int batch_, height_, width_;
  int channels_, bottleneck_, growth_, layers_, transition_, total_;  // channels_ and total_ include the padding
  long pixels_;
  Layout layout_;
  float eps_, momentum_;
  double count_;  // values per channel
  int pitch_;     // pixels of a zero-padded row
  int rows_;      // of a strip of the 3x3 convolution
  std::vector<int> taps_3x3_;
  Moments feature_moments_;
  std::vector<Moments> hidden_moments_;
  MeanTerms feature_terms_;
  Array<Value> features_;
  std::vector<Array<Value>> hidden_;  // outputs of the 1x1 convolutions, per layer
};

}  // namespace

#endif  // DENSEFACE_TRAINING_BLOCK_H_

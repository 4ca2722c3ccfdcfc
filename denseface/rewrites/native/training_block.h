// A dense block in training as one operator of MXNet: every layer of
//   BN - activation - 1x1 convolution - BN - activation - 3x3 convolution, appended to its input.
//
// What it saves against an operator a step:
// - Features lie in one array that every layer reads and appends to; nothing is concatenated.
// - A feature's batch statistics are computed once, not by every later layer.
// - Normalised and activated values exist for one strip of a picture at a time, in the cache, and are computed again
//   when going backward.  Only the features and the outputs of the 1x1 convolutions are kept.
// - Gradients of features are added up in one array.  A normalisation gives s (g - mean(g) - x' mean(g x')) for the
//   gradient g of its output, with x' the normalised input and s its scale over the deviation.  The two means are known
//   after all strips only; as they are affine in x', their sum over layers is subtracted when a feature's turn comes.

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
  TrainingBlock(int batch, int height, int width, int channels, int bottleneck, int growth, int layers, float eps,
                float momentum)
      : padding_(channels, bottleneck, growth), batch_(batch), height_(height), width_(width),
        channels_(padding_.channels()), bottleneck_(bottleneck), growth_(growth), layers_(layers),
        total_(channels_ + layers * growth), pixels_(long(height) * width),
        layout_{channels, channels_, total_, pixels_}, eps_(eps), momentum_(momentum),
        count_(double(batch) * pixels_) {
    features_.mean.resize(total_), features_.variance.resize(total_);
    hidden_.resize(layers), hidden_moments_.resize(layers);
    for (auto& moments : hidden_moments_) moments.mean.resize(bottleneck), moments.variance.resize(bottleneck);
    rows_ = std::max(1, std::min(height, 224 / width));
    for (int r = 0; r < 3; ++r)
      for (int c = 0; c < 3; ++c) taps3_.push_back(r * (width + 2) + c);
  }

  // in: (N, channels, H, W), out: (N, total, H, W)
  void forward(const std::vector<Layer>& given, const float* in, float* out, bool training) {
    std::lock_guard<std::mutex> lock(mutex);
    float* x = x_.get(batch_ * total_ * pixels_);
    std::vector<Layer> layers = padding_.spread(given);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) layout_.read_input(in, n, x);
    Sums sums(channels_, 2);
    if (training) {
#pragma omp parallel for schedule(static)
      for (int n = 0; n < batch_; ++n)
        for (int b = 0; b < channels_ / B; ++b) {
          for (long p = 0; p < pixels_; p += 256)
            add_moments(&sums, b, x + feature(n, b) + p * B, 1, int(std::min(256L, pixels_ - p)), 0);
        }
      features_.take(sums, 0, channels_, count_);
    }
    for (int l = 0; l < layers_; ++l) forward_layer(layers[l], l, x, training);
    if (training) padding_.give_moving_averages(layers, given);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) layout_.write_output(x, n, out);
  }

  // grad: of the output; in_grad: of the input
  void backward(const std::vector<Layer>& given, const float* grad, float* in_grad) {
    std::lock_guard<std::mutex> lock(mutex);
    float* x = x_.get(batch_ * total_ * pixels_);
    float* g = gradient_space.get(batch_ * total_ * pixels_);
    float* d = hidden_space.get(batch_ * bottleneck_ * pixels_);
    std::vector<Layer> layers = padding_.spread(given);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) layout_.read_output(grad, n, g);
    offset_.assign(total_, 0), factor_.assign(total_, 0);
    for (int l = layers_ - 1; l >= 0; --l) backward_layer(layers[l], l, x, g, d);
    int blocks = channels_ / B;
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n)
      for (int b = 0; b < blocks; ++b)
        finish_gradient(x + feature(n, b), g + feature(n, b), b, g + feature(n, b), int(pixels_));
    padding_.give_gradients(layers, given);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) layout_.write_input(g, n, in_grad);
  }

 private:
  long feature(int n, int block) const { return layout_.place(n, block); }
  long hidden(int n, int block) const { return (long(n) * (bottleneck_ / B) + block) * pixels_ * B; }
  int inputs(int l) const { return channels_ + l * growth_; }

  int strip_of(int channels) const { return int(std::min<long>(pixels_at_once(channels), pixels_)); }

  // The statistics to normalise with; the moving ones follow those of the batch in training.
  void prepare(Affine* affine, const Norm& norm, const Moments& moments, int channels, bool training) const {
    if (!training) return affine->set(norm, norm.moving_mean, norm.moving_variance, channels, eps_);
    affine->set(norm, moments.mean.data(), moments.variance.data(), channels, eps_);
    for (int c = 0; c < channels; ++c) {
      norm.moving_mean[c] = momentum_ * norm.moving_mean[c] + (1 - momentum_) * moments.mean[c];
      norm.moving_variance[c] = momentum_ * norm.moving_variance[c] + (1 - momentum_) * moments.variance[c];
    }
  }

  void forward_layer(const Layer& layer, int l, float* x, bool training) {
    int channels = inputs(l), in_blocks = channels / B, blocks = bottleneck_ / B, out_blocks = growth_ / B;
    float* z = hidden_[l].get(batch_ * bottleneck_ * pixels_);
    float* w1 = weights_space.get(size_t(bottleneck_) * (channels + 9 * growth_));
    float* w2 = w1 + long(bottleneck_) * channels;
    pack(layer.weight1, {channels, 1, 0, 0}, blocks, in_blocks, 1, w1);
    pack(layer.weight2, {9L * bottleneck_, 9, 1, 0}, out_blocks, blocks, 9, w2);
    int size = strip_of(channels), strips = int((pixels_ + size - 1) / size);
    Affine affine1, affine2;
    prepare(&affine1, layer.norm1, features_, channels, training);
    Sums sums(bottleneck_, 2);
    long thread_space = long(size) * channels;
    float* space = threads_space.get(omp_get_max_threads() * thread_space);
#pragma omp parallel for schedule(static)
    for (int job = 0; job < batch_ * strips; ++job) {
      int n = job / strips, first = job % strips * size, pixels = int(std::min<long>(size, pixels_ - first));
      float* a = space + omp_get_thread_num() * thread_space;
      for (int b = 0; b < in_blocks; ++b)
        affine1.apply(b, x + feature(n, b) + first * B, a + long(b) * size * B, pixels, pixels_);
      float* out = z + hidden(n, 0) + first * B;
      convolve(a, long(size) * B, {1, pixels, 0}, {0}, in_blocks, w1, out, pixels_ * B, 0, blocks);
      if (training)
        for (int b = 0; b < blocks; ++b) add_moments(&sums, b, out + b * pixels_ * B, 1, pixels, 0);
    }
    if (training) hidden_moments_[l].take(sums, 0, bottleneck_, count_);
    prepare(&affine2, layer.norm2, hidden_moments_[l], bottleneck_, training);
    Sums out_sums(growth_, 2);
    int row_strips = (height_ + rows_ - 1) / rows_;
    thread_space = padded() * blocks;
    space = threads_space.get(omp_get_max_threads() * thread_space);
#pragma omp parallel for schedule(static)
    for (int job = 0; job < batch_ * row_strips; ++job) {
      int n = job / row_strips, first = job % row_strips * rows_, rows = std::min(rows_, height_ - first);
      float* a = space + omp_get_thread_num() * thread_space;
      for (int b = 0; b < blocks; ++b)
        pad(a + b * padded(), first, rows, [&](int r, float* to) {
          affine2.apply(b, z + hidden(n, b) + long(r) * width_ * B, to, width_, width_);
        });
      float* out = x + feature(n, in_blocks) + long(first) * width_ * B;
      convolve(a, padded(), {rows, width_, width_ + 2}, taps3_, blocks, w2, out, pixels_ * B, width_, out_blocks);
      if (training)
        for (int b = 0; b < out_blocks; ++b) add_moments(&out_sums, b, out + b * pixels_ * B, rows, width_, width_);
    }
    if (training) features_.take(out_sums, channels, growth_, count_);
  }

  void backward_layer(const Layer& layer, int l, const float* x, float* g, float* d) {
    int channels = inputs(l), in_blocks = channels / B, blocks = bottleneck_ / B, out_blocks = growth_ / B;
    int threads = omp_get_max_threads();
    const float* z = hidden_[l].get(0);
    long size1 = long(bottleneck_) * channels, size2 = 9L * bottleneck_ * growth_;
    float* w1 = weights_space.get((size1 + size2) * (1 + threads));
    float *w2 = w1 + size1, *sums1 = w2 + size2, *sums2 = sums1 + threads * size1;
    std::fill(sums1, sums2 + threads * size2, 0.0f);
    pack(layer.weight1, {1, channels, 0, 0}, in_blocks, blocks, 1, w1);
    pack(layer.weight2, {9, 9L * bottleneck_, -1, 8}, blocks, out_blocks, 9, w2);
    Affine affine1, affine2;
    affine1.set(layer.norm1, features_.mean.data(), features_.variance.data(), channels, eps_);
    affine2.set(layer.norm2, hidden_moments_[l].mean.data(), hidden_moments_[l].variance.data(), bottleneck_, eps_);

    // Through the 3x3 convolution, to d: the gradient of the second normalisation's output.
    Sums norm2_sums(bottleneck_, 3);
    int row_strips = (height_ + rows_ - 1) / rows_;
    long thread_space = padded() * (blocks + out_blocks);
    float* space = threads_space.get(threads * thread_space);
#pragma omp parallel for schedule(static)
    for (int job = 0; job < batch_ * row_strips; ++job) {
      int n = job / row_strips, first = job % row_strips * rows_, rows = std::min(rows_, height_ - first);
      float* a = space + omp_get_thread_num() * thread_space;
      float* y_grad = a + blocks * padded();
      for (int b = 0; b < blocks; ++b)
        pad(a + b * padded(), first, rows, [&](int r, float* to) {
          affine2.apply(b, z + hidden(n, b) + long(r) * width_ * B, to, width_, width_);
        });
      for (int b = 0; b < out_blocks; ++b)
        pad(y_grad + b * padded(), first, rows, [&](int r, float* to) {
          long from = feature(n, in_blocks + b) + long(r) * width_ * B;
          finish_gradient(x + from, g + from, in_blocks + b, to, width_);
        });
      Strip strip{rows, width_, width_ + 2};
      weight_gradient(a, padded(), width_ + 2, taps3_, blocks, y_grad + (width_ + 3) * B, padded(), strip, out_blocks,
                      sums2 + omp_get_thread_num() * size2);
      float* out = d + hidden(n, 0) + long(first) * width_ * B;
      convolve(y_grad, padded(), strip, taps3_, out_blocks, w2, out, pixels_ * B, width_, blocks);
      for (int b = 0; b < blocks; ++b) {
        float* grads = out + b * pixels_ * B;
        affine2.back(b, z + hidden(n, b) + long(first) * width_ * B, grads, rows * width_, &norm2_sums,
                     [=](int p, const Vec& grad) { at(grads + p * B) = grad; });
      }
    }
    give_gradients(norm2_sums, bottleneck_, layer.norm2);
    give_weights(sums2, size2, threads, layer.weight2_grad, {9L * bottleneck_, 9, 1, 0}, out_blocks, blocks, 9);

    // Through the second normalisation, the 1x1 convolution and the first normalisation, but for its means.
    std::vector<float> offset(bottleneck_), factor(bottleneck_);
    add_means(norm2_sums, affine2, bottleneck_, &offset, &factor);
    Sums norm1_sums(channels, 3);
    int size = strip_of(2 * channels), strips = int((pixels_ + size - 1) / size);
    thread_space = long(size) * (2 * channels + bottleneck_);
    space = threads_space.get(threads * thread_space);
#pragma omp parallel for schedule(static)
    for (int job = 0; job < batch_ * strips; ++job) {
      int n = job / strips, first = job % strips * size, pixels = int(std::min<long>(size, pixels_ - first));
      float* a = space + omp_get_thread_num() * thread_space;
      float *a_grad = a + long(size) * channels, *z_grad = a_grad + long(size) * channels;
      for (int b = 0; b < blocks; ++b) {
        Vec s = at(affine2.scale + b * B), o, f;
        for (int k = 0; k < B; ++k) o[k] = offset[b * B + k], f[k] = factor[b * B + k];
        const float *v = d + hidden(n, b) + first * B, *values = z + hidden(n, b) + first * B;
        float* to = z_grad + long(b) * size * B;
        for (int p = 0; p < pixels; ++p) at(to + p * B) = s * at(v + p * B) - (o + f * at(values + p * B));
      }
      for (int b = 0; b < in_blocks; ++b)
        affine1.apply(b, x + feature(n, b) + first * B, a + long(b) * size * B, pixels, pixels_);
      Strip strip{1, pixels, 0};
      weight_gradient(a, long(size) * B, 0, {0}, in_blocks, z_grad, long(size) * B, strip, blocks,
                      sums1 + omp_get_thread_num() * size1);
      convolve(z_grad, long(size) * B, strip, {0}, blocks, w1, a_grad, long(size) * B, 0, in_blocks);
      for (int b = 0; b < in_blocks; ++b) {
        Vec s = at(affine1.scale + b * B);
        float* to = g + feature(n, b) + first * B;
        affine1.back(b, x + feature(n, b) + first * B, a_grad + long(b) * size * B, pixels, &norm1_sums,
                     [=](int p, const Vec& grad) {
                       __builtin_prefetch(to + (pixels_ + p) * B, 1);  // of the next block
                       at(to + p * B) += s * grad;
                     });
      }
    }
    give_gradients(norm1_sums, channels, layer.norm1);
    give_weights(sums1, size1, threads, layer.weight1_grad, {channels, 1, 0, 0}, blocks, in_blocks, 1);
    add_means(norm1_sums, affine1, channels, &offset_, &factor_);
  }

  // Add s (mean(g) + x' mean(g x')) as offset + factor x.
  void add_means(const Sums& sums, const Affine& affine, int channels, std::vector<float>* offset,
                 std::vector<float>* factor) const {
    for (int c = 0; c < channels; ++c) {
      double along = affine.scale[c] * sums.get(1, c) / count_ * affine.inverse[c];
      (*factor)[c] += float(along);
      (*offset)[c] += float(affine.scale[c] * sums.get(0, c) / count_ - along * affine.mean[c]);
    }
  }

  // The gradient of a feature whose later layers have all added theirs.
  void finish_gradient(const float* x, const float* g, int block, float* out, int pixels) const {
    Vec offset, factor;
    for (int k = 0; k < B; ++k) offset[k] = offset_[block * B + k], factor[k] = factor_[block * B + k];
    for (int p = 0; p < pixels; ++p) at(out + p * B) = at(g + p * B) - (offset + factor * at(x + p * B));
  }

  void give_weights(float* sums, long size, int threads, float* gradients, Order order, int out_blocks, int in_blocks,
                    int taps) const {
    visit(order, out_blocks, in_blocks, taps, [=](long from, long to) {
      float sum = 0;
      for (int t = 0; t < threads; ++t) sum += sums[t * size + from];
      gradients[to] = sum;
    });
  }

  // Floats of a block of a strip with a pixel of zeros around it.
  long padded() const { return long(rows_ + 2) * (width_ + 2) * B; }

  template <class Fill>
  void pad(float* block, int first, int rows, Fill fill) const {
    ::pad(block, width_ + 2, width_, first - 1, first + rows + 1, height_, fill);
  }

  Padding padding_;
  int batch_, height_, width_;
  int channels_, bottleneck_, growth_, layers_, total_;  // channels_, total_: with what fills up the input
  long pixels_;
  Layout layout_;
  float eps_, momentum_;
  double count_;
  int rows_;  // of a strip
  std::vector<int> taps3_;
  Buffer x_;                    // features
  std::vector<Buffer> hidden_;  // outputs of the 1x1 convolutions, by layer
  Moments features_;
  std::vector<Moments> hidden_moments_;
  std::vector<float> offset_, factor_;  // what is to be subtracted from gradients of features: offset + factor x

  // Shared by all blocks, of which one computes at a time, on all cores.
  static std::mutex mutex;
  static Buffer gradient_space, hidden_space, weights_space, threads_space;
};

std::mutex TrainingBlock::mutex;
Buffer TrainingBlock::gradient_space, TrainingBlock::hidden_space, TrainingBlock::weights_space,
    TrainingBlock::threads_space;

}  // namespace

#endif  // DENSEFACE_TRAINING_BLOCK_H_

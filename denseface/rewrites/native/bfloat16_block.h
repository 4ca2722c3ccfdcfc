// A dense block in training whose products are of bfloat16; statistics and sums are in float32 or double.
//
// Features, the outputs of the 1x1 convolutions, and the gradients of the latter are kept in bfloat16, sums of features'
// gradients in float32. Statistics are those of the rounded values, which later layers read.

#ifndef DENSEFACE_BFLOAT16_BLOCK_H_
#define DENSEFACE_BFLOAT16_BLOCK_H_

#include "bfloat16_convolutions.h"
#include "bfloat16_strips.h"
#include "dense_block.h"

#ifdef DENSEFACE_HAS_BFLOAT16

namespace {

class HalfBlock : public StoredBlock<Half> {
 public:
  HalfBlock(const BlockShape& shape, float eps, float momentum)
      : StoredBlock(shape, eps, momentum, false), rows_(std::max(1, std::min(height_, 448 / pitch_))),
        padded_(round_up(long(rows_ + 2) * pitch_) + 2 * SIDE), step_(int(std::min(448L, pixels_))) {}

 private:
  void forward_1x1(const Layer& layer, int index, const Affine& affine1, const Half* features, Half* hidden,
                   MomentSums* sums) override {
    int channels = inputs(index), in_blocks = channels / BLOCK;
    Half* weights = weights_space.get(packed_size(bottleneck_, channels, 1));
    pack_half(layer.weight1, order_1x1(channels), bottleneck_, channels, 1, weights);
    long stride = round_up(step_) * SIDE;
    HalfConvolution convolution(channels, {0}, stride);
    for_each_strip(int(pixels_), step_, stride + pairs_of(channels) * stride / 2, [&](Job job) {
      TileRegisters tiles;
      float* products = job.scratch;
      Half* activated = reinterpret_cast<Half*>(products + stride);
      View<const Half> in = layout_.picture(features, job.n).from_pixel(job.first);
      for (int b = 0; b < in_blocks; ++b)
        affine1.apply<SIDE>(b, in[b], part_of(activated, stride, b), job.count, pixels_);
      if (in_blocks % 2) clear_part(part_of(activated, stride, in_blocks), job.count);
      View<Half> out = picture(hidden, job.n).from_pixel(job.first);
      for (int pair = 0; pair < pairs_of(bottleneck_); ++pair) {
        convolution.compute(activated, weights, pair, job.count, products);
        for (int b = 2 * pair; b < std::min(2 * pair + 2, bottleneck_ / BLOCK); ++b) {
          const float* from = products + b % 2 * round_up(job.count) * BLOCK;
          for (int p = 0; p < job.count; ++p) store(out[b] + p * BLOCK, at(from + p * BLOCK));
          if (sums) sums->add_strip(b, out[b], 1, job.count, 0);
        }
      }
    });
  }

  void forward_3x3(const Layer& layer, int index, const Affine& affine2, const Half* hidden, Half* features,
                   MomentSums* sums) override {
    int appended = inputs(index), hidden_blocks = bottleneck_ / BLOCK;
    Half* weights = weights_space.get(packed_size(growth_, bottleneck_, 9));
    pack_half(layer.weight2, order_3x3(bottleneck_), growth_, bottleneck_, 9, weights);
    long stride = padded_ * SIDE;
    HalfConvolution convolution(bottleneck_, taps_3x3_, stride);
    for_each_strip(height_, rows_, stride + pairs_of(bottleneck_) * stride / 2, [&](Job job) {
      TileRegisters tiles;
      float* products = job.scratch;
      Half* activated = reinterpret_cast<Half*>(products + stride);
      View<const Half> in = picture(hidden, job.n);
      for (int b = 0; b < 2 * pairs_of(bottleneck_); ++b)
        pad_rows(part_of(activated, stride, b), job, b < hidden_blocks, [&](int row, Half* to) {
          affine2.apply<SIDE>(b, in.from_pixel(long(row) * width_)[b], to, width_, width_);
        });
      View<Half> out = layout_.picture(features, job.n).from_pixel(long(job.first) * width_);
      for (int pair = 0; pair < pairs_of(growth_); ++pair) {
        convolution.compute(activated, weights, pair, job.count * pitch_, products);
        for (int b = 2 * pair; b < std::min(2 * pair + 2, growth_ / BLOCK); ++b) {
          const float* from = products + b % 2 * round_up(job.count * pitch_) * BLOCK;
          Half* to = out[appended / BLOCK + b];
          for (int row = 0; row < job.count; ++row)
            for (int column = 0; column < width_; ++column)
              store(to + (row * width_ + column) * BLOCK, at(from + (row * pitch_ + column) * BLOCK));
          if (sums) sums->add_strip(b, to, job.count, width_, width_);
        }
      }
    });
  }

  MeanTerms backward_3x3(const Layer& layer, int index, const Affine& affine2, const Half* features,
                         const Half* hidden, const float* feature_grads, Half* hidden_grads) override {
    int hidden_blocks = bottleneck_ / BLOCK, out_blocks = growth_ / BLOCK, appended = inputs(index) / BLOCK;
    WeightOrder order = order_3x3(bottleneck_);
    Half* weights = weights_space.get(packed_size(bottleneck_, growth_, 9));
    pack_half(layer.weight2, order.transposed(9), bottleneck_, growth_, 9, weights);
    HalfWeightGradient gradient(growth_, bottleneck_, taps_3x3_);
    float* weight_sums = zeros_per_thread(sums_space.get(gradient.size() * omp_get_max_threads()), gradient.size());
    NormSums sums(bottleneck_);
    long stride = padded_ * SIDE, block_stride = padded_ * BLOCK;
    long parity_stride = 2 * pairs_of(bottleneck_) * block_stride;
    long grads_size = pairs_of(growth_) * stride;
    HalfConvolution convolution(growth_, taps_3x3_, stride);
    for_each_strip(height_, rows_, stride + (block_stride + 2 * parity_stride + 2 * grads_size) / 2, [&](Job job) {
      TileRegisters tiles;
      float* products = job.scratch;
      Half* row_space = reinterpret_cast<Half*>(products + stride);
      Half* activated = row_space + block_stride;
      Half* out_grads = activated + 2 * parity_stride;
      Half* transposed = out_grads + grads_size;
      int pixels = job.count * pitch_;
      View<const Half> in = picture(hidden, job.n);
      for (int b = 0; b < 2 * pairs_of(bottleneck_); ++b) {
        pad_rows<BLOCK>(row_space, job, b < hidden_blocks, [&](int row, Half* to) {
          affine2.apply(b, in.from_pixel(long(row) * width_)[b], to, width_, width_);
        });
        std::fill(row_space + (job.count + 2) * pitch_ * BLOCK, row_space + block_stride, Half(0));
        interleave_strip(row_space, padded_, activated + b * block_stride, parity_stride);
      }
      for (int b = 0; b < 2 * pairs_of(growth_); ++b)
        pad_rows(part_of(out_grads, stride, b), job, b < out_blocks, [&](int row, Half* to) {
          long pixel = long(row) * width_;
          feature_terms_.subtract<SIDE>(appended + b, ONES,
                                        layout_.picture(features, job.n).from_pixel(pixel)[appended + b],
                                        layout_.picture(feature_grads, job.n).from_pixel(pixel)[appended + b], to,
                                        width_);
        });
      transpose_strip(out_grads + (pitch_ + 1) * SIDE, stride, pairs_of(growth_), pixels, transposed);
      gradient.add(transposed, pixels, block_stride, [=](int pair, int tap) {
        return activated + tap % 2 * parity_stride + 2 * pair * block_stride + tap / 2 * SIDE;
      }, weight_sums + omp_get_thread_num() * gradient.size());
      long first_pixel = long(job.first) * width_;
      View<Half> in_grads = picture(hidden_grads, job.n).from_pixel(first_pixel);
      for (int pair = 0; pair < pairs_of(bottleneck_); ++pair) {
        convolution.compute(out_grads, weights, pair, pixels, products);
        for (int b = 2 * pair; b < std::min(2 * pair + 2, hidden_blocks); ++b) {
          Half* grads = in_grads[b];
          affine2.backward(b, in.from_pixel(first_pixel)[b], products + b % 2 * round_up(pixels) * BLOCK, job.count,
                           width_, pitch_, &sums,
                           [=](int pixel, const Vec& grad) { store(grads + pixel * BLOCK, grad); });
        }
      }
    });
    sums.write_gradients(layer.norm2, bottleneck_);
    gradient.write(weight_sums, omp_get_max_threads(), order, layer.weight2_grad);
    MeanTerms terms(bottleneck_);
    terms.add(sums, affine2, bottleneck_, count_);
    return terms;
  }

  void backward_1x1(const Layer& layer, int index, const Affine& affine1, const Affine& affine2,
                    const MeanTerms& hidden_terms, const Half* features, const Half* hidden, const Half* hidden_grads,
                    float* feature_grads) override {
    int channels = inputs(index), in_blocks = channels / BLOCK, hidden_blocks = bottleneck_ / BLOCK;
    WeightOrder order = order_1x1(channels);
    Half* weights = weights_space.get(packed_size(channels, bottleneck_, 1));
    pack_half(layer.weight1, order.transposed(1), channels, bottleneck_, 1, weights);
    HalfWeightGradient gradient(bottleneck_, channels, {0});
    float* weight_sums = zeros_per_thread(sums_space.get(gradient.size() * omp_get_max_threads()), gradient.size());
    NormSums sums(channels);
    long stride = round_up(step_) * SIDE, block_stride = round_up(step_) * BLOCK;
    long grads_size = pairs_of(bottleneck_) * stride;
    HalfConvolution convolution(bottleneck_, {0}, stride);
    for_each_strip(int(pixels_), step_, stride + (2 * grads_size + pairs_of(channels) * stride) / 2, [&](Job job) {
      TileRegisters tiles;
      float* products = job.scratch;
      Half* out_grads = reinterpret_cast<Half*>(products + stride);
      Half* transposed = out_grads + grads_size;
      Half* activated = transposed + grads_size;
      for (int b = 0; b < hidden_blocks; ++b)
        hidden_terms.subtract<SIDE>(b, at(affine2.scale + b * BLOCK),
                                    picture(hidden, job.n).from_pixel(job.first)[b],
                                    picture(hidden_grads, job.n).from_pixel(job.first)[b], part_of(out_grads, stride, b),
                                    job.count);
      if (hidden_blocks % 2) clear_part(part_of(out_grads, stride, hidden_blocks), job.count);
      transpose_strip(out_grads, stride, pairs_of(bottleneck_), job.count, transposed);
      View<const Half> in = layout_.picture(features, job.n).from_pixel(job.first);
      for (int b = 0; b < in_blocks; ++b)
        interleave_values(job.count, activated + b * block_stride, [activate = affine1.activation(b), x = in[b]](int p) {
          return activate(load(x + p * BLOCK));
        });
      if (in_blocks % 2) std::fill_n(activated + in_blocks * block_stride, block_stride, Half(0));
      gradient.add(transposed, job.count, block_stride,
                   [=](int pair, int) { return activated + 2 * pair * block_stride; },
                   weight_sums + omp_get_thread_num() * gradient.size());
      View<float> in_grads = layout_.picture(feature_grads, job.n).from_pixel(job.first);
      for (int pair = 0; pair < pairs_of(channels); ++pair) {
        convolution.compute(out_grads, weights, pair, job.count, products);
        for (int b = 2 * pair; b < std::min(2 * pair + 2, in_blocks); ++b) {
          Vec scale = at(affine1.scale + b * BLOCK);
          float* to = in_grads[b];
          affine1.backward(b, in[b], products + b % 2 * round_up(job.count) * BLOCK, 1, job.count, 0, &sums,
                           [=](int pixel, const Vec& grad) {
                             __builtin_prefetch(to + (pixels_ + pixel) * BLOCK, 1);  // of the next block
                             at(to + pixel * BLOCK) += scale * grad;
                           });
        }
      }
    });
    sums.write_gradients(layer.norm1, channels);
    gradient.write(weight_sums, omp_get_max_threads(), order, layer.weight1_grad);
    feature_terms_.add(sums, affine1, channels, count_);
  }

  void forward_transition(const Transition& transition, const Half* features, float* out, bool training) override {
    int in_blocks = total_ / BLOCK, step = pooled_rows();
    Half* weights = weights_space.get(packed_size(transition_, total_, 1));
    pack_half(transition.weight, order_1x1(total_), transition_, total_, 1, weights);
    Affine affine;
    set_forward(&affine, transition.norm, feature_moments_, total_, training);
    long stride = round_up(long(step) * (width_ / 2)) * SIDE;
    HalfConvolution convolution(total_, {0}, stride);
    for_each_strip(height_ / 2, step, stride + pairs_of(total_) * stride / 2, [&](Job job) {
      TileRegisters tiles;
      float* products = job.scratch;
      Half* activated = reinterpret_cast<Half*>(products + stride);
      View<const Half> in = layout_.picture(features, job.n).from_pixel(2L * job.first * width_);
      int pixels = job.count * (width_ / 2);
      for (int b = 0; b < in_blocks; ++b)
        for (int p = 0; p < pixels; ++p)
          store(part_of(activated, stride, b) + p * SIDE, pooled(affine.activation(b), in[b], p, width_));
      if (in_blocks % 2) clear_part(part_of(activated, stride, in_blocks), pixels);
      for (int first = 0; first < transition_; first += SIDE) {
        convolution.compute(activated, weights, first / SIDE, pixels, products);
        from_blocks(products, round_up(pixels) * BLOCK, std::min(SIDE, transition_ - first), pixels,
                    pooled_part(out, job) + first * (pixels_ / 4), pixels_ / 4);
      }
    });
  }

  void backward_transition(const Transition& transition, const Half* features, const float* out_grad,
                           float* feature_grads) override {
    int in_blocks = total_ / BLOCK, step = pooled_rows();
    WeightOrder order = order_1x1(total_);
    Half* weights = weights_space.get(packed_size(total_, transition_, 1));
    pack_half(transition.weight, order.transposed(1), total_, transition_, 1, weights);
    HalfWeightGradient gradient(transition_, total_, {0});
    float* weight_sums = zeros_per_thread(sums_space.get(gradient.size() * omp_get_max_threads()), gradient.size());
    Affine affine;
    affine.set(transition.norm, feature_moments_.mean.data(), feature_moments_.variance.data(), total_, eps_);
    NormSums sums(total_);
    long stride = round_up(long(step) * (width_ / 2)) * SIDE, block_stride = stride / 2;
    long grads_size = pairs_of(transition_) * stride;
    HalfConvolution convolution(transition_, {0}, stride);
    for_each_strip(height_ / 2, step, 3 * stride + (2 * grads_size + pairs_of(total_) * stride) / 2, [&](Job job) {
      TileRegisters tiles;
      float* products = job.scratch;
      float* spread = products + stride;
      Half* out_grads = reinterpret_cast<Half*>(spread + 2 * stride);
      Half* transposed = out_grads + grads_size;
      Half* activated = transposed + grads_size;
      View<const Half> in = layout_.picture(features, job.n).from_pixel(2L * job.first * width_);
      int pixels = job.count * (width_ / 2);
      for (int first = 0; first < transition_; first += BLOCK)
        to_blocks<SIDE>(pooled_part(out_grad, job) + first * (pixels_ / 4), pixels_ / 4,
                        std::min(BLOCK, transition_ - first), pixels, part_of(out_grads, stride, first / BLOCK), 0);
      if (transition_ % SIDE) clear_part(part_of(out_grads, stride, transition_ / BLOCK), pixels);
      transpose_strip(out_grads, stride, pairs_of(transition_), pixels, transposed);
      for (int b = 0; b < in_blocks; ++b)
        interleave_values(pixels, activated + b * block_stride,
                          [&](int p) { return pooled(affine.activation(b), in[b], p, width_); });
      if (in_blocks % 2) std::fill_n(activated + in_blocks * block_stride, block_stride, Half(0));
      gradient.add(transposed, pixels, block_stride,
                   [=](int pair, int) { return activated + 2 * pair * block_stride; },
                   weight_sums + omp_get_thread_num() * gradient.size());
      View<float> in_grads = layout_.picture(feature_grads, job.n).from_pixel(2L * job.first * width_);
      for (int pair = 0; pair < pairs_of(total_); ++pair) {
        convolution.compute(out_grads, weights, pair, pixels, products);
        for (int b = 2 * pair; b < std::min(2 * pair + 2, in_blocks); ++b) {
          unpool(products + b % 2 * round_up(pixels) * BLOCK, 2 * job.count, width_, spread);
          Vec scale = at(affine.scale + b * BLOCK);
          float* to = in_grads[b];
          affine.backward(b, in[b], spread, 1, 4 * pixels, 0, &sums,
                          [=](int pixel, const Vec& grad) { at(to + pixel * BLOCK) = scale * grad; });
        }
      }
    });
    sums.write_gradients(transition.norm, total_);
    gradient.write(weight_sums, omp_get_max_threads(), order, transition.weight_grad);
    feature_terms_.add(sums, affine, total_, count_);
  }

  // Rows of a strip of the transition's output.
  int pooled_rows() const { return std::max(1, std::min(height_ / 2, 224 / (width_ / 2))); }

  // Fill the rows of a job and their neighbors, or zeros where there are none.
  template <int CHANNELS = SIDE, class Fill>
  void pad_rows(Half* padded, Job job, bool exists, Fill fill) const {
    for (int row = job.first - 1; row <= job.first + job.count; ++row, padded += pitch_ * CHANNELS) {
      bool inside = exists && row >= 0 && row < height_;
      for (int column = 0; column < pitch_; column += inside ? width_ + 1 : 1)
        store(padded + column * CHANNELS, Vec{});
      if (inside) fill(row, padded + CHANNELS);
    }
  }

  // Interleave the values of pixels in twos, with zeros after the last up to a whole product.
  template <class Values>
  static void interleave_values(int pixels, Half* out, Values value) {
    for (int p = 0; p < round_up(pixels); p += 2, out += SIDE)
      store_interleaved(out, p < pixels ? value(p) : Vec{}, p + 1 < pixels ? value(p + 1) : Vec{});
  }

  int rows_;     // of a strip of the 3x3 convolution
  long padded_;  // pixels of such a strip with its padding, and what products read after it
  int step_;     // pixels of a strip of the 1x1 convolution

  static Array<Half> weights_space;
  static Buffer sums_space;
};

Array<Half> HalfBlock::weights_space;
Buffer HalfBlock::sums_space;

}  // namespace

#endif

#endif  // DENSEFACE_BFLOAT16_BLOCK_H_

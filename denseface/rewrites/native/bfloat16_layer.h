// A 3x3 convolution in training, outside of dense blocks, whose products are of bfloat16. Everything that it reads and
// writes is float32.

#ifndef DENSEFACE_BFLOAT16_LAYER_H_
#define DENSEFACE_BFLOAT16_LAYER_H_

#include <omp.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "bfloat16_convolutions.h"
#include "bfloat16_strips.h"

#ifdef DENSEFACE_HAS_BFLOAT16

namespace {

// Its outputs are as large as its pictures, and BLOCK divides its channels.
struct ConvolutionShape {
  int batch, height, width, inputs, outputs;
};

class HalfLayer {
 public:
  explicit HalfLayer(const ConvolutionShape& shape)
      : batch_(shape.batch), height_(shape.height), width_(shape.width), inputs_(shape.inputs),
        outputs_(shape.outputs), pixels_(long(height_) * width_), pitch_(width_ + 2), pictures_(pictures_at_once()),
        rows_(pictures_ > 1 ? height_ : std::max(1, std::min(height_, STRIP / pitch_))),
        padded_(round_up(long(pictures_) * (rows_ + 2) * pitch_) + 2 * SIDE) {
    for (int row = 0; row < 3; ++row)
      for (int column = 0; column < 3; ++column) taps_.push_back(row * pitch_ + column);
    for (int row = 0; row < rows_ + 2; ++row)
      for (int column = 0; column < width_; ++column) places_.push_back(row * pitch_ + column);
  }

  // in: (N, inputs, H, W), weight: (outputs, inputs, 3, 3), out: (N, outputs, H, W)
  void forward(const float* in, const float* weight, float* out) const {
    std::lock_guard<std::mutex> lock(mutex);
    Half* weights = weights_space.get(packed_size(outputs_, inputs_, 9));
    pack_half(weight, order_3x3(inputs_), outputs_, inputs_, 9, weights);
    HalfConvolution convolution(inputs_, taps_, stride());
    for_each_strip(stride() + pairs_of(inputs_) * stride() / 2, [&](Strip strip) {
      TileRegisters tiles;
      float* products = strip.scratch;
      Half* padded = reinterpret_cast<Half*>(products + stride());
      fill_pairs(in, inputs_, strip, padded);
      convolve_strip(convolution, padded, weights, outputs_, strip, products, out);
    });
  }

  // out_grad: gradient of the output; in_grad and weight_grad are written.
  void backward(const float* in, const float* weight, const float* out_grad, float* in_grad,
                float* weight_grad) const {
    std::lock_guard<std::mutex> lock(mutex);
    WeightOrder order = order_3x3(inputs_);
    Half* weights = weights_space.get(packed_size(inputs_, outputs_, 9));
    pack_half(weight, order.transposed(9), inputs_, outputs_, 9, weights);
    HalfWeightGradient gradient(outputs_, inputs_, taps_);
    int threads = omp_get_max_threads();
    float* weight_sums = sums_space.get(gradient.size() * threads);
    std::fill_n(weight_sums, gradient.size() * threads, 0.0f);
    HalfConvolution convolution(outputs_, taps_, stride());
    long block_stride = padded_ * BLOCK, parity_stride = 2 * pairs_of(inputs_) * block_stride;
    long grads_size = pairs_of(outputs_) * stride();
    for_each_strip(stride() + (block_stride + 2 * parity_stride + 2 * grads_size) / 2, [&](Strip strip) {
      TileRegisters tiles;
      float* products = strip.scratch;
      Half* block_space = reinterpret_cast<Half*>(products + stride());
      Half* interleaved = block_space + block_stride;
      Half* out_grads = interleaved + 2 * parity_stride;
      Half* transposed = out_grads + grads_size;
      fill_pairs(out_grad, outputs_, strip, out_grads);
      convolve_strip(convolution, out_grads, weights, inputs_, strip, products, in_grad);
      transpose_strip(out_grads + (pitch_ + 1) * SIDE, stride(), pairs_of(outputs_), convolved(strip), transposed);
      for (int b = 0; b < 2 * pairs_of(inputs_); ++b) {
        Half* end = fill<BLOCK>(in, inputs_, b, strip, block_space);
        std::fill(end, block_space + block_stride, Half(0));
        interleave_strip(block_space, padded_, interleaved + b * block_stride, parity_stride);
      }
      gradient.add(transposed, convolved(strip), block_stride, [=](int pair, int tap) {
        return interleaved + tap % 2 * parity_stride + 2 * pair * block_stride + tap / 2 * SIDE;
      }, weight_sums + omp_get_thread_num() * gradient.size());
    });
    gradient.write(weight_sums, threads, order, weight_grad);
  }

 private:
  static constexpr int STRIP = 448;  // pixels that a strip has at most, unless a single row has more

  // Rows of a picture, or several whole pictures below each other, each between two rows of padding; and the thread's
  // own memory.
  struct Strip {
    int picture, pictures, row, rows;
    float* scratch;
  };

  // Small pictures are convolved together: the weights, and the sums of their gradients, are read once for all. Every
  // thread has equally many such groups if possible.
  int pictures_at_once() const {
    int threads = omp_get_max_threads(), share = (batch_ + threads - 1) / threads;
    int count = std::max(1, std::min(share, STRIP / ((height_ + 2) * pitch_)));
    while (share % count) --count;
    return count;
  }

  template <class Work>
  void for_each_strip(long scratch_size, Work work) const {
    int bands = (height_ + rows_ - 1) / rows_, groups = (batch_ + pictures_ - 1) / pictures_;
    float* scratch = threads_space.get(omp_get_max_threads() * scratch_size);
#pragma omp parallel for schedule(static)
    for (int job = 0; job < groups * bands; ++job) {
      int picture = job / bands * pictures_, row = job % bands * rows_;
      work(Strip{picture, std::min(pictures_, batch_ - picture), row, std::min(rows_, height_ - row),
                 scratch + omp_get_thread_num() * scratch_size});
    }
  }

  // Pixels of a strip's outputs, with the padding between them.
  int convolved(Strip strip) const { return (strip.pictures * (strip.rows + 2) - 2) * pitch_; }

  void fill_pairs(const float* plain, int channels, Strip strip, Half* padded) const {
    for (int b = 0; b < 2 * pairs_of(channels); ++b) fill<SIDE>(plain, channels, b, strip, part(padded, stride(), b));
  }

  // Write a block of channels of a strip, zero-padded, from (N, channels, H, W); zeros if there is no such block. PITCH:
  // values from one pixel to the next. Returns the end of what was written.
  template <int PITCH>
  Half* fill(const float* plain, int channels, int block, Strip strip, Half* to) const {
    int first = std::max(strip.row - 1, 0), end = std::min(strip.row + strip.rows + 1, height_), above = first - (strip.row - 1);
    long size = long(strip.rows + 2) * pitch_;
    for (int n = 0; n < strip.pictures; ++n, to += size * PITCH) {
      if (block * BLOCK >= channels) {
        for (long p = 0; p < size; ++p) store(to + p * PITCH, Vec{});
        continue;
      }
      for (int row = 0; row < strip.rows + 2; ++row) {
        bool inside = row >= above && row < above + end - first;
        for (int column = 0; column < pitch_; column += inside ? width_ + 1 : 1)
          store(to + (row * pitch_ + column) * PITCH, Vec{});
      }
      const float* from = plain + (long(strip.picture + n) * channels + block * BLOCK) * pixels_ + long(first) * width_;
      Half* inner = to + (above * pitch_ + 1) * PITCH;
      int pixels = (end - first) * width_;
      for (int p = 0; p < pixels; p += BLOCK) {
        __mmask16 mask = mask_of(pixels - p);
        Vec tile[BLOCK];
        for (int c = 0; c < BLOCK; ++c) tile[c] = Vec(_mm512_maskz_loadu_ps(mask, from + c * pixels_ + p));
        transpose(tile);
        for (int k = 0; k < std::min(BLOCK, pixels - p); ++k) store(inner + places_[p + k] * PITCH, tile[k]);
      }
    }
    return to;
  }

  // Convolve a padded strip, and write all channels of its outputs to (N, channels, H, W).
  void convolve_strip(const HalfConvolution& convolution, const Half* padded, const Half* weights, int channels,
                      Strip strip, float* products, float* plain) const {
    int pixels = strip.rows * width_;
    for (int pair = 0; pair < pairs_of(channels); ++pair) {
      convolution.compute(padded, weights, pair, convolved(strip), products);
      for (int b = 2 * pair; b < std::min(2 * pair + 2, channels / BLOCK); ++b)
        for (int n = 0; n < strip.pictures; ++n) {
          const float* from = products + (b % 2 * round_up(convolved(strip)) + n * (strip.rows + 2) * pitch_) * BLOCK;
          float* to = plain + (long(strip.picture + n) * channels + b * BLOCK) * pixels_ + long(strip.row) * width_;
          for (int p = 0; p < pixels; p += BLOCK) {
            Vec tile[BLOCK];
            for (int k = 0; k < BLOCK; ++k) tile[k] = at(from + places_[std::min(p + k, pixels - 1)] * BLOCK);
            transpose(tile);
            for (int c = 0; c < BLOCK; ++c)
              _mm512_mask_storeu_ps(to + c * pixels_ + p, mask_of(pixels - p), __m512(tile[c]));
          }
        }
    }
  }

  static __mmask16 mask_of(int count) { return count >= BLOCK ? 0xffff : (1 << count) - 1; }
  long stride() const { return padded_ * SIDE; }  // values from one pair of channels of a strip to the next

  int batch_, height_, width_, inputs_, outputs_;
  long pixels_;
  int pitch_;      // pixels of a zero-padded row
  int pictures_;   // of a strip
  int rows_;       // of each of these
  long padded_;    // pixels of a strip with its padding, and what products read after it
  std::vector<int> taps_, places_;  // places_: of the pixels of rows among those of padded rows

  // Shared by all layers: one computes at a time, on all cores.
  static std::mutex mutex;
  static Array<Half> weights_space;
  static Buffer sums_space, threads_space;
};

std::mutex HalfLayer::mutex;
Array<Half> HalfLayer::weights_space;
Buffer HalfLayer::sums_space, HalfLayer::threads_space;

}  // namespace

#endif

#endif  // DENSEFACE_BFLOAT16_LAYER_H_

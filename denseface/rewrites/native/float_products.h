// Convolutions of a dense block in training, and the gradients of their weights, in float32.

#ifndef DENSEFACE_FLOAT_PRODUCTS_H_
#define DENSEFACE_FLOAT_PRODUCTS_H_

#include <omp.h>

#include <algorithm>
#include <vector>

#include "convolutions.h"

namespace {

// How a block of float32 keeps its values and computes with them. BFloat16Products has the same members.
struct FloatProducts {
  using Value = float;
  using Inputs = View<float>;          // of a convolution: a strip of pixels
  static constexpr int PITCH = BLOCK;  // values from one of these pixels to the next

  struct Registers {  // that a thread needs for products
    ~Registers() {}
  };

  // Pixels of a strip that reads so many channels, rows of a padded strip, and pixels of a transition's strip.
  static int strip_pixels(int channels) { return cached_pixels(channels); }
  static int strip_rows(int width) { return int(STRIP / width); }
  static int pooled_pixels(int channels) { return cached_pixels(2 * channels); }

  class Convolution {
   public:
    struct Scratch {
      Inputs in;
      float* products;
    };

    // Pack weights for strips of `in_pixels` with their padding, and `out_pixels` of outputs.
    Convolution(const float* weights, WeightOrder order, int outputs, int inputs, const std::vector<int>& taps,
                long in_pixels, long out_pixels)
        : outputs_(outputs / BLOCK), inputs_(inputs / BLOCK), taps_(taps), in_pixels_(in_pixels),
          out_pixels_(out_pixels), weights_(carved(&shared.weights, [&](Arena* arena) {
            return arena->take<float>(size_t(outputs) * inputs * taps.size());
          })) {
      pack(weights, order, outputs_, inputs_, int(taps.size()), weights_);
    }

    Scratch scratch(Arena* arena) const {
      Inputs in(arena->take<float>(inputs_ * in_pixels_ * BLOCK), in_pixels_ * BLOCK);
      return {in, arena->take<float>(2 * out_pixels_ * BLOCK)};
    }

    // Call use(block, products, pitch) for the products of every block of outputs; pitch is the distance in pixels from
    // one row of them to the next.
    template <class Use>
    void compute(const Scratch& scratch, Strip strip, Use use) const {
      View<float> products(scratch.products, out_pixels_ * BLOCK);
      const float* weights = weights_;
      for (int first = 0; first < outputs_; first += 2) {
        int count = std::min(2, outputs_ - first);
        convolve(scratch.in, strip, taps_, inputs_, weights, products, strip.width, count);
        weights += long(count) * BLOCK * BLOCK * inputs_ * taps_.size();
        for (int b = 0; b < count; ++b) use(first + b, products[b], strip.width);
      }
    }

   private:
    int outputs_, inputs_;  // blocks
    std::vector<int> taps_;
    long in_pixels_, out_pixels_;
    float* weights_;
  };

  class WeightGradient {
   public:
    using Scratch = Inputs;

    // For strips of `in_pixels` of inputs, with their padding.
    WeightGradient(int outputs, int inputs, const std::vector<int>& taps, long in_pixels, long)
        : outputs_(outputs / BLOCK), inputs_(inputs / BLOCK), taps_(taps), in_pixels_(in_pixels),
          size_(long(outputs) * inputs * taps.size()), sums_(zeros_per_thread(size_)) {}

    Scratch scratch(Arena* arena) const {
      return {arena->take<float>(inputs_ * in_pixels_ * BLOCK), in_pixels_ * BLOCK};
    }

    // Write a block of inputs: fill(to) writes so many pixels of it, or value(p) is pixel p.
    template <class Fill>
    void write_rows(const Scratch& scratch, int block, long, Fill fill) const {
      fill(scratch[block]);
    }
    template <class Values>
    void write_pixels(const Scratch& scratch, int block, int pixels, Values value) const {
      for (int p = 0; p < pixels; ++p) store(scratch[block] + p * BLOCK, value(p));
    }

    // Add a strip: its inputs, and the gradients of its outputs.
    void add(const Scratch& in, View<const float> grads, Strip strip) const {
      weight_gradient(in, strip.pitch, taps_, inputs_, grads, strip, outputs_, sums_ + omp_get_thread_num() * size_);
    }

    // Write the total of all threads.
    void write(WeightOrder order, float* gradients) const {
      int threads = omp_get_max_threads();
      for_each_weight(order, outputs_, inputs_, int(taps_.size()), [=](long from, long to) {
        float total = 0;
        for (int thread = 0; thread < threads; ++thread) total += sums_[thread * size_ + from];
        gradients[to] = total;
      });
    }

   private:
    int outputs_, inputs_;  // blocks
    std::vector<int> taps_;
    long in_pixels_, size_;
    float* sums_;
  };
};

}  // namespace

#endif  // DENSEFACE_FLOAT_PRODUCTS_H_

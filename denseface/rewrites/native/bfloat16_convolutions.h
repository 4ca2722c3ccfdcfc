// Convolutions of bfloat16 and the gradients of their weights, as products of matrices.
//
// Channels are in pairs of blocks here: a pixel has SIDE values of each pair, the last of which is zero-padded. Rows of a
// picture follow each other with their padding, so that a convolution is one product over all pixels of a strip; what it
// computes for the padding is left unused.

#ifndef DENSEFACE_BFLOAT16_CONVOLUTIONS_H_
#define DENSEFACE_BFLOAT16_CONVOLUTIONS_H_

#include <numeric>
#include <vector>

#include "bfloat16_products.h"
#include "convolutions.h"

#ifdef DENSEFACE_HAS_BFLOAT16

namespace {

int pairs_of(int channels) { return (channels + SIDE - 1) / SIDE; }
long round_up(long pixels) { return (pixels + SIDE - 1) / SIDE * SIDE; }
long packed_size(int outputs, int inputs, int taps) {
  return long(pairs_of(outputs)) * pairs_of(inputs) * taps * SIDE * SIDE;
}

// Weights in the order in which products read them: [pair of outputs][tap][pair of inputs][block of outputs][pair of
// terms][output][term]. taps: their numbers in weights.
void pack_half(const float* weights, WeightOrder order, int outputs, int inputs, const std::vector<int>& taps,
               Half* packed) {
#pragma omp parallel for schedule(static)
  for (int n = 0; n < pairs_of(outputs); ++n) {
    Half* to = packed + n * packed_size(SIDE, inputs, int(taps.size()));
    for (int tap : taps)
      for (int first = 0; first < inputs; first += SIDE)
        for (int half = 0; half < 2; ++half)
          for (int pair = 0; pair < 16; ++pair, to += SIDE) {
            Vec terms[2] = {};
            for (int term = 0; term < 2; ++term)
              for (int k = 0; k < BLOCK; ++k) {
                int input = first + 2 * pair + term, output = n * SIDE + half * BLOCK + k;
                if (input < inputs && output < outputs)
                  terms[term][k] = weights[order.first + output * order.output + input * order.input + tap * order.tap];
              }
            store_interleaved(to, terms[0], terms[1]);
          }
  }
}

void pack_half(const float* weights, WeightOrder order, int outputs, int inputs, int taps, Half* packed) {
  std::vector<int> numbers(taps);
  std::iota(numbers.begin(), numbers.end(), 0);
  pack_half(weights, order, outputs, inputs, numbers, packed);
}

// A convolution of strips of pixels.
class HalfConvolution {
 public:
  // stride: values from one pair of channels of a strip to the next
  HalfConvolution(int inputs, const std::vector<int>& taps, long stride)
      : inputs_(inputs), taps_(int(taps.size())) {
    for (int tap : taps)
      for (int pair = 0; pair < pairs_of(inputs); ++pair) steps_.push_back(pair * stride + tap * SIDE);
  }

  // Write two blocks of outputs, each of round_up(pixels) pixels: those of a pair of channels.
  void compute(const Half* in, const Half* weights, int pair, int pixels, float* out) const {
    Product product{in, &steps_, 16 * SIDE, weights + pair * packed_size(SIDE, inputs_, taps_), 2 * TILE_SIZE,
                    TILE_SIZE, out, 16 * BLOCK, round_up(pixels) * BLOCK, 2, false};
    for (int first = 0; first < pixels; first += SIDE) {
      product.halves = pixels - first > 16 ? 2 : 1;
      multiply(product);
      product.left += SIDE * SIDE, product.sums += SIDE * BLOCK;
    }
  }

 private:
  int inputs_, taps_;
  std::vector<long> steps_;
};

// Sums of the gradients of weights, [pair of outputs][tap][pair of inputs][block of outputs][block of inputs][output]
// [input].
class HalfWeightGradient {
 public:
  HalfWeightGradient(int outputs, int inputs, const std::vector<int>& taps)
      : outputs_(outputs), inputs_(inputs), taps_(taps) {}

  long size() const { return packed_size(outputs_, inputs_, int(taps_.size())); }

  // grads: transposed tiles, [block of outputs][32 pixels]; in: interleaved pixels, from which those for a tap are
  // found by in(pair of inputs, tap).
  template <class Inputs>
  void add(const Half* grads, int pixels, long in_stride, Inputs in, float* sums) const {
    std::vector<long> steps;
    for (long first = 0; first < pixels; first += SIDE) steps.push_back(first / SIDE * TILE_SIZE);
    long grads_stride = long(steps.size()) * TILE_SIZE;
    for (int n = 0; n < pairs_of(outputs_); ++n)
      for (int tap : taps_)
        for (int pair = 0; pair < pairs_of(inputs_); ++pair, sums += SIDE * SIDE)
          multiply({grads + 2 * n * grads_stride, &steps, grads_stride, in(pair, tap), TILE_SIZE, in_stride, sums,
                    2 * BLOCK * BLOCK, BLOCK * BLOCK, 2, true});
  }

  // The total of all threads' sums, in MXNet's order.
  void write(const float* sums, int threads, WeightOrder order, float* gradients) const {
    int pairs = pairs_of(inputs_), taps = int(taps_.size());
    long all = size();
#pragma omp parallel for schedule(static)
    for (int output = 0; output < outputs_; ++output)
      for (int tap = 0; tap < taps; ++tap)
        for (int block = 0; block < (inputs_ + BLOCK - 1) / BLOCK; ++block) {
          long product = (long(output / SIDE) * taps + tap) * pairs + block / 2;
          const float* from = sums + product * SIDE * SIDE +
                              ((output / BLOCK % 2 * 2 + block % 2) * BLOCK + output % BLOCK) * BLOCK;
          Vec total{};
          for (int thread = 0; thread < threads; ++thread) total += at(from + thread * all);
          float* to = gradients + order.first + output * order.output + tap * order.tap;
          for (int k = 0; k < BLOCK && block * BLOCK + k < inputs_; ++k)
            to[(block * BLOCK + k) * order.input] = total[k];
        }
  }

 private:
  int outputs_, inputs_;
  std::vector<int> taps_;
};

}  // namespace

#endif

#endif  // DENSEFACE_BFLOAT16_CONVOLUTIONS_H_

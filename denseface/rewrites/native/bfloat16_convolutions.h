// Convolutions of bfloat16 and the gradients of their weights, as products of matrices.
//
// Channels are in pairs of blocks here: a pixel has SIDE values of each pair, the last of which is zero-padded. Rows of
// a picture follow each other with their padding. With AMX a convolution is one product over all pixels of a strip, and
// what it computes for the padding is left unused; without AMX it skips the padding between rows.

#ifndef DENSEFACE_BFLOAT16_CONVOLUTIONS_H_
#define DENSEFACE_BFLOAT16_CONVOLUTIONS_H_

#include <omp.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "arena.h"
#include "bfloat16_products.h"
#include "bfloat16_strips.h"
#include "convolutions.h"

#ifdef DENSEFACE_HAS_BFLOAT16

namespace {

constexpr int BFLOAT16_STRIP = 448;  // pixels of a strip at most, unless a single row has more

// Pixels of which products read some when a strip has so many inputs.
long readable(long pixels, const std::vector<int>& taps) { return round_up(pixels) + (taps.size() > 1 ? 2 * SIDE : 0); }

long packed_size(int outputs, int inputs, int taps) {
  return long(pairs_of(outputs)) * pairs_of(inputs) * taps * SIDE * SIDE;
}

// Weights in the order in which products read them: [pair of outputs][tap][pair of inputs][block of outputs][pair of
// terms][output][term]. taps: their numbers in weights.
void pack_bfloat16(const float* weights, WeightOrder order, int outputs, int inputs, const std::vector<int>& taps,
               BFloat16* packed) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i distances = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(int(order.output)));
#pragma omp parallel for schedule(static)
  for (int n = 0; n < pairs_of(outputs); ++n) {
    BFloat16* to = packed + n * packed_size(SIDE, inputs, int(taps.size()));
    for (int tap : taps)
      for (int first = 0; first < inputs; first += SIDE)
        for (int block = 0; block < 2; ++block)
          for (int pair = 0; pair < BLOCK; ++pair, to += SIDE) {
            Vec terms[2] = {};
            for (int term = 0; term < 2; ++term) {
              int input = first + 2 * pair + term, output = n * SIDE + block * BLOCK;
              if (input >= inputs || output >= outputs) continue;  // BLOCK divides both numbers
              const float* from = weights + order.first + output * order.output + input * order.input + tap * order.tap;
              terms[term] = Vec(_mm512_i32gather_ps(distances, from, sizeof(float)));
            }
            store_interleaved(to, terms[0], terms[1]);
          }
  }
}

// A convolution of strips of pixels.
class BFloat16Convolution {
 public:
  // weights: packed; stride: values from one pair of channels of a strip to the next.
  BFloat16Convolution(const BFloat16* weights, int inputs, const std::vector<int>& taps, long stride)
      : weights_(weights), pair_size_(packed_size(SIDE, inputs, int(taps.size()))) {
    for (int tap : taps)
      for (int pair = 0; pair < pairs_of(inputs); ++pair) steps_.push_back(pair * stride + tap * SIDE);
  }

  // Write two blocks of outputs, those of a pair of channels. Each has round_up(strip.rows * strip.pitch) pixels.
  void compute(const BFloat16* in, int pair, Strip strip, float* out) const {
    Product product{};
    product.left_steps = steps_.data(), product.steps = int(steps_.size());
    product.right = weights_ + pair * pair_size_, product.right_next = TILE_SIZE, product.right_step = 2 * TILE_SIZE;
    product.sums_right = round_up(strip.rows * strip.pitch) * BLOCK;
    if (has_tiles() || strip.width == strip.pitch) strip = {1, strip.rows * strip.pitch, 0};
    int step = has_tiles() ? SIDE : even_tile(strip.width);
    for (int row = 0; row < strip.rows; ++row)
      for (int column = 0; column < strip.width; column += step) {
        int first = row * strip.pitch + column;
        product.left = in + first * SIDE, product.sums = out + first * BLOCK;
        product.rows = std::min(step, strip.width - column);
        multiply(product);
      }
  }

 private:
  const BFloat16* weights_;
  long pair_size_;
  std::vector<long> steps_;
};

// Sums of the gradients of weights, [pair of outputs][tap][pair of inputs][block of inputs][output][input], of every
// thread.
class BFloat16WeightGradient {
 public:
  // A thread's own memory.
  struct Scratch {
    BFloat16* rows;            // a block of inputs
    BFloat16 *even, *odd;      // inputs whose neighbors are interleaved, [block][pixels], for even and for odd taps
    BFloat16* transposed;      // gradients, [pair][SIDE pixels][channel][pixel]
  };

  // For strips of `in_pixels` of inputs, with their padding, and `out_pixels` of outputs.
  BFloat16WeightGradient(int outputs, int inputs, const std::vector<int>& taps, long in_pixels, long out_pixels)
      : outputs_(outputs), inputs_(inputs), taps_(taps), block_stride_(readable(in_pixels, taps) * BLOCK),
        parity_size_(2 * pairs_of(inputs) * block_stride_), out_pixels_(round_up(out_pixels)),
        size_(packed_size(outputs, inputs, int(taps.size()))), sums_(sums_per_thread(size_)),
        begun_(omp_get_max_threads()) {
    for (long step = 0; step < out_pixels_ / SIDE; ++step) steps_.push_back(step * SIDE * SIDE);
  }

  Scratch scratch(Arena* arena) const {
    Scratch taken{arena->take<BFloat16>(block_stride_), take_interleaved(arena), nullptr,
                  arena->take<BFloat16>(pairs_of(outputs_) * out_pixels_ * SIDE)};
    if (has_odd_taps()) taken.odd = take_interleaved(arena);
    return taken;
  }

  // Write a block of inputs: fill(to) writes the first `pixels` of it, and zeros follow.
  template <class Fill>
  void write_rows(const Scratch& scratch, int block, long pixels, Fill fill) const {
    fill(scratch.rows);
    std::fill(scratch.rows + pixels * BLOCK, scratch.rows + block_stride_, BFloat16{});
    long first = block * block_stride_;
    interleave_strip(scratch.rows, block_stride_ / BLOCK, scratch.even + first, scratch.odd ? scratch.odd + first : nullptr);
  }

  // The same for even taps only; value(p) is pixel p.
  template <class Values>
  void write_pixels(const Scratch& scratch, int block, int pixels, Values value) const {
    BFloat16* to = scratch.even + block * block_stride_;
    for (int p = 0; p < round_up(pixels); p += 2, to += SIDE)
      store_interleaved(to, p < pixels ? value(p) : Vec{}, p + 1 < pixels ? value(p + 1) : Vec{});
  }

  // Add a strip: its inputs, and the gradients of its outputs.
  void add(const Scratch& scratch, Pairs grads, Strip strip) {
    int pixels = strip.rows * strip.pitch;
    transpose_strip(grads, pairs_of(outputs_), pixels, scratch.transposed);
    Product product{};
    product.left_steps = steps_.data(), product.steps = int(round_up(pixels) / SIDE);
    product.right_step = TILE_SIZE, product.right_next = block_stride_;
    product.sums = sums_ + omp_get_thread_num() * size_;
    product.sums_right = SIDE * BLOCK;
    char& begun = begun_[omp_get_thread_num()];
    product.rows = SIDE, product.add = begun;
    begun = true;
    for (int n = 0; n < pairs_of(outputs_); ++n)
      for (int tap : taps_)
        for (int pair = 0; pair < pairs_of(inputs_); ++pair, product.sums += SIDE * SIDE) {
          product.left = scratch.transposed + long(n) * product.steps * SIDE * SIDE;
          product.right = (tap % 2 ? scratch.odd : scratch.even) + 2 * pair * block_stride_ + tap / 2 * SIDE;
          multiply(product);
        }
  }

  // Write the total of all threads, in MXNet's order.
  void write(WeightOrder order, float* gradients) const {
    int pairs = pairs_of(inputs_), taps = int(taps_.size()), threads = omp_get_max_threads();
#pragma omp parallel for schedule(static)
    for (int output = 0; output < outputs_; ++output)
      for (int tap = 0; tap < taps; ++tap)
        for (int block = 0; block < (inputs_ + BLOCK - 1) / BLOCK; ++block) {
          long product = (long(output / SIDE) * taps + tap) * pairs + block / 2;
          const float* from = sums_ + product * SIDE * SIDE + (block % 2 * SIDE + output % SIDE) * BLOCK;
          Vec total{};
          for (int thread = 0; thread < threads; ++thread)
            if (begun_[thread]) total += at(from + thread * size_);
          float* to = gradients + order.first + output * order.output + tap * order.tap;
          for (int k = 0; k < BLOCK && block * BLOCK + k < inputs_; ++k)
            to[(block * BLOCK + k) * order.input] = total[k];
        }
  }

 private:
  bool has_odd_taps() const {
    return std::any_of(taps_.begin(), taps_.end(), [](int tap) { return tap % 2; });
  }

  // The block that fills the last pair is zero.
  BFloat16* take_interleaved(Arena* arena) const {
    BFloat16* taken = arena->take<BFloat16>(parity_size_);
    if (inputs_ % SIDE && !arena->measures())
      std::fill_n(taken + parity_size_ - block_stride_, block_stride_, BFloat16{});
    return taken;
  }

  int outputs_, inputs_;
  std::vector<int> taps_;
  long block_stride_, parity_size_;
  long out_pixels_, size_;
  std::vector<long> steps_;  // of the longest strip
  float* sums_;
  std::vector<char> begun_;  // whether a thread's sums have values
};

// How a block of bfloat16 keeps its values and computes with them. FloatProducts has the same members.
struct BFloat16Products {
  using Value = BFloat16;
  using Inputs = Pairs;               // of a convolution: a strip of pixels
  static constexpr int PITCH = SIDE;  // values from one of these pixels to the next

  using Registers = TileRegisters;
  using WeightGradient = BFloat16WeightGradient;

  static int strip_pixels(int) { return BFLOAT16_STRIP; }
  static int strip_rows(int width) { return BFLOAT16_STRIP / (width + 2); }
  static int pooled_pixels(int) { return BFLOAT16_STRIP / 2; }

  class Convolution {
   public:
    struct Scratch {
      Inputs in;
      float* products;
    };

    // Pack weights for strips of `in_pixels` with their padding, and `out_pixels` of outputs.
    Convolution(const float* weights, WeightOrder order, int outputs, int inputs, const std::vector<int>& taps,
                long in_pixels, long out_pixels)
        : outputs_(outputs), inputs_(inputs), in_pixels_(readable(in_pixels, taps)), out_pixels_(round_up(out_pixels)),
          convolution_(packed(weights, order, outputs, inputs, int(taps.size())), inputs, taps, in_pixels_ * SIDE) {}

    Scratch scratch(Arena* arena) const {
      Inputs in = take_pairs(arena, inputs_, in_pixels_);
      return {in, arena->take<float>(2 * out_pixels_ * BLOCK)};
    }

    // Call use(block, products, pitch) for the products of every block of outputs; pitch is the distance in pixels from
    // one row of them to the next.
    template <class Use>
    void compute(const Scratch& scratch, Strip strip, Use use) const {
      int pixels = strip.rows * strip.pitch;
      for (int pair = 0; pair < pairs_of(outputs_); ++pair) {
        convolution_.compute(scratch.in.data, pair, strip, scratch.products);
        for (int b = 2 * pair; b < std::min(2 * pair + 2, outputs_ / BLOCK); ++b)
          use(b, scratch.products + b % 2 * round_up(pixels) * BLOCK, strip.pitch);
      }
    }

   private:
    static const BFloat16* packed(const float* weights, WeightOrder order, int outputs, int inputs, int taps) {
      std::vector<int> numbers(taps);
      std::iota(numbers.begin(), numbers.end(), 0);
      auto carve = [=](Arena* arena) { return arena->take<BFloat16>(packed_size(outputs, inputs, taps)); };
      BFloat16* to = carved(&shared.weights, carve);
      pack_bfloat16(weights, order, outputs, inputs, numbers, to);
      return to;
    }

    int outputs_, inputs_;
    long in_pixels_, out_pixels_;
    BFloat16Convolution convolution_;
  };
};

}  // namespace

#endif

#endif  // DENSEFACE_BFLOAT16_CONVOLUTIONS_H_

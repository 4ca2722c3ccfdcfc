// Convolutions and the gradients of their weights. They reach the processor's peak while their arrays are in its cache.
//
// A convolution is a list of taps: a tap is the distance in pixels from an output to one of its inputs.

#ifndef DENSEFACE_CONVOLUTIONS_H_
#define DENSEFACE_CONVOLUTIONS_H_

#include <omp.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "arena.h"
#include "vectors.h"

namespace {

// A register tile: PIXELS outputs of OUT_BLOCKS blocks of channels.
template <int OUT_BLOCKS, int PIXELS>
void convolve_tile(View<const float> in, const std::vector<int>& taps, int in_blocks, const float* weights,
                   View<float> out) {
  Vec sums[OUT_BLOCKS][PIXELS];
  UNROLL(2) for (int o = 0; o < OUT_BLOCKS; ++o)
    UNROLL(16) for (int p = 0; p < PIXELS; ++p) sums[o][p] = Vec{};
  for (int tap : taps)
    for (int block = 0; block < in_blocks; ++block) {
      const float* values = in[block] + tap * BLOCK;
      UNROLL(1) for (int i = 0; i < BLOCK; ++i, weights += OUT_BLOCKS * BLOCK) {
        Vec weight[OUT_BLOCKS];
        UNROLL(2) for (int o = 0; o < OUT_BLOCKS; ++o) weight[o] = at(weights + o * BLOCK);
        UNROLL(16) for (int p = 0; p < PIXELS; ++p)
          UNROLL(2) for (int o = 0; o < OUT_BLOCKS; ++o) sums[o][p] += values[p * BLOCK + i] * weight[o];
      }
    }
  UNROLL(2) for (int o = 0; o < OUT_BLOCKS; ++o)
    UNROLL(16) for (int p = 0; p < PIXELS; ++p) at(out[o] + p * BLOCK) = sums[o][p];
}

using ConvolveTile = void (*)(View<const float>, const std::vector<int>&, int, const float*, View<float>);

template <int OUT_BLOCKS, size_t... INDICES>
ConvolveTile tile_of(int pixels, std::index_sequence<INDICES...>) {
  static const ConvolveTile tiles[] = {convolve_tile<OUT_BLOCKS, INDICES + 1>...};
  return tiles[pixels - 1];
}

constexpr long CACHED = 65536;  // floats of inputs that stay in the cache
constexpr long STRIP = 224;     // pixels of a strip at most, unless a single row has more

// The number of pixels, in whole tiles, whose channels fit in the cache.
int cached_pixels(int channels) { return int(std::max<long>(TILE, std::min(STRIP, CACHED / channels) / TILE * TILE)); }

// The tap of a 1x1 convolution.
const std::vector<int> ONE_TAP{0};

// A rectangle of pixels; pitch is the distance in pixels from one row to the next.
struct Strip {
  int rows, width, pitch;
};

// Convolve the outputs of a strip. Outputs have the same rows and width, and a pitch of their own; weights as from
// pack().
void convolve(View<const float> in, Strip strip, const std::vector<int>& taps, int in_blocks, const float* weights,
              View<float> out, int out_pitch, int out_blocks) {
  int step = even_tile(strip.width);
  for (int block = 0; block < out_blocks; block += 2) {
    bool pair = block + 1 < out_blocks;
    for (int row = 0; row < strip.rows; ++row)
      for (int column = 0; column < strip.width; column += step) {
        int pixels = std::min(step, strip.width - column);
        auto indices = std::make_index_sequence<TILE>();
        ConvolveTile compute = pair ? tile_of<2>(pixels, indices) : tile_of<1>(pixels, indices);
        compute(in.from_pixel(row * strip.pitch + column), taps, in_blocks, weights,
                out.from_block(block).from_pixel(row * out_pitch + column));
      }
    weights += long(pair ? 2 : 1) * BLOCK * BLOCK * in_blocks * taps.size();
  }
}

// Add a strip to the gradients of the weights between INPUTS input channels and OUT_BLOCKS blocks of outputs.
template <int OUT_BLOCKS, int INPUTS>
void weight_tile(const float* in, int in_pitch, View<const float> grad, Strip strip, float* gradients) {
  Vec sums[INPUTS][OUT_BLOCKS];
  UNROLL(16) for (int i = 0; i < INPUTS; ++i)
    UNROLL(2) for (int o = 0; o < OUT_BLOCKS; ++o) sums[i][o] = at(gradients + (i * OUT_BLOCKS + o) * BLOCK);
  for (int row = 0; row < strip.rows; ++row) {
    const float* values = in + row * in_pitch * BLOCK;
    const float* grads = grad.data + row * strip.pitch * BLOCK;
    UNROLL(1) for (int column = 0; column < strip.width; ++column, values += BLOCK, grads += BLOCK) {
      Vec out_grad[OUT_BLOCKS];
      UNROLL(2) for (int o = 0; o < OUT_BLOCKS; ++o) out_grad[o] = at(grads + o * grad.stride);
      UNROLL(16) for (int i = 0; i < INPUTS; ++i)
        UNROLL(2) for (int o = 0; o < OUT_BLOCKS; ++o) sums[i][o] += values[i] * out_grad[o];
    }
  }
  UNROLL(16) for (int i = 0; i < INPUTS; ++i)
    UNROLL(2) for (int o = 0; o < OUT_BLOCKS; ++o) at(gradients + (i * OUT_BLOCKS + o) * BLOCK) = sums[i][o];
}

// Add a strip of outputs' gradients to the gradients of all weights, which are in the order of pack().
void weight_gradient(View<const float> in, int in_pitch, const std::vector<int>& taps, int in_blocks,
                     View<const float> grad, Strip strip, int out_blocks, float* gradients) {
  constexpr int INPUTS = BLOCK / 2;
  for (int out_block = 0; out_block < out_blocks; out_block += 2) {
    bool pair = out_block + 1 < out_blocks;
    for (int tap : taps)
      for (int in_block = 0; in_block < in_blocks; ++in_block)
        for (int i = 0; i < BLOCK; i += INPUTS, gradients += INPUTS * (pair ? 2 : 1) * BLOCK) {
          auto add = pair ? weight_tile<2, INPUTS> : weight_tile<1, INPUTS>;
          add(in[in_block] + tap * BLOCK + i, in_pitch, grad.from_block(out_block), strip, gradients);
        }
  }
}

// Memory for sums of `size` values of every thread, until the next call.
float* sums_per_thread(long size) {
  return carved(&shared.sums, [=](Arena* arena) { return arena->take<float>(omp_get_max_threads() * size); });
}

float* zeros_per_thread(long size) {
  float* sums = sums_per_thread(size);
  std::fill_n(sums, omp_get_max_threads() * size, 0.0f);
  return sums;
}

// The order of weights in MXNet's array: distances between outputs, inputs and taps, and where the first weight is.
struct WeightOrder {
  long output, input, tap, first;

  // Weights that map gradients of outputs to gradients of inputs: the two exchanged, the kernel rotated by 180 degrees.
  WeightOrder transposed(int taps) const { return {input, output, -tap, first + (taps - 1) * tap}; }
};

// MXNet's order of weights: (outputs, inputs, 1, 1) and (outputs, inputs, 3, 3).
WeightOrder order_1x1(int inputs) { return {inputs, 1, 0, 0}; }
WeightOrder order_3x3(int inputs) { return {9L * inputs, 9, 1, 0}; }

// Call visit(packed index, MXNet's index) for every weight. The packed order is the one in which tiles read:
// [pair of output blocks][tap][input][output].
template <class Visit>
void for_each_weight(WeightOrder order, int out_blocks, int in_blocks, int taps, Visit visit) {
#pragma omp parallel for schedule(static)
  for (int block = 0; block < out_blocks; block += 2) {
    int outputs = std::min(2, out_blocks - block) * BLOCK;
    long packed = long(block) * BLOCK * BLOCK * in_blocks * taps;
    for (int tap = 0; tap < taps; ++tap)
      for (int input = 0; input < in_blocks * BLOCK; ++input)
        for (int output = 0; output < outputs; ++output, ++packed)
          visit(packed, order.first + (block * BLOCK + output) * order.output + input * order.input + tap * order.tap);
  }
}

void pack(const float* weights, WeightOrder order, int out_blocks, int in_blocks, int taps, float* packed) {
  for_each_weight(order, out_blocks, in_blocks, taps, [=](long to, long from) { packed[to] = weights[from]; });
}

}  // namespace

#endif  // DENSEFACE_CONVOLUTIONS_H_

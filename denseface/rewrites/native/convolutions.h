// Convolutions and the gradients of their weights, at the peak of the processor while their arrays are in the cache.
//
// A convolution is a list of taps: how many pixels beside its output an input lies.

#ifndef DENSEFACE_CONVOLUTIONS_H_
#define DENSEFACE_CONVOLUTIONS_H_

#include <algorithm>
#include <utility>
#include <vector>

#include "vectors.h"

namespace {

// N pixels of O blocks of outputs.
template <int O, int N>
void tile(const float* in, long in_block, const std::vector<int>& taps, int in_blocks, const float* weights, float* out,
          long out_block) {
  Vec sums[O][N];
#pragma GCC unroll 2
  for (int o = 0; o < O; ++o)
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) sums[o][n] = Vec{};
  for (int tap : taps)
    for (int block = 0; block < in_blocks; ++block) {
      const float* x = in + block * in_block + tap * B;
#pragma GCC unroll 1
      for (int i = 0; i < B; ++i, weights += O * B) {
        Vec w[O];
#pragma GCC unroll 2
        for (int o = 0; o < O; ++o) w[o] = at(weights + o * B);
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n)
#pragma GCC unroll 2
          for (int o = 0; o < O; ++o) sums[o][n] += x[n * B + i] * w[o];
      }
    }
#pragma GCC unroll 2
  for (int o = 0; o < O; ++o)
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) at(out + o * out_block + n * B) = sums[o][n];
}

using Tile = void (*)(const float*, long, const std::vector<int>&, int, const float*, float*, long);

template <int O, size_t... N>
Tile tile_of(int pixels, std::index_sequence<N...>) {
  static const Tile tiles[] = {tile<O, N + 1>...};
  return tiles[pixels - 1];
}

constexpr long CACHED = 65536;  // floats of inputs that stay in the cache

// Pixels whose inputs do, in whole tiles.
int pixels_at_once(int channels) { return int(std::max<long>(TILE, std::min(224L, CACHED / channels) / TILE * TILE)); }

struct Strip {
  int rows, width, row;  // row: pixels from one row to the next
};

// Convolve a strip; weights as pack() gives them.
void convolve(const float* in, long in_block, Strip in_strip, const std::vector<int>& taps, int in_blocks,
              const float* weights, float* out, long out_block, int out_row, int out_blocks) {
  int tiles = (in_strip.width + TILE - 1) / TILE, step = (in_strip.width + tiles - 1) / tiles;
  for (int o = 0; o < out_blocks; o += 2) {
    bool pair = o + 1 < out_blocks;
    for (int r = 0; r < in_strip.rows; ++r)
      for (int p = 0; p < in_strip.width; p += step) {
        int pixels = std::min(step, in_strip.width - p);
        auto indices = std::make_index_sequence<TILE>();
        Tile compute = pair ? tile_of<2>(pixels, indices) : tile_of<1>(pixels, indices);
        compute(in + (r * in_strip.row + p) * B, in_block, taps, in_blocks, weights,
                out + o * out_block + (r * out_row + p) * B, out_block);
      }
    weights += long(pair ? 2 : 1) * B * B * in_blocks * taps.size();
  }
}

// Add to the gradients of I inputs' weights for O blocks of outputs.
template <int O, int I>
void weight_tile(const float* in, int in_row, const float* grad, long grad_block, Strip strip, float* sums_out) {
  Vec sums[I][O];
#pragma GCC unroll 16
  for (int i = 0; i < I; ++i)
#pragma GCC unroll 2
    for (int o = 0; o < O; ++o) sums[i][o] = at(sums_out + (i * O + o) * B);
  for (int r = 0; r < strip.rows; ++r) {
    const float *x = in + r * in_row * B, *g = grad + r * strip.row * B;
#pragma GCC unroll 1
    for (int p = 0; p < strip.width; ++p, x += B, g += B) {
      Vec d[O];
#pragma GCC unroll 2
      for (int o = 0; o < O; ++o) d[o] = at(g + o * grad_block);
#pragma GCC unroll 16
      for (int i = 0; i < I; ++i)
#pragma GCC unroll 2
        for (int o = 0; o < O; ++o) sums[i][o] += x[i] * d[o];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < I; ++i)
#pragma GCC unroll 2
    for (int o = 0; o < O; ++o) at(sums_out + (i * O + o) * B) = sums[i][o];
}

// Add a strip to the gradients of all weights, which lie as pack() gives weights.
void weight_gradient(const float* in, long in_block, int in_row, const std::vector<int>& taps, int in_blocks,
                     const float* grad, long grad_block, Strip strip, int out_blocks, float* sums) {
  constexpr int I = B / 2;
  for (int o = 0; o < out_blocks; o += 2) {
    bool pair = o + 1 < out_blocks;
    for (int tap : taps)
      for (int block = 0; block < in_blocks; ++block)
        for (int i = 0; i < B; i += I, sums += I * (pair ? 2 : 1) * B) {
          auto add = pair ? weight_tile<2, I> : weight_tile<1, I>;
          add(in + block * in_block + tap * B + i, in_row, grad + o * grad_block, grad_block, strip, sums);
        }
  }
}

// Where the weight of an output, an input and a tap lies in MXNet's array.
struct Order {
  long output, input, tap, first;
};

// Visit weights in the order that tiles read them: [pair of output blocks][tap][input][output].
template <class Visit>
void visit(Order order, int out_blocks, int in_blocks, int taps, Visit visit) {
#pragma omp parallel for schedule(static)
  for (int o = 0; o < out_blocks; o += 2) {
    int width = std::min(2, out_blocks - o) * B;
    long packed = long(o) * B * B * in_blocks * taps;
    for (int t = 0; t < taps; ++t)
      for (int i = 0; i < in_blocks * B; ++i)
        for (int k = 0; k < width; ++k, ++packed)
          visit(packed, order.first + (o * B + k) * order.output + i * order.input + t * order.tap);
  }
}

void pack(const float* weights, Order order, int out_blocks, int in_blocks, int taps, float* packed) {
  visit(order, out_blocks, in_blocks, taps, [=](long to, long from) { packed[to] = weights[from]; });
}

}  // namespace

#endif  // DENSEFACE_CONVOLUTIONS_H_

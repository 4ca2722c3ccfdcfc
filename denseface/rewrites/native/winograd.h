// 3x3 convolutions in tiles of 2x2 outputs: F(2x2, 3x3) of A. Lavin and S. Gray, "Fast Algorithms for Convolutional
// Neural Networks", 2016, https://arxiv.org/abs/1509.09308, section 4.1.
//
// A tile takes 16 products of transformed inputs (4x4) and weights instead of 36.  Products of the same place among the
// 16 are a 1x1 convolution over tiles.  In float32 the result is as precise as that of a plain sum, to a bit or two.

#ifndef DENSEFACE_WINOGRAD_H_
#define DENSEFACE_WINOGRAD_H_

#include <vector>

#include "convolutions.h"
#include "vectors.h"

namespace {

constexpr int PLACES = 16;

// G g G^T of every kernel g, by place as pack() gives the weights of 1x1 convolutions; weights: (outputs, inputs, 3, 3).
void pack_winograd(const float* weights, int out_blocks, int in_blocks, float* packed) {
  constexpr float G[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  long inputs = long(in_blocks) * B, size = inputs * out_blocks * B;
  std::vector<float> transformed(size);
  for (int place = 0; place < PLACES; ++place) {
    const float *rows = G[place / 4], *columns = G[place % 4];
    for (long k = 0; k < size; ++k) {
      float sum = 0;
      for (int r = 0; r < 3; ++r)
        for (int c = 0; c < 3; ++c) sum += rows[r] * columns[c] * weights[9 * k + 3 * r + c];
      transformed[k] = sum;
    }
    pack(transformed.data(), {inputs, 1, 0, 0}, out_blocks, in_blocks, 1, packed + place * size);
  }
}

// B^T d B of the inputs d of every tile; row: pixels from one row of the inputs to the next; place: floats from one place
// of the outputs to the next.
void winograd_inputs(const float* in, int row, int tile_rows, int tile_columns, float* out, long place) {
  for (int r = 0; r < tile_rows; ++r)
    for (int c = 0; c < tile_columns; ++c, out += B) {
      const float* d = in + (2 * r * row + 2 * c) * B;
      Vec m[4][4];
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        Vec d0 = at(d + k * B), d1 = at(d + (row + k) * B), d2 = at(d + (2 * row + k) * B);
        Vec d3 = at(d + (3 * row + k) * B);
        m[0][k] = d0 - d2, m[1][k] = d1 + d2, m[2][k] = d2 - d1, m[3][k] = d1 - d3;
      }
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        float* to = out + 4 * k * place;
        at(to) = m[k][0] - m[k][2];
        at(to + place) = m[k][1] + m[k][2];
        at(to + 2 * place) = m[k][2] - m[k][1];
        at(to + 3 * place) = m[k][1] - m[k][3];
      }
    }
}

// A^T m A of the products m of every tile, as far as the picture goes.
void winograd_outputs(const float* in, long place, int tile_columns, float* out, int rows, int width) {
  for (int r = 0; r < rows; r += 2)
    for (int c = 0; c < 2 * tile_columns; c += 2, in += B) {
      Vec m[2][4];
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const float* from = in + k * place;
        Vec m1 = at(from + 4 * place), m2 = at(from + 8 * place);
        m[0][k] = at(from) + m1 + m2, m[1][k] = m1 - m2 - at(from + 12 * place);
      }
      float* to = out + (r * width + c) * B;
#pragma GCC unroll 2
      for (int k = 0; k < 2; ++k) {
        if (r + k == rows) break;
        at(to + k * width * B) = m[k][0] + m[k][1] + m[k][2];
        if (c + 1 < width) at(to + (k * width + 1) * B) = m[k][1] - m[k][2] - m[k][3];
      }
    }
}

}  // namespace

#endif  // DENSEFACE_WINOGRAD_H_

// 3x3 convolutions in Winograd tiles of 2x2 outputs: F(2x2, 3x3) of A. Lavin and S. Gray, "Fast Algorithms for
// Convolutional Neural Networks", 2016, https://arxiv.org/abs/1509.09308, section 4.1.
//
// A tile takes 16 products of transformed inputs (4x4) and weights instead of 36. For each of the 16 positions, the
// products of all tiles are a 1x1 convolution over tiles. In float32 the result is as precise as a plain sum, to one or
// two bits.

#ifndef DENSEFACE_WINOGRAD_H_
#define DENSEFACE_WINOGRAD_H_

#include <vector>

#include "convolutions.h"
#include "vectors.h"

namespace {

constexpr int POSITIONS = 16;

// Transform every kernel g to G g G^T, and pack each position as a 1x1 convolution; weights: (outputs, inputs, 3, 3).
void pack_winograd(const float* weights, int out_blocks, int in_blocks, float* packed) {
  constexpr float G[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  long inputs = long(in_blocks) * BLOCK, size = inputs * out_blocks * BLOCK;
  std::vector<float> transformed(size);
  for (int position = 0; position < POSITIONS; ++position) {
    const float *rows = G[position / 4], *columns = G[position % 4];
    for (long k = 0; k < size; ++k) {
      float sum = 0;
      for (int r = 0; r < 3; ++r)
        for (int c = 0; c < 3; ++c) sum += rows[r] * columns[c] * weights[9 * k + 3 * r + c];
      transformed[k] = sum;
    }
    pack(transformed.data(), order_1x1(int(inputs)), out_blocks, in_blocks, 1, packed + position * size);
  }
}

// Transform the inputs d of every tile to B^T d B. pitch: pixels from one row of inputs to the next; stride: floats
// from one position of the outputs to the next.
void winograd_inputs(const float* in, int pitch, int tile_rows, int tile_columns, float* out, long stride) {
  for (int row = 0; row < tile_rows; ++row)
    for (int column = 0; column < tile_columns; ++column, out += BLOCK) {
      const float* d = in + (2 * row * pitch + 2 * column) * BLOCK;
      Vec m[4][4];
      UNROLL(4) for (int k = 0; k < 4; ++k) {
        Vec d0 = at(d + k * BLOCK), d1 = at(d + (pitch + k) * BLOCK), d2 = at(d + (2 * pitch + k) * BLOCK);
        Vec d3 = at(d + (3 * pitch + k) * BLOCK);
        m[0][k] = d0 - d2, m[1][k] = d1 + d2, m[2][k] = d2 - d1, m[3][k] = d1 - d3;
      }
      UNROLL(4) for (int k = 0; k < 4; ++k) {
        float* to = out + 4 * k * stride;
        at(to) = m[k][0] - m[k][2];
        at(to + stride) = m[k][1] + m[k][2];
        at(to + 2 * stride) = m[k][2] - m[k][1];
        at(to + 3 * stride) = m[k][1] - m[k][3];
      }
    }
}

// Transform the products m of every tile to A^T m A, clipped to the rows and the width of the outputs.
void winograd_outputs(const float* in, long stride, int tile_columns, float* out, int rows, int width) {
  for (int row = 0; row < rows; row += 2)
    for (int column = 0; column < 2 * tile_columns; column += 2, in += BLOCK) {
      Vec m[2][4];
      UNROLL(4) for (int k = 0; k < 4; ++k) {
        const float* from = in + k * stride;
        Vec m1 = at(from + 4 * stride), m2 = at(from + 8 * stride);
        m[0][k] = at(from) + m1 + m2, m[1][k] = m1 - m2 - at(from + 12 * stride);
      }
      float* to = out + (row * width + column) * BLOCK;
      UNROLL(2) for (int k = 0; k < 2; ++k) {
        if (row + k == rows) break;
        at(to + k * width * BLOCK) = m[k][0] + m[k][1] + m[k][2];
        if (column + 1 < width) at(to + (k * width + 1) * BLOCK) = m[k][1] - m[k][2] - m[k][3];
      }
    }
}

}  // namespace

#endif  // DENSEFACE_WINOGRAD_H_

// Pictures in MXNet's layout and in blocks of channels.

#ifndef DENSEFACE_LAYOUT_H_
#define DENSEFACE_LAYOUT_H_

#include <algorithm>

#include "vectors.h"

namespace {

// The first channels of (channels, pixels) to blocks of (pixels, B); the last block is filled up with zeros.
void to_blocks(const float* plain, int channels, long pixels, float* blocks) {
  for (int first = 0; first < channels; first += B, blocks += pixels * B)
    for (long p = 0; p < pixels; ++p)
      for (int k = 0; k < B; ++k) blocks[p * B + k] = first + k < channels ? plain[(first + k) * pixels + p] : 0.0f;
}

// The same the other way, without what filled up the last block.
void from_blocks(const float* blocks, int channels, long pixels, float* plain) {
  for (int c = 0; c < channels; ++c)
    for (long p = 0; p < pixels; ++p) plain[c * pixels + p] = blocks[(c / B * pixels + p) * B + c % B];
}

// Rows of a block between columns of zeros; rows outside of the picture are zeros.
template <class Fill>
void pad(float* padded, int row, int width, int first, int last, int height, Fill fill) {
  for (int r = first; r < last; ++r, padded += row * B) {
    bool inside = r >= 0 && r < height;
    std::fill(padded, padded + (inside ? 1 : row) * B, 0.0f);
    if (!inside) continue;
    std::fill(padded + (1 + width) * B, padded + row * B, 0.0f);
    fill(r, padded + B);
  }
}

}  // namespace

#endif  // DENSEFACE_LAYOUT_H_

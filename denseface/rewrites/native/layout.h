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

// Where the features of pictures lie: those of a block's input, filled up to whole blocks, then those that layers add.
struct Layout {
  int first, padded, total;  // channels: of the input, without and with what fills it up; of all, with it
  long pixels;

  long place(int n, int block) const { return (long(n) * (total / B) + block) * pixels * B; }
  long input(int n) const { return long(n) * first * pixels; }
  long output(int n) const { return long(n) * (first + total - padded) * pixels; }

  // Picture n of MXNet's arrays: (N, first, H, W), and with what layers add.
  void read_input(const float* plain, int n, float* features) const {
    to_blocks(plain + input(n), first, pixels, features + place(n, 0));
  }
  void write_input(const float* features, int n, float* plain) const {
    from_blocks(features + place(n, 0), first, pixels, plain + input(n));
  }
  void read_output(const float* plain, int n, float* features) const {
    const float* from = plain + output(n);
    to_blocks(from, first, pixels, features + place(n, 0));
    to_blocks(from + first * pixels, total - padded, pixels, features + place(n, padded / B));
  }
  void write_output(const float* features, int n, float* plain) const {
    float* to = plain + output(n);
    from_blocks(features + place(n, 0), first, pixels, to);
    from_blocks(features + place(n, padded / B), total - padded, pixels, to + first * pixels);
  }
};

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

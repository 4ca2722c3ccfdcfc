// Pictures in MXNet's layout and in blocks of channels.

#ifndef DENSEFACE_LAYOUT_H_
#define DENSEFACE_LAYOUT_H_

#include <algorithm>
#include <cstring>

#include "bfloat16.h"
#include "vectors.h"

namespace {

// Copy (channels, pixels) to blocks of (pixels, BLOCK), the last one zero-padded.
template <class Value>
void to_blocks(const float* plain, int channels, long pixels, Value* blocks) {
  for (int first = 0; first < channels; first += BLOCK, blocks += pixels * BLOCK)
    for (long p = 0; p < pixels; p += BLOCK) {
      int count = int(std::min<long>(BLOCK, pixels - p)), rows = std::min(BLOCK, channels - first);
      Vec tile[BLOCK] = {};
      for (int k = 0; k < rows; ++k) std::memcpy(&tile[k], plain + (first + k) * pixels + p, count * sizeof(float));
      transpose(tile);
      for (int k = 0; k < count; ++k) store(blocks + (p + k) * BLOCK, tile[k]);
    }
}

// Copy blocks to (channels, pixels), without the padding.
template <class Value>
void from_blocks(const Value* blocks, int channels, long pixels, float* plain) {
  for (int first = 0; first < channels; first += BLOCK, blocks += pixels * BLOCK)
    for (long p = 0; p < pixels; p += BLOCK) {
      int count = int(std::min<long>(BLOCK, pixels - p)), rows = std::min(BLOCK, channels - first);
      Vec tile[BLOCK] = {};
      for (int k = 0; k < count; ++k) tile[k] = load(blocks + (p + k) * BLOCK);
      transpose(tile);
      for (int k = 0; k < rows; ++k) std::memcpy(plain + (first + k) * pixels + p, &tile[k], count * sizeof(float));
    }
}

// Where a dense block's features are: the channels of its input, zero-padded to whole blocks, then those that its
// layers append.
struct Layout {
  int input, padded_input, total;  // channels; total includes the padding
  long pixels;

  int appended() const { return total - padded_input; }
  long size() const { return total * pixels; }  // of one picture

  template <class Float>
  View<Float> picture(Float* features, int n) const {
    return {features + n * size(), pixels * BLOCK};
  }

  // Picture n of MXNet's arrays: the input's (N, input, H, W), and the output's (N, input + appended, H, W).
  template <class Value>
  void read_input(const float* plain, int n, Value* features) const {
    to_blocks(plain + n * input_size(), input, pixels, picture(features, n).data);
  }
  void write_input(const float* features, int n, float* plain) const {
    from_blocks(picture(features, n).data, input, pixels, plain + n * input_size());
  }
  void read_output(const float* plain, int n, float* features) const {
    const float* from = plain + n * output_size();
    to_blocks(from, input, pixels, picture(features, n).data);
    to_blocks(from + input_size(), appended(), pixels, picture(features, n)[padded_input / BLOCK]);
  }
  template <class Value>
  void write_output(const Value* features, int n, float* plain) const {
    float* to = plain + n * output_size();
    from_blocks(picture(features, n).data, input, pixels, to);
    from_blocks(picture(features, n)[padded_input / BLOCK], appended(), pixels, to + input_size());
  }

 private:
  long input_size() const { return input * pixels; }
  long output_size() const { return (input + appended()) * pixels; }
};

// Write rows first to last - 1 of a block, each between two columns of zeros; rows outside the picture are zeros.
// fill(row, to) writes the pixels of a row; pitch is that of the padded rows.
template <class Fill>
void pad(float* padded, int pitch, int width, int first, int last, int height, Fill fill) {
  for (int row = first; row < last; ++row, padded += pitch * BLOCK) {
    bool inside = row >= 0 && row < height;
    std::fill(padded, padded + (inside ? 1 : pitch) * BLOCK, 0.0f);
    if (!inside) continue;
    std::fill(padded + (1 + width) * BLOCK, padded + pitch * BLOCK, 0.0f);
    fill(row, padded + BLOCK);
  }
}

}  // namespace

#endif  // DENSEFACE_LAYOUT_H_

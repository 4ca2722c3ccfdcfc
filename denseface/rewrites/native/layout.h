// Pictures in MXNet's layout and in blocks of channels.

#ifndef DENSEFACE_LAYOUT_H_
#define DENSEFACE_LAYOUT_H_

#include <algorithm>
#include <cstring>

#include "bfloat16.h"
#include "vectors.h"

namespace {

// Copy (channels, pixels) to blocks of (pixels, BLOCK), the last one zero-padded. Distances in values: in plain from one
// channel to the next, in blocks from one block to the next and (PITCH) from one pixel to the next.
template <int PITCH = BLOCK, class Value>
void to_blocks(const float* plain, long channel_stride, int channels, long pixels, Value* blocks, long stride) {
  for (int first = 0; first < channels; first += BLOCK, blocks += stride)
    for (long p = 0; p < pixels; p += BLOCK) {
      int count = int(std::min<long>(BLOCK, pixels - p)), rows = std::min(BLOCK, channels - first);
      Vec tile[BLOCK] = {};
      for (int k = 0; k < rows; ++k)
        std::memcpy(&tile[k], plain + (first + k) * channel_stride + p, count * sizeof(float));
      transpose(tile);
      for (int k = 0; k < count; ++k) store(blocks + (p + k) * PITCH, tile[k]);
    }
}

// Copy blocks to (channels, pixels), without the padding.
template <class Value>
void from_blocks(const Value* blocks, long stride, int channels, long pixels, float* plain, long channel_stride) {
  for (int first = 0; first < channels; first += BLOCK, blocks += stride)
    for (long p = 0; p < pixels; p += BLOCK) {
      int count = int(std::min<long>(BLOCK, pixels - p)), rows = std::min(BLOCK, channels - first);
      Vec tile[BLOCK] = {};
      for (int k = 0; k < count; ++k) tile[k] = load(blocks + (p + k) * BLOCK);
      transpose(tile);
      for (int k = 0; k < rows; ++k)
        std::memcpy(plain + (first + k) * channel_stride + p, &tile[k], count * sizeof(float));
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
    read_input(plain, n, features, 0, pixels);
  }
  void write_input(const float* features, int n, float* plain) const {
    write(picture(features, n), input, pixels, plain + n * input_size());
  }
  void read_output(const float* plain, int n, float* features) const {
    const float* from = plain + n * output_size();
    read(from, input, pixels, picture(features, n));
    read(from + input_size(), appended(), pixels, picture(features, n).from_block(padded_input / BLOCK));
  }
  template <class Value>
  void write_output(const Value* features, int n, float* plain) const {
    write_output(features, n, plain, 0, pixels);
  }

  // The same for some of its pixels.
  template <class Value>
  void read_input(const float* plain, int n, Value* features, long first, long count) const {
    read(plain + n * input_size() + first, input, count, picture(features, n).from_pixel(first));
  }
  template <class Value>
  void write_output(const Value* features, int n, float* plain, long first, long count) const {
    float* to = plain + n * output_size() + first;
    View<const Value> from = picture(features, n).from_pixel(first);
    write(from, input, count, to);
    write(from.from_block(padded_input / BLOCK), appended(), count, to + input_size());
  }

 private:
  template <class Value>
  void read(const float* plain, int channels, long count, View<Value> blocks) const {
    to_blocks(plain, pixels, channels, count, blocks.data, blocks.stride);
  }
  template <class Value>
  void write(View<Value> blocks, int channels, long count, float* plain) const {
    from_blocks(blocks.data, blocks.stride, channels, count, plain, pixels);
  }

  long input_size() const { return input * pixels; }
  long output_size() const { return (input + appended()) * pixels; }
};

// Write rows first to last - 1 of a block, each between two columns of zeros; rows outside the picture are zeros.
// fill(row, to) writes the pixels of a row. PITCH: values from one pixel to the next; pitch: pixels of a padded row.
template <int PITCH = BLOCK, class Value, class Fill>
void pad(Value* padded, int pitch, int width, int first, int last, int height, Fill fill) {
  for (int row = first; row < last; ++row, padded += pitch * PITCH) {
    bool inside = row >= 0 && row < height;
    for (int column = 0; column < pitch; column = inside && column == 0 ? width + 1 : column + 1)
      store(padded + column * PITCH, Vec{});
    if (inside) fill(row, padded + PITCH);
  }
}

}  // namespace

#endif  // DENSEFACE_LAYOUT_H_

// A 1x1 or 3x3 convolution in training, outside of dense blocks, whose products are of bfloat16. Its pictures and their
// gradients are float or BFloat16, its weights float.
//
// With stride 2, pixels are sorted by the parities of their row and column into four planes. Within a plane, neighbors
// are as far apart as outputs are, so that a convolution is one product there, too.

#ifndef DENSEFACE_BFLOAT16_LAYER_H_
#define DENSEFACE_BFLOAT16_LAYER_H_

#include <omp.h>

#include <algorithm>
#include <vector>

#include "arena.h"
#include "bfloat16_convolutions.h"
#include "bfloat16_strips.h"

#ifdef DENSEFACE_HAS_BFLOAT16

namespace {

// BLOCK divides the channels.
struct ConvolutionShape {
  int batch, height, width, inputs, outputs;
  int kernel;  // 1, or 3 with a padding of 1
  int stride;  // 1 or 2

  int taps() const { return kernel * kernel; }
  int padding() const { return kernel / 2; }

  int out_height() const { return (height - 1) / stride + 1; }
  int out_width() const { return (width - 1) / stride + 1; }
};

class BFloat16Layer {
 public:
  explicit BFloat16Layer(const ConvolutionShape& shape)
      : shape_(shape), stride_(shape.stride), height_(shape.out_height()), width_(shape.out_width()),
        padding_(shape.padding()), pitch_(width_ + (stride_ == 1 ? 2 : 1) * padding_), pictures_(pictures_at_once()),
        rows_(pictures_ > 1 ? height_ : std::max(1, std::min(height_, BFLOAT16_STRIP / pitch_))),
        plane_(pictures_ * padded_rows() * pitch_), grads_padded_(round_up(plane_) + 2 * SIDE) {
    for (int tap = 0; tap < shape.taps(); ++tap) {
      Place place = place_of_tap(tap);
      taps_.push_back(place.plane * plane_ + place.pixel);
    }
    for (int row = 0; row < rows_ * stride_ + 2 * padding_; ++row)
      for (int column = 0; column < shape.width; ++column)
        input_places_.push_back(place_of(row, column + padding_));
    for (int row = 0; row < padded_rows(); ++row)
      for (int column = 0; column < width_; ++column) output_places_.push_back({0, row * pitch_ + column});
  }

  // in: (N, inputs, H, W), weight: (outputs, inputs, k, k), out: (N, outputs, H / stride, W / stride), rounded up
  template <class In, class Out>
  void forward(const In* in, const float* weight, Out* out) const {
    BFloat16Products::Convolution convolution(weight, order(), shape_.outputs, shape_.inputs, taps_,
                                              long(planes()) * plane_, plane_);
    auto carve = [&](Arena* arena) { return convolution.scratch(arena); };
    for_each_strip(carve, [&](Strip strip, const BFloat16Products::Convolution::Scratch& scratch) {
      read_pairs(in, inputs_of(strip), scratch.in);
      convolution.compute(scratch, {convolved_rows(strip), width_, pitch_}, [&](int b, const float* products, int) {
        write_block(products, 0, b, outputs_of(strip), out);
      });
    });
  }

  // out_grad: gradient of the output; in_grad and weight_grad are written.
  template <class In, class Out>
  void backward(const In* in, const float* weight, const Out* out_grad, In* in_grad, float* weight_grad) const {
    std::vector<BFloat16Convolution> convolutions = plane_convolutions(weight);
    BFloat16WeightGradient gradient(shape_.outputs, shape_.inputs, taps_, long(planes()) * plane_, plane_);
    auto carve = [&](Arena* arena) {
      return Scratch{arena->take<float>(2 * round_up(plane_ + pitch_) * BLOCK * planes()),
                     take_pairs(arena, shape_.outputs, grads_padded_), gradient.scratch(arena)};
    };
    for_each_strip(carve, [&](Strip strip, const Scratch& scratch) {
      read_pairs(out_grad, gradients_of(strip), scratch.out_grads);
      ::Strip products{convolved_rows(strip) + lead(), stride_ == 1 ? width_ : pitch_, pitch_};
      long block_size = round_up(products.rows * pitch_) * BLOCK;
      for (int pair = 0; pair < pairs_of(shape_.inputs); ++pair) {
        for (int plane = 0; plane < planes(); ++plane)
          convolutions[plane].compute(scratch.out_grads.data, pair, products, scratch.products + plane * 2 * block_size);
        for (int b = 2 * pair; b < std::min(2 * pair + 2, shape_.inputs / BLOCK); ++b)
          write_block(scratch.products + b % 2 * block_size, 2 * block_size, b, input_gradients_of(strip), in_grad);
      }
      long in_pixels = long(planes()) * plane_;
      for (int b = 0; b < shape_.inputs / BLOCK; ++b)
        gradient.write_rows(scratch.gradient, b, in_pixels, [&](BFloat16* to) {
          std::fill_n(to, in_pixels * BLOCK, BFloat16{});
          read_block<BLOCK>(in, inputs_of(strip), b, to);
        });
      gradient.add(scratch.gradient, scratch.out_grads.from_pixel(padding_ * (pitch_ + 1)),
                   {convolved_rows(strip), pitch_, pitch_});
    });
    gradient.write(order(), weight_grad);
  }

 private:
  // Rows of a picture's outputs, or several whole pictures below each other.
  struct Strip {
    int picture, pictures, row, rows;
  };

  // What a thread needs for a strip in the backward pass. products: of every plane.
  struct Scratch {
    float* products;
    Pairs out_grads;
    BFloat16WeightGradient::Scratch gradient;
  };

  // Where a pixel of a strip is: in which plane, and where there.
  struct Place {
    int plane, pixel;
  };

  // Rows `first` to `end` - 1 of a strip's pictures in an array (N, channels, height, width).
  struct Part {
    Strip strip;
    int channels, height, width, first, end;
    const Place* places;  // of its pixels, in the first picture
    int shift;            // to add to these

    long channel_size() const { return long(height) * width; }
    long first_value(int n, int block) const {
      return (long(strip.picture + n) * channels + block * BLOCK) * channel_size() + long(first) * width;
    }
  };

  int planes() const { return stride_ * stride_; }

  // Row and column are counted from the padding above and to the left of a strip's inputs.
  Place place_of(int row, int column) const {
    return {row % stride_ * stride_ + column % stride_, row / stride_ * pitch_ + column / stride_};
  }

  Place place_of_tap(int tap) const { return place_of(tap / shape_.kernel, tap % shape_.kernel); }

  WeightOrder order() const { return shape_.kernel == 1 ? order_1x1(shape_.inputs) : order_3x3(shape_.inputs); }

  // Small pictures are convolved together: the weights, and the sums of their gradients, are read once for all. Every
  // thread has equally many such groups if possible.
  int pictures_at_once() const {
    int threads = omp_get_max_threads(), share = (shape_.batch + threads - 1) / threads;
    int count = std::max(1, std::min(share, BFLOAT16_STRIP / ((height_ + 2 * padding_) * pitch_)));
    while (share % count) --count;
    return count;
  }

  // Call work(strip, scratch) for all strips, on all threads; carve(arena) takes a thread's scratch.
  template <class Carve, class Work>
  void for_each_strip(Carve carve, Work work) const {
    int bands = (height_ + rows_ - 1) / rows_, groups = (shape_.batch + pictures_ - 1) / pictures_;
    for_each_job<TileRegisters>(groups * bands, carve, [&](int job, const auto& scratch) {
      int picture = job / bands * pictures_, row = job % bands * rows_;
      work(Strip{picture, std::min(pictures_, shape_.batch - picture), row, std::min(rows_, height_ - row)}, scratch);
    });
  }

  // Rows of a strip's outputs, with the padding between them: some rows after each picture but the last.
  int convolved_rows(Strip strip) const { return strip.pictures * (strip.rows + 2 * padding_) - 2 * padding_; }

  int padded_rows() const { return rows_ + 2 * padding_; }

  // The inputs that a strip's outputs are computed from.
  Part inputs_of(Strip strip) const {
    int top = strip.row * stride_ - padding_, first = std::max(top, 0);
    int end = std::min(top + (strip.rows - 1) * stride_ + shape_.kernel, shape_.height);
    return {strip, shape_.inputs, shape_.height, shape_.width, first, end, input_places(first - top), 0};
  }

  Part outputs_of(Strip strip) const {
    return {strip, shape_.outputs, height_, width_, strip.row, strip.row + strip.rows, output_places_.data(), 0};
  }

  // Gradients of a strip's outputs and of the rows around it, each row after a pixel of padding.
  Part gradients_of(Strip strip) const {
    int top = strip.row - padding_, first = std::max(top, 0);
    int end = std::min(strip.row + strip.rows + padding_, height_);
    return {strip, shape_.outputs, height_, width_, first, end, &output_places_[(first - top) * width_], padding_};
  }

  // Gradients of the inputs that a strip computes: each belongs to one strip.
  Part input_gradients_of(Strip strip) const {
    int top = strip.row * stride_ - padding_, first = std::max(strip.row * stride_ - lead(), 0);
    int next = strip.row + strip.rows, end = next == height_ ? shape_.height : next * stride_ - lead();
    return {strip, shape_.inputs, shape_.height, shape_.width, first, end, input_places(first - top), -margin()};
  }

  const Place* input_places(int row) const { return &input_places_[row * shape_.width]; }

  // With stride 1, gradients of the inputs are computed from their first pixel on, not from the padding before it.
  int margin() const { return stride_ == 1 ? padding_ * (pitch_ + 1) : 0; }

  // Rows of inputs before those of a strip's outputs whose gradients only this strip and the one before can compute.
  int lead() const { return padding_ * (stride_ - 1); }

  // Input (row, column) in the padding's count is read by output ((row - r) / stride, (column - c) / stride) for tap
  // (r, c), if there is such an output. The gradients of outputs lie after a row and a column of padding.
  // The convolutions of all planes read them.
  std::vector<BFloat16Convolution> plane_convolutions(const float* weight) const {
    WeightOrder from_inputs = order();
    WeightOrder from_outputs{from_inputs.input, from_inputs.output, from_inputs.tap, from_inputs.first};
    long size = packed_size(shape_.inputs, shape_.outputs, shape_.taps());
    BFloat16* weights = carved(&shared.weights, [=](Arena* arena) { return arena->take<BFloat16>(size); });
    std::vector<BFloat16Convolution> convolutions;
    for (int plane = 0; plane < planes(); ++plane) {
      std::vector<int> numbers, taps;
      for (int tap = 0; tap < shape_.taps(); ++tap)
        if (place_of_tap(tap).plane == plane) {
          numbers.push_back(tap);
          taps.push_back(margin() + padding_ * (pitch_ + 1) - place_of_tap(tap).pixel);
        }
      pack_bfloat16(weight, from_outputs, shape_.inputs, shape_.outputs, numbers, weights);
      convolutions.emplace_back(weights, shape_.outputs, taps, grads_padded_ * SIDE);
      weights += packed_size(shape_.inputs, shape_.outputs, int(taps.size()));
    }
    return convolutions;
  }

  // Read all channels of a part, zero-padded.
  template <class In>
  void read_pairs(const In* plain, Part part, Pairs to) const {
    std::fill_n(to.data, pairs_of(part.channels) * to.stride, BFloat16{});
    for (int b = 0; b < part.channels / BLOCK; ++b) read_block<SIDE>(plain, part, b, to[b]);
  }

  // Read a block of channels. PITCH: values from one pixel of the strip to the next.
  template <int PITCH, class In>
  void read_block(const In* plain, Part part, int block, BFloat16* to) const {
    long size = part.channel_size();
    int pixels = (part.end - part.first) * part.width;
    for (int n = 0; n < part.strip.pictures; ++n) {
      const In* from = plain + part.first_value(n, block);
      BFloat16* picture = to + (n * padded_rows() * pitch_ + part.shift) * PITCH;
      for (int p = 0; p < pixels; p += BLOCK) {
        Vec tile[BLOCK];
        for (int c = 0; c < BLOCK; ++c)
          tile[c] = load_masked(from + c * size + p, mask_of(pixels - p));
        transpose(tile);
        for (int k = 0; k < std::min(BLOCK, pixels - p); ++k) {
          Place place = part.places[p + k];
          store(picture + (place.plane * plane_ + place.pixel) * PITCH, tile[k]);
        }
      }
    }
  }

  // Write a block of channels of a part from the products of every plane, which are `plane_stride` values apart.
  template <class Out>
  void write_block(const float* products, long plane_stride, int block, Part part, Out* plain) const {
    long size = part.channel_size();
    int pixels = (part.end - part.first) * part.width;
    for (int n = 0; n < part.strip.pictures; ++n) {
      const float* picture = products + (n * padded_rows() * pitch_ + part.shift) * BLOCK;
      Out* to = plain + part.first_value(n, block);
      for (int p = 0; p < pixels; p += BLOCK) {
        Vec tile[BLOCK];
        for (int k = 0; k < BLOCK; ++k) {
          Place place = part.places[std::min(p + k, pixels - 1)];
          tile[k] = at(picture + place.plane * plane_stride + place.pixel * BLOCK);
        }
        transpose(tile);
        for (int c = 0; c < BLOCK; ++c)
          store_masked(to + c * size + p, tile[c], mask_of(pixels - p));
      }
    }
  }

  static __mmask16 mask_of(int count) { return count >= BLOCK ? 0xffff : (1 << count) - 1; }

  ConvolutionShape shape_;
  int stride_, height_, width_;  // the last two of the outputs
  int padding_;
  int pitch_;                    // pixels of a padded row
  int pictures_;                 // of a strip
  int rows_;                     // of each of these
  int plane_;                    // pixels of a plane
  long grads_padded_;            // pixels of the gradients of outputs, and what products read after them
  std::vector<int> taps_;
  std::vector<Place> input_places_, output_places_;
};

}  // namespace

#endif

#endif  // DENSEFACE_BFLOAT16_LAYER_H_

// A dense block in inference, with the transition after it, as one operator of MXNet.
//
// A thread computes one layer for a strip of a picture, from features to features: all intermediate values stay in its
// cache. The 3x3 convolutions take less than half of the products (see winograd.h). Weights are packed at the first
// call.

#ifndef DENSEFACE_INFERENCE_BLOCK_H_
#define DENSEFACE_INFERENCE_BLOCK_H_

#include <omp.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "arena.h"
#include "barrier.h"
#include "convolutions.h"
#include "layer.h"
#include "layout.h"
#include "normalization.h"
#include "padding.h"
#include "pooling.h"
#include "vectors.h"
#include "winograd.h"

namespace {

class InferenceBlock {
 public:
  InferenceBlock(const BlockShape& shape, float eps)
      : padding_(shape.channels, shape.bottleneck, shape.growth), batch_(shape.batch), height_(shape.height),
        width_(shape.width), channels_(padding_.channels()), bottleneck_(shape.bottleneck), growth_(shape.growth),
        transition_(shape.transition), total_(channels_ + shape.layers * growth_), pixels_(long(height_) * width_),
        layout_{shape.channels, channels_, total_, pixels_}, eps_(eps), tile_rows_((height_ + 1) / 2),
        tile_columns_((width_ + 1) / 2), strip_(std::max(1, 2 * TILE / tile_columns_)),
        pitch_(2 * tile_columns_ + 2), layers_(shape.layers) {}

  // in: (N, channels, H, W), out: (N, channels + layers * growth, H, W), or with a transition (N, channels, H/2, W/2).
  // Parameters are read at the first call only.
  void forward(const Parameters& parameters, const float* in, float* out) {
    if (!ready_) prepare(parameters);
    long values = batch_ * layout_.size();
    float* features = carved(&shared.arrays, [=](Arena* arena) { return arena->take<float>(values); });
    size_t size = std::max(measured([this](Arena* arena) { return take_layer(arena); }),
                           measured([this](Arena* arena) { return take_pooled(arena); }));
    char* memory = shared.scratch.get(omp_get_max_threads() * size);
    Barrier barrier;
#pragma omp parallel
    {
      int thread = omp_get_thread_num(), threads = omp_get_num_threads();
      char* scratch = memory + thread * size;
      if (batch_ % threads == 0)
        compute_pictures(in, out, features, scratch, thread, threads);
      else
        compute_bands(in, out, features, scratch, thread, threads, &barrier);
    }
  }

 private:
  static constexpr long CACHED_FEATURES = 1 << 20;  // floats

  struct PackedLayer {
    int channels;
    Array<float> weight1, weight2;
    Affine affine1, affine2;
  };

  struct PackedTransition {
    Array<float> weight;
    Affine affine;
  };

  // What a thread needs to compute a layer for a strip: the 3x3 convolution's input, zero-padded, and its Winograd
  // tiles; outputs of the 1x1 convolution, and its activated inputs.
  struct LayerScratch {
    View<float> padded;
    float *tile_inputs, *tile_products;
    float *hidden, *activated;
  };

  // What it needs for a strip of the transition: its pooled inputs, and outputs.
  struct PooledScratch {
    View<float> in, out;
  };

  // Rows of Winograd tiles of picture n.
  struct Band {
    int n, first, last;
  };

  void prepare(const Parameters& given) {
    std::vector<Layer> layers = padding_.padded(given.layers);
    int hidden_blocks = bottleneck_ / BLOCK, out_blocks = growth_ / BLOCK;
    for (size_t l = 0; l < layers.size(); ++l) {
      const Layer& from = layers[l];
      PackedLayer& to = layers_[l];
      to.channels = channels_ + int(l) * growth_;
      to.affine1.set(from.norm1, from.norm1.moving_mean, from.norm1.moving_variance, to.channels, eps_);
      to.affine2.set(from.norm2, from.norm2.moving_mean, from.norm2.moving_variance, bottleneck_, eps_);
      float* weight1 = to.weight1.get(size_t(bottleneck_) * to.channels);
      float* weight2 = to.weight2.get(size_t(POSITIONS) * bottleneck_ * growth_);
      pack(from.weight1, order_1x1(to.channels), hidden_blocks, to.channels / BLOCK, 1, weight1);
      pack_winograd(from.weight2, out_blocks, hidden_blocks, weight2);
    }
    if (transition_) {
      Transition transition = padding_.padded(given.transition, int(layers.size()), transition_);
      const Norm& norm = transition.norm;
      after_.affine.set(norm, norm.moving_mean, norm.moving_variance, total_, eps_);
      float* weight = after_.weight.get(size_t(transition_blocks()) * BLOCK * total_);
      pack(transition.weight, order_1x1(total_), transition_blocks(), total_ / BLOCK, 1, weight);
    }
    ready_ = true;
  }

  // Every thread takes equally many whole pictures, as many at a time as stay in its cache, to read weights less often.
  void compute_pictures(const float* in, float* out, float* features, char* scratch, int thread, int threads) const {
    int share = batch_ / threads, group = int(std::max(1L, std::min(long(share), CACHED_FEATURES / layout_.size())));
    for (int first = thread * share; first < (thread + 1) * share; first += group) {
      int end = std::min(first + group, (thread + 1) * share);
      for (int n = first; n < end; ++n) read({n, 0, tile_rows_}, in, features);
      for (const auto& layer : layers_)
        for (int n = first; n < end; ++n) compute(layer, {n, 0, tile_rows_}, features, scratch);
      for (int n = first; n < end; ++n) write({n, 0, tile_rows_}, features, out, scratch);
    }
  }

  // Threads share pictures: each is cut into bands of tile rows, so that all threads have as much to do. A layer reads
  // what the one before has computed in the neighboring bands.
  void compute_bands(const float* in, float* out, float* features, char* scratch, int thread, int threads,
                     Barrier* barrier) const {
    int bands = std::min(threads / std::gcd(batch_, threads), tile_rows_), jobs = batch_ * bands;
    auto for_each_band = [&](auto work) {
      for (int job = jobs * thread / threads; job < jobs * (thread + 1) / threads; ++job) {
        int band = job % bands;
        work(Band{job / bands, tile_rows_ * band / bands, tile_rows_ * (band + 1) / bands});
      }
    };
    for_each_band([&](Band band) { read(band, in, features); });
    for (const auto& layer : layers_) {
      barrier->wait(threads);
      for_each_band([&](Band band) { compute(layer, band, features, scratch); });
    }
    for_each_band([&](Band band) { write(band, features, out, scratch); });
  }

  void read(Band band, const float* in, float* features) const {
    long first = first_pixel(band.first);
    layout_.read_input(in, band.n, features, first, first_pixel(band.last) - first);
  }

  void write(Band band, const float* features, float* out, char* scratch) const {
    if (transition_) return compute_transition(band, features, out, scratch);
    long first = first_pixel(band.first);
    layout_.write_output(features, band.n, out, first, first_pixel(band.last) - first);
  }

  // Compute the rows of the transition's output that belong to a band: it pools before it convolves, as both are linear.
  void compute_transition(Band band, const float* features, float* out, char* scratch) const {
    int in_blocks = total_ / BLOCK, width = width_ / 2, step = pooled_rows();
    Arena arena(scratch);
    auto [activated, products] = take_pooled(&arena);
    for (int row = band.first; row < band.last; row += step) {
      int pixels = std::min(step, band.last - row) * width;
      View<const float> in = layout_.picture(features, band.n).from_pixel(first_pixel(row));
      for (int b = 0; b < in_blocks; ++b)
        for (int p = 0; p < pixels; ++p)
          at(activated[b] + p * BLOCK) = pooled(after_.affine.activation(b), in[b], p, width_);
      convolve(activated, {1, pixels, 0}, ONE_TAP, in_blocks, after_.weight.data(), products, 0, transition_blocks());
      from_blocks(products.data, products.stride, transition_, pixels,
                  out + band.n * transition_ * (pixels_ / 4) + long(row) * width, pixels_ / 4);
    }
  }

  // Compute the features that a layer appends.
  void compute(const PackedLayer& layer, Band band, float* all_features, char* scratch) const {
    View<float> features = layout_.picture(all_features, band.n);
    int hidden_blocks = bottleneck_ / BLOCK, out_blocks = growth_ / BLOCK;
    Arena arena(scratch);
    LayerScratch parts = take_layer(&arena);
    View<float> padded = parts.padded;
    View<float> out = features.from_block(layer.channels / BLOCK);
    const float* weights = layer.weight2.data();
    for (int tile = band.first; tile < band.last; tile += strip_) {
      int tiles = std::min(strip_, band.last - tile), top = 2 * tile - 1, known_rows = 0;
      if (tile > band.first) {  // the last two rows of the strip before are the first two of this one
        known_rows = 2;
        for (int b = 0; b < hidden_blocks; ++b)
          std::copy(padded[b] + 2 * strip_ * pitch_ * BLOCK, padded[b] + padded_rows() * pitch_ * BLOCK, padded[b]);
      }
      compute_hidden(layer, features, top + known_rows, top + 2 * tiles + 2, padded.from_pixel(known_rows * pitch_), parts);
      int count = tiles * tile_columns_;
      View<float> inputs(parts.tile_inputs, long(count) * BLOCK), products(parts.tile_products, long(count) * BLOCK);
      for (int b = 0; b < hidden_blocks; ++b)
        winograd_inputs(padded[b], pitch_, tiles, tile_columns_, inputs[b], position_inputs());
      for (int position = 0; position < POSITIONS; ++position)
        convolve({inputs.data + position * position_inputs(), inputs.stride}, {1, count, 0}, ONE_TAP, hidden_blocks,
                 weights + long(position) * bottleneck_ * growth_,
                 {products.data + position * position_products(), products.stride}, 0, out_blocks);
      for (int b = 0; b < out_blocks; ++b)
        winograd_outputs(products[b], position_products(), tile_columns_, out.from_pixel(2 * tile * width_)[b],
                         std::min(2 * tiles, height_ - 2 * tile), width_);
    }
  }

  // Compute rows first to last - 1 of the 3x3 convolution's input, zero-padded.
  void compute_hidden(const PackedLayer& layer, View<const float> features, int first, int last, View<float> padded,
                      const LayerScratch& scratch) const {
    int in_blocks = layer.channels / BLOCK, hidden_blocks = bottleneck_ / BLOCK;
    long start = long(std::max(first, 0)) * width_, end = long(std::min(last, height_)) * width_;
    int step = cached_pixels(layer.channels);
    View<float> hidden(scratch.hidden, (end - start) * BLOCK), activated(scratch.activated, long(step) * BLOCK);
    for (long pixel = start; pixel < end; pixel += step) {
      int pixels = int(std::min<long>(step, end - pixel));
      for (int b = 0; b < in_blocks; ++b)
        layer.affine1.apply(b, features.from_pixel(pixel)[b], activated[b], pixels, pixels_);
      convolve(activated, {1, pixels, 0}, ONE_TAP, in_blocks, layer.weight1.data(), hidden.from_pixel(pixel - start), 0,
               hidden_blocks);
    }
    for (int b = 0; b < hidden_blocks; ++b)
      pad(padded[b], pitch_, width_, first, last, height_, [&](int row, float* to) {
        layer.affine2.apply(b, hidden.from_pixel(row * width_ - start)[b], to, width_, width_);
      });
  }

  long first_pixel(int tile_row) const { return std::min(2L * tile_row * width_, pixels_); }
  int transition_blocks() const { return (transition_ + BLOCK - 1) / BLOCK; }
  // Rows of the transition's output that are computed at a time.
  int pooled_rows() const {
    return std::max(1, std::min(height_ / 2, cached_pixels(2 * total_) / std::max(1, width_ / 2)));
  }
  int padded_rows() const { return 2 * strip_ + 2; }
  int hidden_rows() const { return std::min(padded_rows(), height_); }
  // Floats of one Winograd position of a strip.
  long position_inputs() const { return long(strip_) * tile_columns_ * bottleneck_; }
  long position_products() const { return long(strip_) * tile_columns_ * growth_; }

  LayerScratch take_layer(Arena* arena) const {
    long block_size = long(padded_rows()) * pitch_ * BLOCK;
    View<float> padded(arena->take<float>(block_size * (bottleneck_ / BLOCK)), block_size);
    return {padded, arena->take<float>(POSITIONS * position_inputs()),
            arena->take<float>(POSITIONS * position_products()),
            arena->take<float>(long(hidden_rows()) * width_ * bottleneck_),
            arena->take<float>(std::max<long>(CACHED, long(TILE) * total_))};
  }

  PooledScratch take_pooled(Arena* arena) const {
    long block_size = long(pooled_rows()) * (width_ / 2) * BLOCK;
    View<float> in(arena->take<float>(block_size * (total_ / BLOCK)), block_size);
    return {in, {arena->take<float>(block_size * transition_blocks()), block_size}};
  }

  Padding padding_;
  int batch_, height_, width_;
  int channels_, bottleneck_, growth_, transition_, total_;  // channels_ and total_ include the padding
  long pixels_;
  Layout layout_;
  float eps_;
  int tile_rows_, tile_columns_;  // Winograd tiles of a picture
  int strip_;                     // rows of Winograd tiles in a strip
  int pitch_;                     // pixels of a zero-padded row
  bool ready_ = false;
  std::vector<PackedLayer> layers_;
  PackedTransition after_;
};

}  // namespace

#endif  // DENSEFACE_INFERENCE_BLOCK_H_

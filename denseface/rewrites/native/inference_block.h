// A dense block in inference as one operator of MXNet.
//
// A thread computes a layer for a strip of a picture from features to features: what is between them stays in its cache.
// The 3x3 convolutions take less than half of the products (see winograd.h).  Weights are put in order at the first call.

#ifndef DENSEFACE_INFERENCE_BLOCK_H_
#define DENSEFACE_INFERENCE_BLOCK_H_

#include <omp.h>

#include <algorithm>
#include <mutex>
#include <numeric>
#include <vector>

#include "convolutions.h"
#include "layer.h"
#include "layout.h"
#include "normalisation.h"
#include "padding.h"
#include "vectors.h"
#include "winograd.h"

namespace {

class InferenceBlock {
 public:
  InferenceBlock(int batch, int height, int width, int channels, int bottleneck, int growth, int layers, float eps)
      : padding_(channels, bottleneck, growth), batch_(batch), height_(height), width_(width),
        channels_(padding_.channels()), bottleneck_(bottleneck), growth_(growth), total_(channels_ + layers * growth),
        pixels_(long(height) * width), layout_{channels, channels_, total_, pixels_}, eps_(eps), tile_rows_((height + 1) / 2),
        tile_columns_((width + 1) / 2), strip_(std::max(1, 2 * TILE / tile_columns_)), layers_(layers) {}

  // in: (N, channels, H, W), out: (N, total, H, W).  Parameters are read at the first call.
  void forward(const std::vector<Layer>& layers, const float* in, float* out) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!ready_) prepare(layers);
    int threads = omp_get_max_threads();
    long size = batch_ * total_ * pixels_;
    float* x = features_space.get(size);
    float* space = threads_space.get(threads * thread_space());
    // Threads take whole pictures if they come out even; otherwise parts of them.
    if (batch_ % threads == 0) {
      // As many pictures at a time as stay in the cache, so that weights are read less often.
      int share = batch_ / threads, group = int(std::max(1L, std::min(long(share), GROUP / (total_ * pixels_))));
#pragma omp parallel for schedule(static)
      for (int thread = 0; thread < threads; ++thread)
        for (int n = thread * share; n < (thread + 1) * share; n += group) {
          int end = std::min(n + group, (thread + 1) * share);
          for (int k = n; k < end; ++k) layout_.read_input(in, k, x);
          for (auto& layer : layers_)
            for (int k = n; k < end; ++k) compute(layer, x + layout_.place(k, 0), 0, tile_rows_, space + thread * thread_space());
          for (int k = n; k < end; ++k) layout_.write_output(x, k, out);
        }
      return;
    }
    int bands = std::min(threads / std::gcd(batch_, threads), tile_rows_);
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) layout_.read_input(in, n, x);
    for (auto& layer : layers_)
#pragma omp parallel for schedule(static)
      for (int job = 0; job < batch_ * bands; ++job) {
        int n = job / bands, band = job % bands;
        compute(layer, x + layout_.place(n, 0), tile_rows_ * band / bands, tile_rows_ * (band + 1) / bands,
                space + omp_get_thread_num() * thread_space());
      }
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n) layout_.write_output(x, n, out);
  }

 private:
  static constexpr long GROUP = 1 << 20;  // floats

  struct Prepared {
    int channels;
    Buffer weight1, weight2;
    Affine affine1, affine2;
  };

  void prepare(const std::vector<Layer>& given) {
    std::vector<Layer> layers = padding_.spread(given);
    for (size_t l = 0; l < layers.size(); ++l) {
      Prepared& to = layers_[l];
      const Layer& from = layers[l];
      to.channels = channels_ + int(l) * growth_;
      int in_blocks = to.channels / B, blocks = bottleneck_ / B, out_blocks = growth_ / B;
      to.affine1.set(from.norm1, from.norm1.moving_mean, from.norm1.moving_variance, to.channels, eps_);
      to.affine2.set(from.norm2, from.norm2.moving_mean, from.norm2.moving_variance, bottleneck_, eps_);
      float* w1 = to.weight1.get(size_t(bottleneck_) * to.channels);
      float* w2 = to.weight2.get(size_t(PLACES) * bottleneck_ * growth_);
      pack(from.weight1, {to.channels, 1, 0, 0}, blocks, in_blocks, 1, w1);
      pack_winograd(from.weight2, out_blocks, blocks, w2);
    }
    ready_ = true;
  }

  // Rows of tiles of a picture, from its features x to those that the layer adds.
  void compute(Prepared& layer, float* x, int first_tile, int last_tile, float* space) const {
    int blocks = bottleneck_ / B, out_blocks = growth_ / B, row = 2 * tile_columns_ + 2;
    long padded_block = long(2 * strip_ + 2) * row * B;
    float *padded = space, *v = padded + blocks * padded_block, *m = v + PLACES * place_in(), *rest = m + PLACES * place_out();
    float* out = x + (layer.channels / B) * pixels_ * B;
    const float* weights = layer.weight2.get(0);
    for (int t = first_tile; t < last_tile; t += strip_) {
      int tiles = std::min(strip_, last_tile - t), top = 2 * t - 1, known = 0;
      if (t > first_tile) {
        known = 2;
        for (int b = 0; b < blocks; ++b) {
          float* block = padded + b * padded_block;
          std::copy(block + 2 * strip_ * row * B, block + (2 * strip_ + 2) * row * B, block);
        }
      }
      hidden(layer, x, top + known, top + 2 * tiles + 2, padded + known * row * B, padded_block, rest);
      int count = tiles * tile_columns_;
      for (int b = 0; b < blocks; ++b)
        winograd_inputs(padded + b * padded_block, row, tiles, tile_columns_, v + long(b) * count * B, place_in());
      for (int place = 0; place < PLACES; ++place)
        convolve(v + place * place_in(), long(count) * B, {1, count, 0}, {0}, blocks,
                 weights + long(place) * bottleneck_ * growth_, m + place * place_out(), long(count) * B, 0, out_blocks);
      for (int b = 0; b < out_blocks; ++b)
        winograd_outputs(m + long(b) * count * B, place_out(), tile_columns_, out + (b * pixels_ + 2 * t * width_) * B,
                         std::min(2 * tiles, height_ - 2 * t), width_);
    }
  }

  // Rows of what comes between the two convolutions.
  void hidden(Prepared& layer, const float* x, int first, int last, float* padded, long padded_block, float* space) const {
    int in_blocks = layer.channels / B, blocks = bottleneck_ / B, row = 2 * tile_columns_ + 2;
    long start = long(std::max(first, 0)) * width_, end = long(std::min(last, height_)) * width_;
    float *z = space, *a = z + hidden_rows() * width_ * bottleneck_;
    int size = pixels_at_once(layer.channels);
    for (long p = start; p < end; p += size) {
      int pixels = int(std::min<long>(size, end - p));
      for (int b = 0; b < in_blocks; ++b)
        layer.affine1.apply(b, x + (b * pixels_ + p) * B, a + long(b) * size * B, pixels, pixels_);
      convolve(a, long(size) * B, {1, pixels, 0}, {0}, in_blocks, layer.weight1.get(0), z + (p - start) * B,
               (end - start) * B, 0, blocks);
    }
    for (int b = 0; b < blocks; ++b)
      pad(padded + b * padded_block, row, width_, first, last, height_, [&](int r, float* to) {
        layer.affine2.apply(b, z + (b * (end - start) + r * width_ - start) * B, to, width_, width_);
      });
  }

  int hidden_rows() const { return std::min(2 * strip_ + 2, height_); }
  long place_in() const { return long(strip_) * tile_columns_ * bottleneck_; }
  long place_out() const { return long(strip_) * tile_columns_ * growth_; }
  long thread_space() const {
    long padded = long(2 * strip_ + 2) * (2 * tile_columns_ + 2) * bottleneck_;
    long z = long(hidden_rows()) * width_ * bottleneck_, a = std::max<long>(CACHED, long(TILE) * total_);
    return padded + PLACES * (place_in() + place_out()) + z + a;
  }

  Padding padding_;
  int batch_, height_, width_;
  int channels_, bottleneck_, growth_, total_;  // channels_, total_: with what fills up the input
  long pixels_;
  Layout layout_;
  float eps_;
  int tile_rows_, tile_columns_;  // of a picture
  int strip_;                     // rows of tiles
  bool ready_ = false;
  std::vector<Prepared> layers_;

  // Shared by all blocks, of which one computes at a time, on all cores.
  static std::mutex mutex;
  static Buffer features_space, threads_space;
};

std::mutex InferenceBlock::mutex;
Buffer InferenceBlock::features_space, InferenceBlock::threads_space;

}  // namespace

#endif  // DENSEFACE_INFERENCE_BLOCK_H_

// A dense block in training as one operator of MXNet: every layer of
//   BN - activation - 1x1 convolution - BN - activation - 3x3 convolution, appended to its input.
//
// What it saves against an operator a step:
// - Features lie in one array that every layer reads and appends to; nothing is concatenated.
// - A feature's batch statistics are computed once, not by every later layer.
// - Normalised and activated values exist for one strip of a picture at a time, in the cache, and are computed again
//   when going backward.  Only the features and the outputs of the 1x1 convolutions are kept.
// - Gradients of features are added up in one array.  A normalisation gives s (g - mean(g) - x' mean(g x')) for the
//   gradient g of its output, with x' the normalised input and s its scale over the deviation.  The two means are known
//   after all strips only; as they are affine in x', their sum over layers is subtracted when a feature's turn comes.
//
// Arrays are [picture][block of B channels][pixel][B].  A convolution is a list of taps: how many pixels beside its
// output an input lies.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "mxnet/lib_api.h"

namespace {

#if defined(__AVX512F__)
constexpr int B = 16, TILE = 14;  // 2 x 14 sums, 2 weights and a value are 31 registers of 32
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int B = 8, TILE = 6;  // 15 of 16
#else
#error "MXNet's own operators are faster without fused multiplication and addition of vectors"
#endif

typedef float Vec __attribute__((vector_size(4 * B)));
const Vec& at(const float* values) { return *reinterpret_cast<const Vec*>(values); }
Vec& at(float* values) { return *reinterpret_cast<Vec*>(values); }

// ---------------------------------------------------------------------------------------------------- memory

struct Free {
  void operator()(float* values) const { std::free(values); }
};

// Aligned floats; grows and is never initialised.
class Buffer {
 public:
  float* get(size_t size) {
    if (size > size_) {
      values_.reset();
      values_.reset(static_cast<float*>(std::aligned_alloc(64, (4 * size + 63) / 64 * 64)));
      if (!values_) throw std::bad_alloc();
      size_ = size;
    }
    return values_.get();
  }

 private:
  std::unique_ptr<float, Free> values_;
  size_t size_ = 0;
};

// ---------------------------------------------------------------------------------------------------- convolutions

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

// ---------------------------------------------------------------------------------------------------- normalisation

// Sums by channel over strips, in double precision, by thread: the same for every run on as many threads.
class Sums {
 public:
  Sums(int channels, int kinds)
      : channels_(channels), kinds_(kinds), values_(size_t(omp_get_max_threads()) * channels * kinds) {}

  void add(int kind, int block, const Vec& values, double factor = 1) {
    double* sums = &values_[(size_t(omp_get_thread_num()) * kinds_ + kind) * channels_ + block * B];
    for (int k = 0; k < B; ++k) sums[k] += factor * values[k];
  }

  double get(int kind, int channel) const {
    double sum = 0;
    for (size_t k = size_t(kind) * channels_ + channel; k < values_.size(); k += size_t(kinds_) * channels_)
      sum += values_[k];
    return sum;
  }

 private:
  int channels_, kinds_;
  std::vector<double> values_;
};

// Add a strip's values to the sums of values and of squares; what is squared is the distance from the first value.
void add_moments(Sums* sums, int block, const float* values, int rows, int width, int row) {
  Vec pivot = at(values), sum{}, square{};
  for (int r = 0; r < rows; ++r)
    for (int p = 0; p < width; ++p) {
      Vec distance = at(values + (r * row + p) * B) - pivot;
      sum += distance;
      square += distance * distance;
    }
  sums->add(0, block, sum);
  sums->add(0, block, pivot, rows * width);
  sums->add(1, block, square);
  sums->add(1, block, 2 * pivot * sum);
  sums->add(1, block, pivot * pivot, rows * width);
}

struct Moments {
  std::vector<float> mean, variance;

  void take(const Sums& sums, int first, int channels, double count) {
    for (int c = 0; c < channels; ++c) {
      double m = sums.get(0, c) / count;
      mean[first + c] = float(m);
      variance[first + c] = float(std::max(0.0, sums.get(1, c) / count - m * m));
    }
  }
};

// Parameters of a normalisation and the activation behind it, and their gradients when going backward.
struct Norm {
  const float *gamma, *beta;
  float *moving_mean, *moving_variance;
  const float* slope;  // null for ReLU
  int slopes;          // 1, or one a channel
  float *gamma_grad, *beta_grad, *slope_grad;
};

// What a normalisation and its activation do to each channel: v = scale x + shift, then v or slope v.
struct Affine {
  Buffer buffer;
  float *scale, *shift, *slope, *mean, *inverse;

  void set(const Norm& norm, const float* means, const float* variances, int channels, float eps) {
    scale = buffer.get(size_t(5) * channels);
    shift = scale + channels, slope = shift + channels, mean = slope + channels, inverse = mean + channels;
    for (int c = 0; c < channels; ++c) {
      mean[c] = means[c];
      inverse[c] = 1 / std::sqrt(variances[c] + eps);
      scale[c] = norm.gamma[c] * inverse[c];
      shift[c] = norm.beta[c] - means[c] * scale[c];
      slope[c] = !norm.slope ? 0 : norm.slope[norm.slopes == 1 ? 0 : c];
    }
  }

  // next: pixels from these to those that come after them, in other memory.
  void apply(int block, const float* in, float* out, int pixels, long next) const {
    Vec s = at(scale + block * B), t = at(shift + block * B), a = at(slope + block * B);
    for (int p = 0; p < pixels; ++p) {
      __builtin_prefetch(in + (next + p) * B);
      Vec v = at(in + p * B) * s + t;
      at(out + p * B) = v > 0 ? v : a * v;
    }
  }

  // Hand on the gradient of v for that of the output; sum up what the gradients of beta, gamma and slope are.
  template <class Give>
  void back(int block, const float* in, const float* grad, int pixels, Sums* sums, Give give) const {
    Vec s = at(scale + block * B), t = at(shift + block * B), a = at(slope + block * B);
    Vec m = at(mean + block * B), inv = at(inverse + block * B);
    Vec sum{}, product{}, negative{};
    for (int p = 0; p < pixels; ++p) {
      Vec x = at(in + p * B), v = x * s + t, d = at(grad + p * B);
      Vec below = v > 0 ? Vec{} : d;
      negative += below * v;
      d = v > 0 ? d : a * d;
      sum += d;
      product += d * (x - m);
      give(p, d);
    }
    sums->add(0, block, sum);
    sums->add(1, block, product * inv);
    sums->add(2, block, negative);
  }
};

void give_gradients(const Sums& sums, int channels, const Norm& norm) {
  double slope_sum = 0;
  for (int c = 0; c < channels; ++c) {
    norm.beta_grad[c] = float(sums.get(0, c));
    norm.gamma_grad[c] = float(sums.get(1, c));
    if (norm.slope && norm.slopes > 1) norm.slope_grad[c] = float(sums.get(2, c));
    slope_sum += sums.get(2, c);
  }
  if (norm.slope && norm.slopes == 1) norm.slope_grad[0] = float(slope_sum);
}

// ---------------------------------------------------------------------------------------------------- the block

struct Layer {
  Norm norm1, norm2;
  const float *weight1, *weight2;
  float *weight1_grad, *weight2_grad;
};

class Block {
 public:
  Block(int batch, int height, int width, int channels, int bottleneck, int growth, int layers, float eps,
        float momentum)
      : batch_(batch), height_(height), width_(width), channels_(channels), bottleneck_(bottleneck), growth_(growth),
        layers_(layers), total_(channels + layers * growth), pixels_(long(height) * width), eps_(eps),
        momentum_(momentum), count_(double(batch) * pixels_) {
    features_.mean.resize(total_), features_.variance.resize(total_);
    hidden_.resize(layers), hidden_moments_.resize(layers);
    for (auto& moments : hidden_moments_) moments.mean.resize(bottleneck), moments.variance.resize(bottleneck);
    rows_ = std::max(1, std::min(height, 224 / width));
    for (int r = 0; r < 3; ++r)
      for (int c = 0; c < 3; ++c) taps3_.push_back(r * (width + 2) + c);
  }

  // in: (N, channels, H, W), out: (N, total, H, W)
  void forward(const std::vector<Layer>& layers, const float* in, float* out, bool training) {
    std::lock_guard<std::mutex> lock(mutex);
    float* x = x_.get(batch_ * total_ * pixels_);
    from_plain(in, channels_, x);
    Sums sums(channels_, 2);
    if (training) {
#pragma omp parallel for schedule(static)
      for (int n = 0; n < batch_; ++n)
        for (int b = 0; b < channels_ / B; ++b) {
          for (long p = 0; p < pixels_; p += 256)
            add_moments(&sums, b, x + feature(n, b) + p * B, 1, int(std::min(256L, pixels_ - p)), 0);
        }
      features_.take(sums, 0, channels_, count_);
    }
    for (int l = 0; l < layers_; ++l) forward_layer(layers[l], l, x, training);
    to_plain(x, out, total_);
  }

  // grad: of the output; in_grad: of the input
  void backward(const std::vector<Layer>& layers, const float* grad, float* in_grad) {
    std::lock_guard<std::mutex> lock(mutex);
    float* x = x_.get(batch_ * total_ * pixels_);
    float* g = gradient_space.get(batch_ * total_ * pixels_);
    float* d = hidden_space.get(batch_ * bottleneck_ * pixels_);
    from_plain(grad, total_, g);
    offset_.assign(total_, 0), factor_.assign(total_, 0);
    for (int l = layers_ - 1; l >= 0; --l) backward_layer(layers[l], l, x, g, d);
    int blocks = channels_ / B;
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n)
      for (int b = 0; b < blocks; ++b)
        finish_gradient(x + feature(n, b), g + feature(n, b), b, g + feature(n, b), int(pixels_));
    to_plain(g, in_grad, channels_);
  }

 private:
  long feature(int n, int block) const { return (long(n) * (total_ / B) + block) * pixels_ * B; }
  long hidden(int n, int block) const { return (long(n) * (bottleneck_ / B) + block) * pixels_ * B; }
  int inputs(int l) const { return channels_ + l * growth_; }

  // (N, channels, H, W) to blocks of the first channels
  void from_plain(const float* plain, int channels, float* blocks) const {
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n)
      for (int b = 0; b < channels / B; ++b) {
        const float* from = plain + (long(n) * channels + b * B) * pixels_;
        float* to = blocks + feature(n, b);
        for (long p = 0; p < pixels_; ++p)
          for (int k = 0; k < B; ++k) to[p * B + k] = from[k * pixels_ + p];
      }
  }

  void to_plain(const float* blocks, float* plain, int channels) const {
#pragma omp parallel for schedule(static)
    for (int n = 0; n < batch_; ++n)
      for (int b = 0; b < channels / B; ++b) {
        float* to = plain + (long(n) * channels + b * B) * pixels_;
        const float* from = blocks + feature(n, b);
        for (int k = 0; k < B; ++k)
          for (long p = 0; p < pixels_; ++p) to[k * pixels_ + p] = from[p * B + k];
      }
  }

  // Pixels of a strip whose channels fit in the cache, in whole tiles.
  int strip_of(int channels) const {
    long pixels = std::max<long>(TILE, std::min(224L, 65536L / channels) / TILE * TILE);
    return int(std::min(pixels, pixels_));
  }

  // The statistics to normalise with; the moving ones follow those of the batch in training.
  void prepare(Affine* affine, const Norm& norm, const Moments& moments, int channels, bool training) const {
    if (!training) return affine->set(norm, norm.moving_mean, norm.moving_variance, channels, eps_);
    affine->set(norm, moments.mean.data(), moments.variance.data(), channels, eps_);
    for (int c = 0; c < channels; ++c) {
      norm.moving_mean[c] = momentum_ * norm.moving_mean[c] + (1 - momentum_) * moments.mean[c];
      norm.moving_variance[c] = momentum_ * norm.moving_variance[c] + (1 - momentum_) * moments.variance[c];
    }
  }

  void forward_layer(const Layer& layer, int l, float* x, bool training) {
    int channels = inputs(l), in_blocks = channels / B, blocks = bottleneck_ / B, out_blocks = growth_ / B;
    float* z = hidden_[l].get(batch_ * bottleneck_ * pixels_);
    float* w1 = weights_space.get(size_t(bottleneck_) * (channels + 9 * growth_));
    float* w2 = w1 + long(bottleneck_) * channels;
    pack(layer.weight1, {channels, 1, 0, 0}, blocks, in_blocks, 1, w1);
    pack(layer.weight2, {9L * bottleneck_, 9, 1, 0}, out_blocks, blocks, 9, w2);
    int size = strip_of(channels), strips = int((pixels_ + size - 1) / size);
    Affine affine1, affine2;
    prepare(&affine1, layer.norm1, features_, channels, training);
    Sums sums(bottleneck_, 2);
    long thread_space = long(size) * channels;
    float* space = threads_space.get(omp_get_max_threads() * thread_space);
#pragma omp parallel for schedule(static)
    for (int job = 0; job < batch_ * strips; ++job) {
      int n = job / strips, first = job % strips * size, pixels = int(std::min<long>(size, pixels_ - first));
      float* a = space + omp_get_thread_num() * thread_space;
      for (int b = 0; b < in_blocks; ++b)
        affine1.apply(b, x + feature(n, b) + first * B, a + long(b) * size * B, pixels, pixels_);
      float* out = z + hidden(n, 0) + first * B;
      convolve(a, long(size) * B, {1, pixels, 0}, {0}, in_blocks, w1, out, pixels_ * B, 0, blocks);
      if (training)
        for (int b = 0; b < blocks; ++b) add_moments(&sums, b, out + b * pixels_ * B, 1, pixels, 0);
    }
    if (training) hidden_moments_[l].take(sums, 0, bottleneck_, count_);
    prepare(&affine2, layer.norm2, hidden_moments_[l], bottleneck_, training);
    Sums out_sums(growth_, 2);
    int row_strips = (height_ + rows_ - 1) / rows_;
    thread_space = padded() * blocks;
    space = threads_space.get(omp_get_max_threads() * thread_space);
#pragma omp parallel for schedule(static)
    for (int job = 0; job < batch_ * row_strips; ++job) {
      int n = job / row_strips, first = job % row_strips * rows_, rows = std::min(rows_, height_ - first);
      float* a = space + omp_get_thread_num() * thread_space;
      for (int b = 0; b < blocks; ++b)
        pad(a + b * padded(), first, rows, [&](int r, float* to) {
          affine2.apply(b, z + hidden(n, b) + long(r) * width_ * B, to, width_, width_);
        });
      float* out = x + feature(n, in_blocks) + long(first) * width_ * B;
      convolve(a, padded(), {rows, width_, width_ + 2}, taps3_, blocks, w2, out, pixels_ * B, width_, out_blocks);
      if (training)
        for (int b = 0; b < out_blocks; ++b) add_moments(&out_sums, b, out + b * pixels_ * B, rows, width_, width_);
    }
    if (training) features_.take(out_sums, channels, growth_, count_);
  }

  void backward_layer(const Layer& layer, int l, const float* x, float* g, float* d) {
    int channels = inputs(l), in_blocks = channels / B, blocks = bottleneck_ / B, out_blocks = growth_ / B;
    int threads = omp_get_max_threads();
    const float* z = hidden_[l].get(0);
    long size1 = long(bottleneck_) * channels, size2 = 9L * bottleneck_ * growth_;
    float* w1 = weights_space.get((size1 + size2) * (1 + threads));
    float *w2 = w1 + size1, *sums1 = w2 + size2, *sums2 = sums1 + threads * size1;
    std::fill(sums1, sums2 + threads * size2, 0.0f);
    pack(layer.weight1, {1, channels, 0, 0}, in_blocks, blocks, 1, w1);
    pack(layer.weight2, {9, 9L * bottleneck_, -1, 8}, blocks, out_blocks, 9, w2);
    Affine affine1, affine2;
    affine1.set(layer.norm1, features_.mean.data(), features_.variance.data(), channels, eps_);
    affine2.set(layer.norm2, hidden_moments_[l].mean.data(), hidden_moments_[l].variance.data(), bottleneck_, eps_);

    // Through the 3x3 convolution, to d: the gradient of the second normalisation's output.
    Sums norm2_sums(bottleneck_, 3);
    int row_strips = (height_ + rows_ - 1) / rows_;
    long thread_space = padded() * (blocks + out_blocks);
    float* space = threads_space.get(threads * thread_space);
#pragma omp parallel for schedule(static)
    for (int job = 0; job < batch_ * row_strips; ++job) {
      int n = job / row_strips, first = job % row_strips * rows_, rows = std::min(rows_, height_ - first);
      float* a = space + omp_get_thread_num() * thread_space;
      float* y_grad = a + blocks * padded();
      for (int b = 0; b < blocks; ++b)
        pad(a + b * padded(), first, rows, [&](int r, float* to) {
          affine2.apply(b, z + hidden(n, b) + long(r) * width_ * B, to, width_, width_);
        });
      for (int b = 0; b < out_blocks; ++b)
        pad(y_grad + b * padded(), first, rows, [&](int r, float* to) {
          long from = feature(n, in_blocks + b) + long(r) * width_ * B;
          finish_gradient(x + from, g + from, in_blocks + b, to, width_);
        });
      Strip strip{rows, width_, width_ + 2};
      weight_gradient(a, padded(), width_ + 2, taps3_, blocks, y_grad + (width_ + 3) * B, padded(), strip, out_blocks,
                      sums2 + omp_get_thread_num() * size2);
      float* out = d + hidden(n, 0) + long(first) * width_ * B;
      convolve(y_grad, padded(), strip, taps3_, out_blocks, w2, out, pixels_ * B, width_, blocks);
      for (int b = 0; b < blocks; ++b) {
        float* grads = out + b * pixels_ * B;
        affine2.back(b, z + hidden(n, b) + long(first) * width_ * B, grads, rows * width_, &norm2_sums,
                     [=](int p, const Vec& grad) { at(grads + p * B) = grad; });
      }
    }
    give_gradients(norm2_sums, bottleneck_, layer.norm2);
    give_weights(sums2, size2, threads, layer.weight2_grad, {9L * bottleneck_, 9, 1, 0}, out_blocks, blocks, 9);

    // Through the second normalisation, the 1x1 convolution and the first normalisation, but for its means.
    std::vector<float> offset(bottleneck_), factor(bottleneck_);
    add_means(norm2_sums, affine2, bottleneck_, &offset, &factor);
    Sums norm1_sums(channels, 3);
    int size = strip_of(2 * channels), strips = int((pixels_ + size - 1) / size);
    thread_space = long(size) * (2 * channels + bottleneck_);
    space = threads_space.get(threads * thread_space);
#pragma omp parallel for schedule(static)
    for (int job = 0; job < batch_ * strips; ++job) {
      int n = job / strips, first = job % strips * size, pixels = int(std::min<long>(size, pixels_ - first));
      float* a = space + omp_get_thread_num() * thread_space;
      float *a_grad = a + long(size) * channels, *z_grad = a_grad + long(size) * channels;
      for (int b = 0; b < blocks; ++b) {
        Vec s = at(affine2.scale + b * B), o, f;
        for (int k = 0; k < B; ++k) o[k] = offset[b * B + k], f[k] = factor[b * B + k];
        const float *v = d + hidden(n, b) + first * B, *values = z + hidden(n, b) + first * B;
        float* to = z_grad + long(b) * size * B;
        for (int p = 0; p < pixels; ++p) at(to + p * B) = s * at(v + p * B) - (o + f * at(values + p * B));
      }
      for (int b = 0; b < in_blocks; ++b)
        affine1.apply(b, x + feature(n, b) + first * B, a + long(b) * size * B, pixels, pixels_);
      Strip strip{1, pixels, 0};
      weight_gradient(a, long(size) * B, 0, {0}, in_blocks, z_grad, long(size) * B, strip, blocks,
                      sums1 + omp_get_thread_num() * size1);
      convolve(z_grad, long(size) * B, strip, {0}, blocks, w1, a_grad, long(size) * B, 0, in_blocks);
      for (int b = 0; b < in_blocks; ++b) {
        Vec s = at(affine1.scale + b * B);
        float* to = g + feature(n, b) + first * B;
        affine1.back(b, x + feature(n, b) + first * B, a_grad + long(b) * size * B, pixels, &norm1_sums,
                     [=](int p, const Vec& grad) {
                       __builtin_prefetch(to + (pixels_ + p) * B, 1);  // of the next block
                       at(to + p * B) += s * grad;
                     });
      }
    }
    give_gradients(norm1_sums, channels, layer.norm1);
    give_weights(sums1, size1, threads, layer.weight1_grad, {channels, 1, 0, 0}, blocks, in_blocks, 1);
    add_means(norm1_sums, affine1, channels, &offset_, &factor_);
  }

  // Add s (mean(g) + x' mean(g x')) as offset + factor x.
  void add_means(const Sums& sums, const Affine& affine, int channels, std::vector<float>* offset,
                 std::vector<float>* factor) const {
    for (int c = 0; c < channels; ++c) {
      double along = affine.scale[c] * sums.get(1, c) / count_ * affine.inverse[c];
      (*factor)[c] += float(along);
      (*offset)[c] += float(affine.scale[c] * sums.get(0, c) / count_ - along * affine.mean[c]);
    }
  }

  // The gradient of a feature whose later layers have all added theirs.
  void finish_gradient(const float* x, const float* g, int block, float* out, int pixels) const {
    Vec offset, factor;
    for (int k = 0; k < B; ++k) offset[k] = offset_[block * B + k], factor[k] = factor_[block * B + k];
    for (int p = 0; p < pixels; ++p) at(out + p * B) = at(g + p * B) - (offset + factor * at(x + p * B));
  }

  void give_weights(float* sums, long size, int threads, float* gradients, Order order, int out_blocks, int in_blocks,
                    int taps) const {
    visit(order, out_blocks, in_blocks, taps, [=](long from, long to) {
      float sum = 0;
      for (int t = 0; t < threads; ++t) sum += sums[t * size + from];
      gradients[to] = sum;
    });
  }

  // Floats of a block of a strip with a pixel of zeros around it.
  long padded() const { return long(rows_ + 2) * (width_ + 2) * B; }

  // Fill such a block by rows of the picture; rows outside of it are zeros.
  template <class Fill>
  void pad(float* block, int first, int rows, Fill fill) const {
    for (int r = 0; r < rows + 2; ++r) {
      float *row = block + long(r) * (width_ + 2) * B, *end = row + (width_ + 2) * B;
      int source = first + r - 1;
      if (source < 0 || source >= height_) {
        std::fill(row, end, 0.0f);
        continue;
      }
      at(row) = at(end - B) = Vec{};
      fill(source, row + B);
    }
  }

  int batch_, height_, width_, channels_, bottleneck_, growth_, layers_, total_;
  long pixels_;
  float eps_, momentum_;
  double count_;
  int rows_;  // of a strip
  std::vector<int> taps3_;
  Buffer x_;                    // features
  std::vector<Buffer> hidden_;  // outputs of the 1x1 convolutions, by layer
  Moments features_;
  std::vector<Moments> hidden_moments_;
  std::vector<float> offset_, factor_;  // what is to be subtracted from gradients of features: offset + factor x

  // Shared by all blocks, of which one computes at a time, on all cores.
  static std::mutex mutex;
  static Buffer gradient_space, hidden_space, weights_space, threads_space;
};

std::mutex Block::mutex;
Buffer Block::gradient_space, Block::hidden_space, Block::weights_space, Block::threads_space;

// ---------------------------------------------------------------------------------------------------- MXNet

using namespace mxnet::ext;
using Attributes = std::unordered_map<std::string, std::string>;

// Inputs: whether this is inference (near 1) or training (0), the data, and by layer
//   gamma, beta, moving mean, moving variance, [slope,] weight; the same of the 3x3 convolution.
class Operator : public CustomStatefulOp {
 public:
  Operator(Block* block, int layers, bool slopes) : block_(block), layers_(layers), slopes_(slopes) {}

  MXReturnValue Forward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    bool training = inputs->at(0).data<float>()[0] < 0.5f;
    return tried([&] {
      block_->forward(read(inputs, 0, nullptr), inputs->at(1).data<float>(), outputs->at(0).data<float>(), training);
    });
  }

  // inputs: gradient of the output, then the inputs and the output; outputs: gradients of the inputs
  MXReturnValue Backward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    return tried([&] {
      block_->backward(read(inputs, 1, outputs), inputs->at(0).data<float>(), outputs->at(1).data<float>());
    });
  }

 private:
  template <class Compute>
  MXReturnValue tried(Compute compute) {
    try {
      compute();
      return MX_SUCCESS;
    } catch (const std::bad_alloc&) {
      MX_ERROR_MSG << "not enough memory";
      return MX_FAIL;
    }
  }

  std::vector<Layer> read(std::vector<MXTensor>* tensors, int first, std::vector<MXTensor>* gradients) {
    int next = 2;
    auto value = [&] { return tensors->at(first + next).data<float>(); };
    auto take = [&](float** gradient) {
      *gradient = gradients ? gradients->at(next).data<float>() : nullptr;
      float* values = value();
      ++next;
      return values;
    };
    float* unused;
    auto norm = [&] {
      Norm found{};
      found.gamma = take(&found.gamma_grad);
      found.beta = take(&found.beta_grad);
      found.moving_mean = take(&unused);
      found.moving_variance = take(&unused);
      if (slopes_) {
        found.slopes = int(tensors->at(first + next).size());
        found.slope = take(&found.slope_grad);
      }
      return found;
    };
    std::vector<Layer> layers(layers_);
    for (auto& layer : layers) {
      layer.norm1 = norm();
      layer.weight1 = take(&layer.weight1_grad);
      layer.norm2 = norm();
      layer.weight2 = take(&layer.weight2_grad);
    }
    return layers;
  }

  std::unique_ptr<Block> block_;
  int layers_;
  bool slopes_;
};

int layers_of(const Attributes& attributes) { return std::stoi(attributes.at("layers")); }
bool slopes_of(const Attributes& attributes) { return attributes.at("slopes") == "1"; }
int inputs_of_layer(const Attributes& attributes) { return slopes_of(attributes) ? 12 : 10; }

MXReturnValue parse(const Attributes& attributes, int* inputs, int* outputs) {
  *inputs = 2 + layers_of(attributes) * inputs_of_layer(attributes);
  *outputs = 1;
  return MX_SUCCESS;
}

MXReturnValue infer_type(const Attributes&, std::vector<int>* inputs, std::vector<int>* outputs) {
  std::fill(inputs->begin(), inputs->end(), int(kFloat32));
  outputs->at(0) = kFloat32;
  return MX_SUCCESS;
}

MXReturnValue infer_shape(const Attributes& attributes, std::vector<std::vector<unsigned>>* inputs,
                          std::vector<std::vector<unsigned>>* outputs) {
  outputs->at(0) = inputs->at(1);
  outputs->at(0).at(1) += layers_of(attributes) * inputs->back().at(0);
  return MX_SUCCESS;
}

MXReturnValue mutated(const Attributes& attributes, std::vector<int>* indices) {
  int half = inputs_of_layer(attributes) / 2;
  for (int k = 0; k < 2 * layers_of(attributes); ++k)
    for (int which : {2, 3}) indices->push_back(2 + k * half + which);
  return MX_SUCCESS;
}

MXReturnValue create(const Attributes& attributes, const MXContext&, const std::vector<std::vector<unsigned>>& shapes,
                     const std::vector<int>, CustomStatefulOp** made) {
  const auto &data = shapes.at(1), &weight2 = shapes.back();
  auto* block = new Block(data.at(0), data.at(2), data.at(3), data.at(1), weight2.at(1), weight2.at(0),
                          layers_of(attributes), std::stof(attributes.at("eps")), std::stof(attributes.at("momentum")));
  *made = CustomStatefulOp::create<Operator>(block, layers_of(attributes), slopes_of(attributes));
  return MX_SUCCESS;
}

REGISTER_OP(denseface_dense_block)
    .setParseAttrs(parse)
    .setInferType(infer_type)
    .setInferShape(infer_shape)
    .setMutateInputs(mutated)
    .setCreateOpState(create, "cpu");

}  // namespace

MXReturnValue initialize(int version) { return version >= 10901 ? MX_SUCCESS : MX_FAIL; }

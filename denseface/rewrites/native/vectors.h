// Vectors as wide as the processor's registers, aligned memory, and views of pictures.
//
// Pictures are arrays of [picture][block of channels][pixel][BLOCK channels].

#ifndef DENSEFACE_VECTORS_H_
#define DENSEFACE_VECTORS_H_

#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

namespace {

// BLOCK: channels in a block, which are the floats in a vector.
// TILE: pixels that one register tile computes at most, for two blocks of output channels.
#if defined(__AVX512F__)
constexpr int BLOCK = 16, TILE = 14;  // 2 x 14 sums, 2 weights and 1 input take 31 of 32 registers
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int BLOCK = 8, TILE = 6;  // 2 x 6 sums, 2 weights and 1 input take 15 of 16 registers
#else
#error "without vectors and fused multiply-add, MXNet's own operators are faster"
#endif

typedef float Vec __attribute__((vector_size(4 * BLOCK)));
const Vec& at(const float* values) { return *reinterpret_cast<const Vec*>(values); }
Vec& at(float* values) { return *reinterpret_cast<Vec*>(values); }

// Blocks of channels of a picture, or of a part of it: block b starts at data + b * stride.
template <class Float>
struct View {
  View(Float* data, long stride) : data(data), stride(stride) {}
  View(const View<std::remove_const_t<Float>>& other) : data(other.data), stride(other.stride) {}

  Float* operator[](int block) const { return data + block * stride; }
  View from_block(int block) const { return {(*this)[block], stride}; }
  View from_pixel(long pixel) const { return {data + pixel * BLOCK, stride}; }

  Float* data;
  long stride;
};

struct Free {
  void operator()(float* values) const { std::free(values); }
};

// Aligned floats. The memory only grows, is not initialised, and loses its contents when it grows.
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

  float* data() const { return values_.get(); }

 private:
  std::unique_ptr<float, Free> values_;
  size_t size_ = 0;
};

}  // namespace

#endif  // DENSEFACE_VECTORS_H_

// Vectors of as many floats as the processor computes with at a time, and memory for them.
//
// Arrays of pictures are [picture][block of B channels][pixel][B].

#ifndef DENSEFACE_VECTORS_H_
#define DENSEFACE_VECTORS_H_

#include <cstdlib>
#include <memory>
#include <new>

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

}  // namespace

#endif  // DENSEFACE_VECTORS_H_

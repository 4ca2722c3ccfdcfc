// Vectors as wide as the processor's registers, aligned memory, and views of pictures.
//
// Pictures are arrays of [picture][block of channels][pixel][BLOCK channels].

#ifndef DENSEFACE_VECTORS_H_
#define DENSEFACE_VECTORS_H_

#ifdef __AVX512F__
#include <immintrin.h>
#endif

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

// Pixels per register tile, equally many in all tiles but the last.
int even_tile(int pixels) {
  int tiles = (pixels + TILE - 1) / TILE;
  return (pixels + tiles - 1) / tiles;
}

constexpr size_t ALIGNMENT = 64;  // bytes

#define DENSEFACE_PRAGMA(text) _Pragma(#text)
#define UNROLL(count) DENSEFACE_PRAGMA(GCC unroll count)  // a loop whose arrays have to be registers

typedef float Vec __attribute__((vector_size(4 * BLOCK)));
const Vec& at(const float* values) { return *reinterpret_cast<const Vec*>(values); }
Vec& at(float* values) { return *reinterpret_cast<Vec*>(values); }
Vec load(const float* values) { return at(values); }
void store(float* to, const Vec& values) { at(to) = values; }

// Transpose BLOCK x BLOCK values.
void transpose(Vec rows[BLOCK]) {
#if defined(__AVX512F__)
  __m512i t[BLOCK], u[BLOCK];
  for (int i = 0; i < BLOCK; i += 2) {
    t[i] = _mm512_unpacklo_epi32(__m512i(rows[i]), __m512i(rows[i + 1]));
    t[i + 1] = _mm512_unpackhi_epi32(__m512i(rows[i]), __m512i(rows[i + 1]));
  }
  for (int i = 0; i < BLOCK; i += 4)
    for (int k = 0; k < 2; ++k) {
      u[i + 2 * k] = _mm512_unpacklo_epi64(t[i + k], t[i + k + 2]);
      u[i + 2 * k + 1] = _mm512_unpackhi_epi64(t[i + k], t[i + k + 2]);
    }
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < BLOCK; k += 8) {
      t[k + i] = _mm512_shuffle_i32x4(u[k + i], u[k + i + 4], 0x88);
      t[k + i + 4] = _mm512_shuffle_i32x4(u[k + i], u[k + i + 4], 0xdd);
    }
  for (int i = 0; i < 8; ++i) {
    rows[i] = Vec(_mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
    rows[i + 8] = Vec(_mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
  }
#else
  for (int i = 0; i < BLOCK; ++i)
    for (int k = 0; k < i; ++k) {
      float value = rows[i][k];
      rows[i][k] = rows[k][i], rows[k][i] = value;
    }
#endif
}

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
  void operator()(void* values) const { std::free(values); }
};

// Aligned values. The memory only grows, is not initialized, and loses its contents when it grows.
template <class Value>
class Array {
 public:
  Value* get(size_t count) {
    if (count > count_) {
      count_ = 0;
      values_.reset();
      size_t bytes = (sizeof(Value) * count + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
      values_.reset(static_cast<Value*>(std::aligned_alloc(ALIGNMENT, bytes)));
      if (!values_) throw std::bad_alloc();
      count_ = count;
    }
    return values_.get();
  }

  Value* data() const { return values_.get(); }

 private:
  std::unique_ptr<Value, Free> values_;
  size_t count_ = 0;
};

}  // namespace

#endif  // DENSEFACE_VECTORS_H_

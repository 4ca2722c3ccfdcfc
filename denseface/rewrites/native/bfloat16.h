// Values in bfloat16: the upper half of a float's bits. Rounded to the nearest, ties to even.

#ifndef DENSEFACE_BFLOAT16_H_
#define DENSEFACE_BFLOAT16_H_

#include <cstdint>
#include <cstring>

#include "vectors.h"

namespace {

struct BFloat16 {
  uint16_t bits;
};

// One value, in loops that the compiler vectorizes.
float value_of(float value) { return value; }
float value_of(BFloat16 value) {
  uint32_t bits = uint32_t(value.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof(wide));
  return wide;
}

void put(float* to, float value) { *to = value; }
void put(BFloat16* to, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits += 0x7fff + (bits >> 16 & 1);
  to->bits = uint16_t((value == value ? bits : 0x7fc00000) >> 16);  // a NaN could become a number by rounding
}

}  // namespace

#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#define DENSEFACE_HAS_BFLOAT16 1
#include <immintrin.h>

namespace {

Vec load(const BFloat16* values) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
  return Vec(_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)));
}

void store(BFloat16* to, const Vec& values) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), __m256i(_mm512_cvtneps_pbh(__m512(values))));
}

// The values whose bits in a mask are 1; the others are 0, or are not written.
Vec load_masked(const float* values, __mmask16 mask) { return Vec(_mm512_maskz_loadu_ps(mask, values)); }
Vec load_masked(const BFloat16* values, __mmask16 mask) {
  return Vec(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, values)), 16)));
}
void store_masked(float* to, const Vec& values, __mmask16 mask) { _mm512_mask_storeu_ps(to, mask, __m512(values)); }
void store_masked(BFloat16* to, const Vec& values, __mmask16 mask) {
  _mm256_mask_storeu_epi16(to, mask, __m256i(_mm512_cvtneps_pbh(__m512(values))));
}

// Two pixels of one block, with the two values of each channel side by side.
__m512i interleave(__m256i first, __m256i second) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}
void store_interleaved(BFloat16* to, const Vec& first, const Vec& second) {
  _mm512_storeu_si512(to, interleave(__m256i(_mm512_cvtneps_pbh(__m512(first))),
                                     __m256i(_mm512_cvtneps_pbh(__m512(second)))));
}

constexpr int SIDE = 2 * BLOCK;  // channels of a pair of blocks

// From SIDE pixels of SIDE channels, of which those after the first `pixels` count as 0, to SIDE channels of SIDE pixels.
void transpose_pixels(const BFloat16* in, int pixels, BFloat16* out) {
  Vec channels[2][BLOCK];
  for (int pair = 0; pair < BLOCK; ++pair) {
    __m512i pixel[2];
    for (int k = 0; k < 2; ++k) {
      int p = 2 * pair + k;
      pixel[k] = p < pixels ? _mm512_loadu_si512(in + p * SIDE) : _mm512_setzero_si512();
    }
    channels[0][pair] = Vec(interleave(_mm512_castsi512_si256(pixel[0]), _mm512_castsi512_si256(pixel[1])));
    channels[1][pair] =
        Vec(interleave(_mm512_extracti64x4_epi64(pixel[0], 1), _mm512_extracti64x4_epi64(pixel[1], 1)));
  }
  for (int block = 0; block < 2; ++block) {
    transpose(channels[block]);
    for (int c = 0; c < BLOCK; ++c) _mm512_storeu_ps(out + (block * BLOCK + c) * SIDE, __m512(channels[block][c]));
  }
}

}  // namespace

#endif

#endif  // DENSEFACE_BFLOAT16_H_

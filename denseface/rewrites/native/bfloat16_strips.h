// Strips of pixels of bfloat16, in the orders in which products read them.

#ifndef DENSEFACE_BFLOAT16_STRIPS_H_
#define DENSEFACE_BFLOAT16_STRIPS_H_

#include "bfloat16_convolutions.h"

#ifdef DENSEFACE_HAS_BFLOAT16

namespace {

// Where a block's channels are in a strip of pairs of blocks.
Half* part_of(Half* strip, long stride, int block) { return strip + block / 2 * stride + block % 2 * BLOCK; }

void clear_part(Half* to, int pixels) {
  for (int p = 0; p < pixels; ++p) store(to + p * SIDE, Vec{});
}

// Transpose the pixels of every pair of blocks.
void transpose_strip(const Half* in, long stride, int pairs, int pixels, Half* out) {
  long size = round_up(pixels) * BLOCK;  // of one block
  for (int pair = 0; pair < pairs; ++pair, in += stride, out += 2 * size)
    for (int first = 0; first < pixels; first += SIDE)
      transpose_pixels(in + first * SIDE, pixels - first, out + first * BLOCK, size);
}

// Interleave each of `pixels` pixels of a block with the next one: pixels 0 and 1, 2 and 3, ...; and after parity_stride
// 1 and 2, 3 and 4, ...
void interleave_strip(const Half* in, long pixels, Half* out, long parity_stride) {
  auto pixel = [=](long p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(in + p * BLOCK)); };
  __m256i first = pixel(0);
  for (long p = 0; p + 2 < pixels; p += 2, out += SIDE) {
    __m256i second = pixel(p + 1), third = pixel(p + 2);
    _mm512_store_si512(out, interleave(first, second));
    _mm512_store_si512(out + parity_stride, interleave(second, third));
    first = third;
  }
}

}  // namespace

#endif

#endif  // DENSEFACE_BFLOAT16_STRIPS_H_

// Strips of pixels of bfloat16, in the orders in which products read them.

#ifndef DENSEFACE_BFLOAT16_STRIPS_H_
#define DENSEFACE_BFLOAT16_STRIPS_H_

#include <algorithm>

#include "arena.h"
#include "bfloat16.h"

#ifdef DENSEFACE_HAS_BFLOAT16

namespace {

int pairs_of(int channels) { return (channels + SIDE - 1) / SIDE; }
long round_up(long pixels) { return (pixels + SIDE - 1) / SIDE * SIDE; }

// A strip of pixels of pairs of blocks: a pixel has SIDE values of each.
struct Pairs {
  BFloat16* data;
  long stride;  // values from one pair to the next

  BFloat16* operator[](int block) const { return data + block / 2 * stride + block % 2 * BLOCK; }
  Pairs from_pixel(long pixel) const { return {data + pixel * SIDE, stride}; }
};

// A strip for blocks of channels; the block that fills the last pair is zero.
Pairs take_pairs(Arena* arena, int channels, long pixels) {
  int pairs = pairs_of(channels);
  Pairs taken{arena->take<BFloat16>(pairs * pixels * SIDE), pixels * SIDE};
  if (channels % SIDE && !arena->measures()) std::fill_n(taken[2 * pairs - 2], taken.stride, BFloat16{});
  return taken;
}

// Transpose the pixels of every pair of blocks, SIDE pixels at a time.
void transpose_strip(Pairs in, int pairs, int pixels, BFloat16* out) {
  for (int pair = 0; pair < pairs; ++pair)
    for (int first = 0; first < pixels; first += SIDE, out += SIDE * SIDE)
      transpose_pixels(in[2 * pair] + first * SIDE, pixels - first, out);
}

// Interleave each of `pixels` pixels of a block with the next one: pixels 0 and 1, 2 and 3, ... in even; and 1 and 2,
// 3 and 4, ... in odd, if it is not null. The number of pixels is even.
void interleave_strip(const BFloat16* in, long pixels, BFloat16* even, BFloat16* odd) {
  auto pixel = [=](long p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(in + p * BLOCK)); };
  __m256i first = pixel(0);
  for (long p = 0; p < pixels; p += 2) {
    __m256i second = pixel(p + 1), third = p + 2 < pixels ? pixel(p + 2) : _mm256_setzero_si256();
    _mm512_store_si512(even + p * BLOCK, interleave(first, second));
    if (odd) _mm512_store_si512(odd + p * BLOCK, interleave(second, third));
    first = third;
  }
}

}  // namespace

#endif

#endif  // DENSEFACE_BFLOAT16_STRIPS_H_

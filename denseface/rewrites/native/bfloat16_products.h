// Products of matrices of bfloat16 with sums in float32: by AMX where the processor and the system allow it, else by
// AVX-512. Both read operands in the same order.
//
// A product computes 32 x 32 sums in steps of 32 terms. Its left operand has two tiles of 16 rows per step, each row 32
// values; its right operand two tiles for 16 columns, in which the values of terms 2k and 2k + 1 lie side by side: 16
// rows of 16 such pairs.

#ifndef DENSEFACE_BFLOAT16_PRODUCTS_H_
#define DENSEFACE_BFLOAT16_PRODUCTS_H_

#include <cstring>
#include <vector>

#include "bfloat16.h"

#ifdef DENSEFACE_HAS_BFLOAT16

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int SIDE = 32, TILE_SIZE = 512;  // of a product; values in a tile of bfloat16

struct Product {
  const Half* left;
  const std::vector<long>* left_steps;  // where the first left tile of each step is
  long left_half;                       // from there to the second tile
  const Half* right;
  long right_step, right_half;
  float* sums;
  long sums_down, sums_right;  // from the first 16 x 16 sums to those below and to the right; their rows are adjacent
  int halves;                  // 1: only the upper 16 rows of sums are needed
  bool add;                    // to the sums, instead of writing them
};

#ifdef __AMX_BF16__

// Ask Linux for the tile registers, once per process. Some systems and emulators refuse.
bool has_tiles() {
  constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18;
  static const bool allowed = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
  return allowed;
}

// While it exists, this thread's tiles have 16 rows of 64 bytes.
class TileRegisters {
 public:
  TileRegisters() {
    if (!has_tiles()) return;
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } settings;
    asm volatile("ldtilecfg %0" ::"m"(settings));
  }
  ~TileRegisters() {
    if (has_tiles()) _tile_release();
  }
};

template <bool BOTH>
void multiply_tiles(const Product& p) {
  asm volatile("" ::: "memory");  // the compiler does not know what tile loads read
  float *upper = p.sums, *lower = p.sums + p.sums_down;
  if (p.add) {
    _tile_loadd(0, upper, 64);
    _tile_loadd(1, upper + p.sums_right, 64);
    if (BOTH) _tile_loadd(2, lower, 64);
    if (BOTH) _tile_loadd(3, lower + p.sums_right, 64);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if (BOTH) _tile_zero(2);
    if (BOTH) _tile_zero(3);
  }
  const Half* right = p.right;
  for (long step : *p.left_steps) {
    const Half* left = p.left + step;
    _tile_loadd(4, left, 64);
    _tile_loadd(6, right, 64);
    _tile_loadd(7, right + p.right_half, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (BOTH) {
      _tile_loadd(5, left + p.left_half, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    right += p.right_step;
  }
  _tile_stored(0, upper, 64);
  _tile_stored(1, upper + p.sums_right, 64);
  if (BOTH) _tile_stored(2, lower, 64);
  if (BOTH) _tile_stored(3, lower + p.sums_right, 64);
  asm volatile("" ::: "memory");
}

#else

bool has_tiles() { return false; }
struct TileRegisters {
  ~TileRegisters() {}
};

#endif

// ROWS rows of sums at a time, which fit in the vector registers with what they need.
void multiply_vectors(const Product& p) {
  constexpr int ROWS = 8;
  for (int half = 0; half < p.halves; ++half)
    for (int row = 0; row < 16; row += ROWS) {
      float* sums = p.sums + half * p.sums_down + row * BLOCK;
      __m512 total[ROWS][2];
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
        for (int k = 0; k < 2; ++k)
          total[r][k] = p.add ? _mm512_load_ps(sums + k * p.sums_right + r * BLOCK) : _mm512_setzero_ps();
      const Half* right = p.right;
      for (long step : *p.left_steps) {
        const Half* left = p.left + step + half * p.left_half + row * SIDE;
#pragma GCC unroll 1
        for (int pair = 0; pair < 16; ++pair) {
          __m512bh columns[2];
#pragma GCC unroll 2
          for (int k = 0; k < 2; ++k)
            columns[k] = __m512bh(_mm512_loadu_si512(right + k * p.right_half + pair * SIDE));
#pragma GCC unroll 8
          for (int r = 0; r < ROWS; ++r) {
            int terms;
            std::memcpy(&terms, left + r * SIDE + 2 * pair, sizeof terms);
#pragma GCC unroll 2
            for (int k = 0; k < 2; ++k)
              total[r][k] = _mm512_dpbf16_ps(total[r][k], __m512bh(_mm512_set1_epi32(terms)), columns[k]);
          }
        }
        right += p.right_step;
      }
#pragma GCC unroll 8
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
        for (int k = 0; k < 2; ++k) _mm512_store_ps(sums + k * p.sums_right + r * BLOCK, total[r][k]);
    }
}

// The calling thread must have TileRegisters.
void multiply(const Product& product) {
#ifdef __AMX_BF16__
  if (has_tiles()) return product.halves == 2 ? multiply_tiles<true>(product) : multiply_tiles<false>(product);
#endif
  multiply_vectors(product);
}

}  // namespace

#endif

#endif  // DENSEFACE_BFLOAT16_PRODUCTS_H_

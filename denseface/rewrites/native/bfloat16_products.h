// Products of matrices of bfloat16 with sums in float32: by AMX where the processor and the system allow it, else by
// AVX-512. Both read operands in the same order.
//
// A product computes up to SIDE rows of SIDE sums, in steps of SIDE terms. Its left operand has adjacent rows of SIDE
// values per step; its right operand two tiles for BLOCK columns, in which the values of terms 2k and 2k + 1 lie side by
// side: BLOCK rows of BLOCK such pairs.

#ifndef DENSEFACE_BFLOAT16_PRODUCTS_H_
#define DENSEFACE_BFLOAT16_PRODUCTS_H_

#include <algorithm>
#include <cstring>
#include <utility>

#include "bfloat16.h"

#ifdef DENSEFACE_HAS_BFLOAT16

#ifdef __AMX_BF16__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int TILE_SIZE = BLOCK * SIDE;   // values in a tile of bfloat16
constexpr int SUMS_SIZE = BLOCK * BLOCK;  // sums in a tile of float32
constexpr int TILE_ROW = 64;              // bytes in a row of either

// Distances are in values.
struct Product {
  const BFloat16* left;
  const long* left_steps;  // from left to the first row of each step
  int steps;
  const BFloat16* right;
  long right_step;   // from one step's first tile to the next one's
  long right_next;  // from the first tile of a step to the second, to its right
  float* sums;      // rows of BLOCK values, which are adjacent
  long sums_right;  // from the first BLOCK columns to the others
  int rows;         // that are needed; AMX writes as many as fill its tiles
  bool add;         // to the sums, instead of writing them
};

#ifdef __AMX_BF16__

// Ask Linux for the tile registers, once per process. Some systems and emulators refuse.
bool has_tiles() {
  constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18;
  static const bool allowed = syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
  return allowed;
}

// While it exists, this thread's tiles have BLOCK rows of TILE_ROW bytes.
class TileRegisters {
 public:
  TileRegisters() {
    if (!has_tiles()) return;
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } settings;
    for (int tile = 0; tile < TILES; ++tile) settings.row_bytes[tile] = TILE_ROW, settings.rows[tile] = BLOCK;
    asm volatile("ldtilecfg %0" ::"m"(settings));
  }
  ~TileRegisters() {
    if (has_tiles()) _tile_release();
  }

 private:
  static constexpr int TILES = 8;
};

template <bool BOTH>
void multiply_tiles(const Product& p) {
  asm volatile("" ::: "memory");  // the compiler does not know what tile loads read
  float *upper = p.sums, *lower = p.sums + SUMS_SIZE;
  if (p.add) {
    _tile_loadd(0, upper, TILE_ROW);
    _tile_loadd(1, upper + p.sums_right, TILE_ROW);
    if (BOTH) _tile_loadd(2, lower, TILE_ROW);
    if (BOTH) _tile_loadd(3, lower + p.sums_right, TILE_ROW);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if (BOTH) _tile_zero(2);
    if (BOTH) _tile_zero(3);
  }
  const BFloat16* right = p.right;
  for (int step = 0; step < p.steps; ++step) {
    const BFloat16* left = p.left + p.left_steps[step];
    _tile_loadd(4, left, TILE_ROW);
    _tile_loadd(6, right, TILE_ROW);
    _tile_loadd(7, right + p.right_next, TILE_ROW);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (BOTH) {
      _tile_loadd(5, left + TILE_SIZE, TILE_ROW);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    right += p.right_step;
  }
  _tile_stored(0, upper, TILE_ROW);
  _tile_stored(1, upper + p.sums_right, TILE_ROW);
  if (BOTH) _tile_stored(2, lower, TILE_ROW);
  if (BOTH) _tile_stored(3, lower + p.sums_right, TILE_ROW);
  asm volatile("" ::: "memory");
}

#else

bool has_tiles() { return false; }
struct TileRegisters {
  ~TileRegisters() {}
};

#endif

// ROWS rows of sums from a first one on, in registers.
template <int ROWS>
void multiply_rows(const Product& p, int first) {
  float* sums = p.sums + first * BLOCK;
  __m512 total[ROWS][2];
  UNROLL(16) for (int r = 0; r < ROWS; ++r)
    UNROLL(2) for (int k = 0; k < 2; ++k)
      total[r][k] = p.add ? _mm512_load_ps(sums + k * p.sums_right + r * BLOCK) : _mm512_setzero_ps();
  const BFloat16* right = p.right;
  for (int step = 0; step < p.steps; ++step) {
    const BFloat16* left = p.left + p.left_steps[step] + first * SIDE;
    UNROLL(1) for (int pair = 0; pair < BLOCK; ++pair) {
      __m512bh columns[2];
      UNROLL(2) for (int k = 0; k < 2; ++k)
        columns[k] = __m512bh(_mm512_loadu_si512(right + k * p.right_next + pair * SIDE));
      UNROLL(16) for (int r = 0; r < ROWS; ++r) {
        int terms;
        std::memcpy(&terms, left + r * SIDE + 2 * pair, sizeof terms);
        UNROLL(2) for (int k = 0; k < 2; ++k)
          total[r][k] = _mm512_dpbf16_ps(total[r][k], __m512bh(_mm512_set1_epi32(terms)), columns[k]);
      }
    }
    right += p.right_step;
  }
  UNROLL(16) for (int r = 0; r < ROWS; ++r)
    UNROLL(2) for (int k = 0; k < 2; ++k) _mm512_store_ps(sums + k * p.sums_right + r * BLOCK, total[r][k]);
}

template <size_t... INDICES>
void multiply_vectors(const Product& p, std::index_sequence<INDICES...>) {
  static constexpr void (*multiply[])(const Product&, int) = {multiply_rows<INDICES + 1>...};
  int step = even_tile(p.rows);
  for (int first = 0; first < p.rows; first += step) multiply[std::min(step, p.rows - first) - 1](p, first);
}

// The calling thread must have TileRegisters.
void multiply(const Product& product) {
#ifdef __AMX_BF16__
  if (has_tiles()) return product.rows > BLOCK ? multiply_tiles<true>(product) : multiply_tiles<false>(product);
#endif
  multiply_vectors(product, std::make_index_sequence<TILE>());
}

}  // namespace

#endif

#endif  // DENSEFACE_BFLOAT16_PRODUCTS_H_

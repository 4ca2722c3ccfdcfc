// The 2x2 average pooling of a transition.

#ifndef DENSEFACE_POOLING_H_
#define DENSEFACE_POOLING_H_

#include "bfloat16.h"
#include "normalization.h"
#include "vectors.h"

namespace {

// The mean of the activations of the four pixels that pixel `index` of the output comes from. in: rows of `width`
// pixels.
template <class Value>
Vec pooled(const Affine::Activation& activate, const Value* in, int index, int width) {
  const Value* from = in + (index / (width / 2) * 2L * width + index % (width / 2) * 2L) * BLOCK;
  Vec sum = activate(load(from)) + activate(load(from + BLOCK));
  from += width * BLOCK;
  return 0.25f * (sum + activate(load(from)) + activate(load(from + BLOCK)));
}

// Spread the gradients of pooled pixels over `rows` rows of `width` pixels.
void unpool(const float* grads, int rows, int width, float* to) {
  for (int row = 0; row < rows; ++row)
    for (int column = 0; column < width; ++column, to += BLOCK)
      at(to) = 0.25f * at(grads + (row / 2 * (width / 2) + column / 2) * BLOCK);
}

}  // namespace

#endif  // DENSEFACE_POOLING_H_

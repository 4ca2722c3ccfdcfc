// What a layer of a dense block computes with.

#ifndef DENSEFACE_LAYER_H_
#define DENSEFACE_LAYER_H_

#include "normalisation.h"

namespace {

struct Layer {
  Norm norm1, norm2;
  const float *weight1, *weight2;
  float *weight1_grad, *weight2_grad;
};

}  // namespace

#endif  // DENSEFACE_LAYER_H_

// The shape of a dense block, and the parameters of its layers.

#ifndef DENSEFACE_LAYER_H_
#define DENSEFACE_LAYER_H_

#include <vector>

#include "normalization.h"

namespace {

// Layers compute `bottleneck` channels by their 1x1 convolution and append `growth` channels by their 3x3 convolution.
struct BlockShape {
  int batch, height, width;
  int channels, bottleneck, growth;  // channels: of the block's input
  int layers;
  int transition;  // channels of the transition after the layers; 0 if there is none
};

// BN - activation - 1x1 convolution (norm1, weight1), then BN - activation - 3x3 convolution (norm2, weight2).
struct Layer {
  Norm norm1, norm2;
  const float *weight1, *weight2;
  float *weight1_grad, *weight2_grad;
};

// BN - activation - 1x1 convolution - 2x2 average pooling.
struct Transition {
  Norm norm;
  const float* weight;
  float* weight_grad;
};

struct Parameters {
  std::vector<Layer> layers;
  Transition transition;
};

}  // namespace

#endif  // DENSEFACE_LAYER_H_

// PReLU: y = x where x > 0, else slope x.

#ifndef DENSEFACE_PRELU_H_
#define DENSEFACE_PRELU_H_

#include <vector>

namespace {

struct PReLUShape {
  long batch, channels, pixels;
  long slopes;  // 1, or one per channel

  long slope_of(long plane) const { return slopes == 1 ? 0 : plane % channels; }
};

void prelu_forward(const PReLUShape& shape, const float* in, const float* slope, float* out) {
#pragma omp parallel for schedule(static)
  for (long plane = 0; plane < shape.batch * shape.channels; ++plane) {
    const float* x = in + plane * shape.pixels;
    float* y = out + plane * shape.pixels;
    float factor = slope[shape.slope_of(plane)];
#pragma omp simd
    for (long p = 0; p < shape.pixels; ++p) y[p] = x[p] > 0 ? x[p] : factor * x[p];
  }
}

// The gradients of the input and of the slopes are written.
void prelu_backward(const PReLUShape& shape, const float* in, const float* slope, const float* out_grad, float* in_grad,
                    float* slope_grad) {
  std::vector<float> sums(shape.batch * shape.channels);
#pragma omp parallel for schedule(static)
  for (long plane = 0; plane < shape.batch * shape.channels; ++plane) {
    const float *x = in + plane * shape.pixels, *grad = out_grad + plane * shape.pixels;
    float* to = in_grad + plane * shape.pixels;
    float factor = slope[shape.slope_of(plane)], sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long p = 0; p < shape.pixels; ++p) {
      to[p] = x[p] > 0 ? grad[p] : factor * grad[p];
      sum += x[p] > 0 ? 0 : x[p] * grad[p];
    }
    sums[plane] = sum;
  }
  std::vector<double> totals(shape.slopes);
  for (long plane = 0; plane < shape.batch * shape.channels; ++plane) totals[shape.slope_of(plane)] += sums[plane];
  for (long k = 0; k < shape.slopes; ++k) slope_grad[k] = float(totals[k]);
}

}  // namespace

#endif  // DENSEFACE_PRELU_H_

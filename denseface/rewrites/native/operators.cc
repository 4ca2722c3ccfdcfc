// Dense blocks as operators of MXNet.

#include <algorithm>
#include <memory>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include "inference_block.h"
#include "layer.h"
#include "mxnet/lib_api.h"
#include "training_block.h"

namespace {

using namespace mxnet::ext;
using Attributes = std::unordered_map<std::string, std::string>;

int layers_of(const Attributes& attributes) { return std::stoi(attributes.at("layers")); }
bool slopes_of(const Attributes& attributes) { return attributes.at("slopes") == "1"; }
int inputs_of_layer(const Attributes& attributes) { return slopes_of(attributes) ? 12 : 10; }

template <class Compute>
MXReturnValue tried(Compute compute) {
  try {
    compute();
    return MX_SUCCESS;
  } catch (const std::bad_alloc&) {
    MX_ERROR_MSG << "not enough memory";
    return MX_FAIL;
  }
}

// Layers from their parameters, each
//   gamma, beta, moving mean, moving variance, [slope,] weight; the same of the 3x3 convolution.
// gradients: as many, or null.
std::vector<Layer> read(const Attributes& attributes, MXTensor* parameters, MXTensor* gradients) {
  auto take = [&](float** gradient) {
    *gradient = gradients ? (gradients++)->data<float>() : nullptr;
    return (parameters++)->data<float>();
  };
  float* unused;
  auto norm = [&] {
    Norm found{};
    found.gamma = take(&found.gamma_grad);
    found.beta = take(&found.beta_grad);
    found.moving_mean = take(&unused);
    found.moving_variance = take(&unused);
    if (slopes_of(attributes)) {
      found.slopes = int(parameters->size());
      found.slope = take(&found.slope_grad);
    }
    return found;
  };
  std::vector<Layer> layers(layers_of(attributes));
  for (auto& layer : layers) {
    layer.norm1 = norm();
    layer.weight1 = take(&layer.weight1_grad);
    layer.norm2 = norm();
    layer.weight2 = take(&layer.weight2_grad);
  }
  return layers;
}

// Inputs: whether this is inference (near 1) or training (0), the data, parameters of layers.
class TrainingOperator : public CustomStatefulOp {
 public:
  TrainingOperator(TrainingBlock* block, const Attributes& attributes) : block_(block), attributes_(attributes) {}

  MXReturnValue Forward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    bool training = inputs->at(0).data<float>()[0] < 0.5f;
    return tried([&] {
      block_->forward(read(attributes_, &inputs->at(2), nullptr), inputs->at(1).data<float>(),
                      outputs->at(0).data<float>(), training);
    });
  }

  // inputs: gradient of the output, then the inputs and the output; outputs: gradients of the inputs
  MXReturnValue Backward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    return tried([&] {
      block_->backward(read(attributes_, &inputs->at(3), &outputs->at(2)), inputs->at(0).data<float>(),
                       outputs->at(1).data<float>());
    });
  }

 private:
  std::unique_ptr<TrainingBlock> block_;
  Attributes attributes_;
};

// Inputs: the data, parameters of layers.
class InferenceOperator : public CustomStatefulOp {
 public:
  InferenceOperator(InferenceBlock* block, const Attributes& attributes) : block_(block), attributes_(attributes) {}

  MXReturnValue Forward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    return tried([&] {
      block_->forward(read(attributes_, &inputs->at(1), nullptr), inputs->at(0).data<float>(),
                      outputs->at(0).data<float>());
    });
  }

 private:
  std::unique_ptr<InferenceBlock> block_;
  Attributes attributes_;
};

// How many inputs come before the parameters of layers, of which the last is the data.
constexpr int TRAINING = 2, INFERENCE = 1;

template <int FIRST>
MXReturnValue parse(const Attributes& attributes, int* inputs, int* outputs) {
  *inputs = FIRST + layers_of(attributes) * inputs_of_layer(attributes);
  *outputs = 1;
  return MX_SUCCESS;
}

MXReturnValue infer_type(const Attributes&, std::vector<int>* inputs, std::vector<int>* outputs) {
  std::fill(inputs->begin(), inputs->end(), int(kFloat32));
  outputs->at(0) = kFloat32;
  return MX_SUCCESS;
}

template <int FIRST>
MXReturnValue infer_shape(const Attributes& attributes, std::vector<std::vector<unsigned>>* inputs,
                          std::vector<std::vector<unsigned>>* outputs) {
  outputs->at(0) = inputs->at(FIRST - 1);
  outputs->at(0).at(1) += layers_of(attributes) * inputs->back().at(0);
  return MX_SUCCESS;
}

MXReturnValue mutated(const Attributes& attributes, std::vector<int>* indices) {
  int half = inputs_of_layer(attributes) / 2;
  for (int k = 0; k < 2 * layers_of(attributes); ++k)
    for (int which : {2, 3}) indices->push_back(TRAINING + k * half + which);
  return MX_SUCCESS;
}

MXReturnValue create_training(const Attributes& attributes, const MXContext&,
                              const std::vector<std::vector<unsigned>>& shapes, const std::vector<int>,
                              CustomStatefulOp** made) {
  const auto &data = shapes.at(1), &weight2 = shapes.back();
  auto* block = new TrainingBlock(data.at(0), data.at(2), data.at(3), data.at(1), weight2.at(1), weight2.at(0),
                                  layers_of(attributes), std::stof(attributes.at("eps")),
                                  std::stof(attributes.at("momentum")));
  *made = CustomStatefulOp::create<TrainingOperator>(block, attributes);
  return MX_SUCCESS;
}

MXReturnValue create_inference(const Attributes& attributes, const MXContext&,
                               const std::vector<std::vector<unsigned>>& shapes, const std::vector<int>,
                               CustomStatefulOp** made) {
  const auto &data = shapes.at(0), &weight2 = shapes.back();
  auto* block = new InferenceBlock(data.at(0), data.at(2), data.at(3), data.at(1), weight2.at(1), weight2.at(0),
                                   layers_of(attributes), std::stof(attributes.at("eps")));
  *made = CustomStatefulOp::create<InferenceOperator>(block, attributes);
  return MX_SUCCESS;
}

REGISTER_OP(denseface_dense_block)
    .setParseAttrs(parse<TRAINING>)
    .setInferType(infer_type)
    .setInferShape(infer_shape<TRAINING>)
    .setMutateInputs(mutated)
    .setCreateOpState(create_training, "cpu");

REGISTER_OP(denseface_dense_block_inference)
    .setParseAttrs(parse<INFERENCE>)
    .setInferType(infer_type)
    .setInferShape(infer_shape<INFERENCE>)
    .setCreateOpState(create_inference, "cpu");

}  // namespace

MXReturnValue initialize(int version) { return version >= 10901 ? MX_SUCCESS : MX_FAIL; }

// Dense blocks, normalizations, PReLU, and convolutions in bfloat16, as operators of MXNet.
//
// This is the only source file. The headers are its parts, so their functions are not inline but in anonymous
// namespaces: nothing of them meets other libraries of the process. A header includes those that it needs.

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include "arena.h"
#include "bfloat16.h"
#include "bfloat16_convolutions.h"
#include "bfloat16_layer.h"
#include "float_products.h"
#include "inference_block.h"
#include "layer.h"
#include "mxnet/lib_api.h"
#include "norm_layer.h"
#include "prelu.h"
#include "training_block.h"

namespace {

using namespace mxnet::ext;
using Attributes = std::unordered_map<std::string, std::string>;
using Shapes = std::vector<std::vector<unsigned>>;

int layers_of(const Attributes& attributes) { return std::stoi(attributes.at("layers")); }
bool has_slopes(const Attributes& attributes) { return attributes.at("slopes") == "1"; }
int inputs_per_unit(const Attributes& attributes) { return has_slopes(attributes) ? 6 : 5; }
int units_of(const Attributes& attributes) { return 2 * layers_of(attributes) + (attributes.at("transition") == "1"); }

void tell(const char* reason) {
  try {
    MX_ERROR_MSG << reason;
  } catch (...) {  // no memory for a reason: MXNet names the operator
  }
}

// Call an entry of an operator. MXNet is told what went wrong: an exception would end the process.
template <class Entry>
MXReturnValue guarded(Entry entry) {
  try {
    entry();
    return MX_SUCCESS;
  } catch (const std::bad_alloc&) {
    tell("not enough memory");
  } catch (const std::exception& error) {
    tell(error.what());
  }
  return MX_FAIL;
}

// The same for an entry that computes: one at a time, as all use all cores and the same memory.
template <class Entry>
MXReturnValue guarded_alone(Entry entry) {
  return guarded([&] {
    std::lock_guard<std::mutex> lock(shared.mutex);
    entry();
  });
}

// Takes parameters, and where their gradients go if there are any, one after the other.
struct ParameterReader {
  MXTensor *parameters, *gradients;

  float* take(float** gradient) {
    *gradient = gradients ? (gradients++)->data<float>() : nullptr;
    return (parameters++)->data<float>();
  }

  Norm take_norm(bool has_slopes) {
    float* unused;
    Norm norm{};
    norm.gamma = take(&norm.gamma_grad);
    norm.beta = take(&norm.beta_grad);
    norm.moving_mean = take(&unused);
    norm.moving_variance = take(&unused);
    if (has_slopes) {
      norm.slopes = int(parameters->size());
      norm.slope = take(&norm.slope_grad);
    }
    return norm;
  }
};

// Parameters from their arrays. In each layer these are, for the 1x1 convolution and again for the 3x3 convolution,
//   gamma, beta, moving mean, moving variance, [slope,] weight,
// and the same once more for a transition. gradients has an array for each, or is null.
Parameters read_parameters(const Attributes& attributes, MXTensor* parameters, MXTensor* gradients) {
  ParameterReader reader{parameters, gradients};
  bool slopes = has_slopes(attributes);
  Parameters read{std::vector<Layer>(layers_of(attributes)), {}};
  for (auto& layer : read.layers) {
    layer.norm1 = reader.take_norm(slopes);
    layer.weight1 = reader.take(&layer.weight1_grad);
    layer.norm2 = reader.take_norm(slopes);
    layer.weight2 = reader.take(&layer.weight2_grad);
  }
  if (attributes.at("transition") == "1") {
    read.transition.norm = reader.take_norm(slopes);
    read.transition.weight = reader.take(&read.transition.weight_grad);
  }
  return read;
}

float number(const Attributes& attributes, const char* name) { return std::stof(attributes.at(name)); }

std::unique_ptr<TrainingBlock> training_block(const Attributes& attributes, const BlockShape& shape) {
  float eps = number(attributes, "eps"), momentum = number(attributes, "momentum");
#ifdef DENSEFACE_HAS_BFLOAT16
  if (attributes.at("bfloat16") == "1") return std::make_unique<TrainingBlockOf<BFloat16Products>>(shape, eps, momentum);
#endif
  return std::make_unique<TrainingBlockOf<FloatProducts>>(shape, eps, momentum);
}

// Inputs: near 1 in inference and 0 in training; the data; parameters of the layers.
class TrainingOperator : public CustomStatefulOp {
 public:
  TrainingOperator(const Attributes& attributes, const BlockShape& shape)
      : block_(training_block(attributes, shape)), attributes_(attributes) {}

  MXReturnValue Forward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    return guarded_alone([&] {
      bool training = inputs->at(0).data<float>()[0] < 0.5f;
      block_->forward(read_parameters(attributes_, &inputs->at(2), nullptr), inputs->at(1).data<float>(),
                      outputs->at(0).data<float>(), training);
    });
  }

  // inputs: gradient of the output, then the inputs and the output; outputs: gradients of the inputs
  MXReturnValue Backward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    return guarded_alone([&] {
      block_->backward(read_parameters(attributes_, &inputs->at(3), &outputs->at(2)), inputs->at(0).data<float>(),
                       outputs->at(1).data<float>());
    });
  }

 private:
  std::unique_ptr<TrainingBlock> block_;
  Attributes attributes_;
};

// Inputs: the data; parameters of the layers.
class InferenceOperator : public CustomStatefulOp {
 public:
  InferenceOperator(const Attributes& attributes, const BlockShape& shape)
      : block_(shape, number(attributes, "eps")), attributes_(attributes) {}

  MXReturnValue Forward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    return guarded_alone([&] {
      block_.forward(read_parameters(attributes_, &inputs->at(1), nullptr), inputs->at(0).data<float>(),
                     outputs->at(0).data<float>());
    });
  }

 private:
  InferenceBlock block_;
  Attributes attributes_;
};

// The number of inputs before the layers' parameters; the last of them is the data.
constexpr int TRAINING = 2, INFERENCE = 1;
constexpr int MOVING[] = {2, 3};  // where moving averages are in the parameters of a normalization

template <int FIRST>
MXReturnValue parse(const Attributes& attributes, int* inputs, int* outputs) {
  return guarded([&] {
    *inputs = FIRST + units_of(attributes) * inputs_per_unit(attributes);
    *outputs = 1;
  });
}

MXReturnValue infer_type(const Attributes&, std::vector<int>* inputs, std::vector<int>* outputs) {
  std::fill(inputs->begin(), inputs->end(), int(kFloat32));
  outputs->at(0) = kFloat32;
  return MX_SUCCESS;
}

template <int FIRST>
BlockShape block_shape(const Attributes& attributes, const Shapes& inputs) {
  int layers = layers_of(attributes), after_layers = FIRST + 2 * layers * inputs_per_unit(attributes);
  const auto &data = inputs.at(FIRST - 1), &weight2 = inputs.at(after_layers - 1);
  BlockShape shape;
  shape.batch = data.at(0), shape.channels = data.at(1), shape.height = data.at(2), shape.width = data.at(3);
  shape.growth = weight2.at(0), shape.bottleneck = weight2.at(1);
  shape.layers = layers;
  shape.transition = attributes.at("transition") == "1" ? inputs.back().at(0) : 0;
  return shape;
}

std::vector<unsigned> shape_of(const std::vector<int>& sizes) { return {sizes.begin(), sizes.end()}; }

template <int FIRST>
MXReturnValue infer_shape(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
  return guarded([&] {
    BlockShape shape = block_shape<FIRST>(attributes, *inputs);
    if (shape.transition)
      outputs->at(0) = shape_of({shape.batch, shape.transition, shape.height / 2, shape.width / 2});
    else
      outputs->at(0) =
          shape_of({shape.batch, shape.channels + shape.layers * shape.growth, shape.height, shape.width});
  });
}

// Moving averages, by the index of the input.
MXReturnValue mutated_inputs(const Attributes& attributes, std::vector<int>* indices) {
  return guarded([&] {
    for (int unit = 0; unit < units_of(attributes); ++unit)
      for (int moving : MOVING) indices->push_back(TRAINING + unit * inputs_per_unit(attributes) + moving);
  });
}

MXReturnValue create_training(const Attributes& attributes, const MXContext&, const Shapes& inputs,
                              const std::vector<int>, CustomStatefulOp** created) {
  return guarded([&] {
    *created = CustomStatefulOp::create<TrainingOperator>(attributes, block_shape<TRAINING>(attributes, inputs));
  });
}

MXReturnValue create_inference(const Attributes& attributes, const MXContext&, const Shapes& inputs,
                               const std::vector<int>, CustomStatefulOp** created) {
  return guarded([&] {
    *created = CustomStatefulOp::create<InferenceOperator>(attributes, block_shape<INFERENCE>(attributes, inputs));
  });
}

REGISTER_OP(denseface_dense_block)
    .setParseAttrs(parse<TRAINING>)
    .setInferType(infer_type)
    .setInferShape(infer_shape<TRAINING>)
    .setMutateInputs(mutated_inputs)
    .setCreateOpState(create_training, "cpu");

REGISTER_OP(denseface_dense_block_inference)
    .setParseAttrs(parse<INFERENCE>)
    .setInferType(infer_type)
    .setInferShape(infer_shape<INFERENCE>)
    .setCreateOpState(create_inference, "cpu");

// Pictures that only these operators pass to each other are of bfloat16. MXNet, which does not know it, takes them for
// float16, of the same size.
bool reads_bfloat16(const Attributes& attributes) { return attributes.count("bfloat16_input"); }
bool writes_bfloat16(const Attributes& attributes) { return attributes.count("bfloat16_output"); }

// DATA: the number of the input that pictures are.
template <int DATA>
MXReturnValue infer_picture_types(const Attributes& attributes, std::vector<int>* inputs, std::vector<int>* outputs) {
  infer_type(attributes, inputs, outputs);
  if (reads_bfloat16(attributes)) inputs->at(DATA) = kFloat16;
  if (writes_bfloat16(attributes)) outputs->at(0) = kFloat16;
  return MX_SUCCESS;
}

// Call compute(in, out) with a value of each type of picture.
template <class Compute>
void with_picture_types(const Attributes& attributes, Compute compute) {
  bool reads = reads_bfloat16(attributes), writes = writes_bfloat16(attributes);
  if (reads && writes) return compute(BFloat16{}, BFloat16{});
  if (reads) return compute(BFloat16{}, float{});
  if (writes) return compute(float{}, BFloat16{});
  compute(float{}, float{});
}

NormLayer::Activation activation_of(const Attributes& attributes) {
  const std::string& name = attributes.at("activation");
  return name == "prelu" ? NormLayer::PRELU : name == "relu" ? NormLayer::RELU : NormLayer::NONE;
}

// Inputs: near 1 in inference and 0 in training; the data (N, C, H, W); gamma, beta, moving mean, moving variance,
// [slope].
class NormOperator : public CustomStatefulOp {
 public:
  NormOperator(const Attributes& attributes, const std::vector<unsigned>& data)
      : layer_(data.at(0), data.at(1), long(data.at(2)) * data.at(3), activation_of(attributes),
               number(attributes, "eps"), number(attributes, "momentum")),
        has_slopes_(activation_of(attributes) == NormLayer::PRELU), attributes_(attributes) {}

  MXReturnValue Forward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    return guarded_alone([&] {
      bool training = inputs->at(0).data<float>()[0] < 0.5f;
      Norm norm = ParameterReader{&inputs->at(2), nullptr}.take_norm(has_slopes_);
      with_picture_types(attributes_, [&](auto in, auto out) {
        layer_.forward(norm, inputs->at(1).data<decltype(in)>(), outputs->at(0).data<decltype(out)>(), training);
      });
    });
  }

  // inputs: gradient of the output, then the inputs and the output; outputs: gradients of the inputs
  MXReturnValue Backward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    return guarded_alone([&] {
      Norm norm = ParameterReader{&inputs->at(3), &outputs->at(2)}.take_norm(has_slopes_);
      with_picture_types(attributes_, [&](auto in, auto out) {
        layer_.backward(norm, inputs->at(2).data<decltype(in)>(), inputs->at(0).data<decltype(out)>(),
                        outputs->at(1).data<decltype(in)>());
      });
    });
  }

 private:
  NormLayer layer_;
  bool has_slopes_;
  Attributes attributes_;
};

MXReturnValue parse_norm(const Attributes& attributes, int* inputs, int* outputs) {
  return guarded([&] {
    *inputs = TRAINING + (activation_of(attributes) == NormLayer::PRELU ? 5 : 4);
    *outputs = 1;
  });
}

MXReturnValue infer_norm(const Attributes&, Shapes* inputs, Shapes* outputs) {
  return guarded([&] { outputs->at(0) = inputs->at(1); });
}

MXReturnValue mutated_norm(const Attributes&, std::vector<int>* indices) {
  return guarded([&] {
    for (int moving : MOVING) indices->push_back(TRAINING + moving);
  });
}

MXReturnValue create_norm(const Attributes& attributes, const MXContext&, const Shapes& inputs, const std::vector<int>,
                          CustomStatefulOp** created) {
  return guarded([&] { *created = CustomStatefulOp::create<NormOperator>(attributes, inputs.at(1)); });
}

REGISTER_OP(denseface_norm)
    .setParseAttrs(parse_norm)
    .setInferType(infer_picture_types<1>)
    .setInferShape(infer_norm)
    .setMutateInputs(mutated_norm)
    .setCreateOpState(create_norm, "cpu");

// Inputs: the data (N, C, H, W); the slopes.
PReLUShape prelu_shape(const MXTensor& data, const MXTensor& slopes) {
  const auto& shape = data.shape;
  return {shape.at(0), shape.at(1), shape.at(2) * shape.at(3), slopes.size()};
}

MXReturnValue compute_prelu(const Attributes&, std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs,
                            const OpResource&) {
  return guarded_alone([&] {
    MXTensor &data = inputs->at(0), &slopes = inputs->at(1);
    prelu_forward(prelu_shape(data, slopes), data.data<float>(), slopes.data<float>(), outputs->at(0).data<float>());
  });
}

// inputs: gradient of the output, then the inputs and the output; outputs: gradients of the inputs
MXReturnValue differentiate_prelu(const Attributes&, std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs,
                                  const OpResource&) {
  return guarded_alone([&] {
    MXTensor &data = inputs->at(1), &slopes = inputs->at(2);
    prelu_backward(prelu_shape(data, slopes), data.data<float>(), slopes.data<float>(), inputs->at(0).data<float>(),
                   outputs->at(0).data<float>(), outputs->at(1).data<float>());
  });
}

MXReturnValue parse_two_inputs(const Attributes&, int* inputs, int* outputs) {
  *inputs = 2;
  *outputs = 1;
  return MX_SUCCESS;
}

MXReturnValue infer_same_shape(const Attributes&, Shapes* inputs, Shapes* outputs) {
  return guarded([&] { outputs->at(0) = inputs->at(0); });
}

REGISTER_OP(denseface_prelu)
    .setParseAttrs(parse_two_inputs)
    .setInferType(infer_type)
    .setInferShape(infer_same_shape)
    .setForward(compute_prelu, "cpu")
    .setBackward(differentiate_prelu, "cpu");

#ifdef DENSEFACE_HAS_BFLOAT16

// Inputs: the data; the weight.
class ConvolutionOperator : public CustomStatefulOp {
 public:
  ConvolutionOperator(const Attributes& attributes, const ConvolutionShape& shape)
      : layer_(shape), attributes_(attributes) {}

  MXReturnValue Forward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    return guarded_alone([&] {
      with_picture_types(attributes_, [&](auto in, auto out) {
        layer_.forward(inputs->at(0).data<decltype(in)>(), inputs->at(1).data<float>(),
                       outputs->at(0).data<decltype(out)>());
      });
    });
  }

  // inputs: gradient of the output, then the inputs and the output; outputs: gradients of the inputs
  MXReturnValue Backward(std::vector<MXTensor>* inputs, std::vector<MXTensor>* outputs, const OpResource&) override {
    return guarded_alone([&] {
      with_picture_types(attributes_, [&](auto in, auto out) {
        layer_.backward(inputs->at(1).data<decltype(in)>(), inputs->at(2).data<float>(),
                        inputs->at(0).data<decltype(out)>(), outputs->at(0).data<decltype(in)>(),
                        outputs->at(1).data<float>());
      });
    });
  }

 private:
  BFloat16Layer layer_;
  Attributes attributes_;
};

ConvolutionShape convolution_shape(const Attributes& attributes, const Shapes& inputs) {
  const auto &data = inputs.at(0), &weight = inputs.at(1);
  ConvolutionShape shape;
  shape.batch = data.at(0), shape.inputs = data.at(1), shape.height = data.at(2), shape.width = data.at(3);
  shape.outputs = weight.at(0), shape.kernel = weight.at(2);
  shape.stride = std::stoi(attributes.at("stride"));
  return shape;
}

MXReturnValue infer_convolution(const Attributes& attributes, Shapes* inputs, Shapes* outputs) {
  return guarded([&] {
    ConvolutionShape shape = convolution_shape(attributes, *inputs);
    outputs->at(0) = shape_of({shape.batch, shape.outputs, shape.out_height(), shape.out_width()});
  });
}

MXReturnValue create_convolution(const Attributes& attributes, const MXContext&, const Shapes& inputs,
                                 const std::vector<int>, CustomStatefulOp** created) {
  return guarded([&] {
    *created = CustomStatefulOp::create<ConvolutionOperator>(attributes, convolution_shape(attributes, inputs));
  });
}

REGISTER_OP(denseface_convolution)
    .setParseAttrs(parse_two_inputs)
    .setInferType(infer_picture_types<0>)
    .setInferShape(infer_convolution)
    .setCreateOpState(create_convolution, "cpu");

#endif

}  // namespace

MXReturnValue initialize(int version) { return version >= 10901 ? MX_SUCCESS : MX_FAIL; }

// How products of bfloat16 are computed; empty if there are none.
extern "C" const char* denseface_bfloat16_instructions() {
#ifdef DENSEFACE_HAS_BFLOAT16
  return has_tiles() ? "AMX" : "AVX-512";
#else
  return "";
#endif
}

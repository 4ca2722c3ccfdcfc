// Fail every allocation of the operators, one after the other, with all after it. The operator has to say that it failed,
// and has to compute the same as before when it is asked again. No allocation may be within a parallel region, which an exception
// cannot leave.

#include "operators.cc"

#include <cstdio>
#include <cstdlib>
#include <functional>

namespace {

long left = -1;       // allocations until the first that fails, as do all after it; none fails if negative
bool failed = false;  // whether one did

[[noreturn]] void die(const std::string& what, const char* why) {
  std::printf("%s: %s\n", what.c_str(), why);
  std::fflush(stdout);
  std::_Exit(1);
}

bool fails() {
  if (left < 0) return false;
  if (omp_in_parallel()) die("an operator", "allocates in a parallel region");
  if (left > 0) return left--, false;
  return failed = true;
}

}  // namespace

void* operator new(size_t size) {
  void* memory = fails() ? nullptr : std::malloc(size);
  if (!memory) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
extern "C" void* aligned_alloc(size_t alignment, size_t size) noexcept {
  void* memory;
  return fails() || posix_memalign(&memory, alignment, size) ? nullptr : memory;
}

namespace {

struct Values {
  std::vector<unsigned> shape;
  std::vector<float> values;

  Values(const std::vector<unsigned>& sizes, float first) : shape(sizes) {
    size_t count = 1;
    for (unsigned size : sizes) count *= size;
    for (size_t k = 0; k < count; ++k) values.push_back(first + float(k % 13) / 16);
  }
  MXTensor tensor() {
    return {values.data(), {shape.begin(), shape.end()}, kFloat32, 0, MXContext(), kDefaultStorage};
  }
};

struct Operator {
  std::string name;
  Attributes attributes;
  std::vector<Values> inputs;
  std::vector<unsigned> output;
  createOpState_t create;
  bool has_gradients;
};

const OpResource NONE(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);

// One operator, whose memory is new, and its arrays.
class Run {
 public:
  explicit Run(const Operator& given) : given_(given), inputs_(given.inputs), output_(given.output, 0) {
    shared.~Shared();
    new (&shared) Shared;
    for (auto& input : inputs_) {
      shapes_.push_back(input.shape);
      gradients_.push_back(input);
    }
  }
  ~Run() { delete operator_; }

  MXReturnValue create() { return given_.create(given_.attributes, context_, shapes_, types_, &operator_); }
  void prepare() {
    forward_ = {tensors(&inputs_), {output_.tensor()}};
    backward_ = {tensors(&inputs_), tensors(&gradients_)};
    backward_.inputs.insert(backward_.inputs.begin(), output_.tensor());
    backward_.inputs.push_back(output_.tensor());
  }
  MXReturnValue forward() { return operator_->Forward(&forward_.inputs, &forward_.outputs, NONE); }
  MXReturnValue backward() { return operator_->Backward(&backward_.inputs, &backward_.outputs, NONE); }

  std::vector<std::vector<float>> results() const {
    std::vector<std::vector<float>> all{output_.values};
    for (const auto& gradient : gradients_) all.push_back(gradient.values);
    return all;
  }

 private:
  struct Tensors {
    std::vector<MXTensor> inputs, outputs;
  };
  static std::vector<MXTensor> tensors(std::vector<Values>* all) {
    std::vector<MXTensor> found;
    for (auto& values : *all) found.push_back(values.tensor());
    return found;
  }

  const Operator& given_;
  std::vector<Values> inputs_, gradients_;
  Values output_;
  Shapes shapes_;
  std::vector<int> types_;
  MXContext context_;
  CustomStatefulOp* operator_ = nullptr;
  Tensors forward_, backward_;
};

// Call an entry once per allocation, which fails with all after it, each time in a new run. Return how many there are.
int fail_each(const Operator& given, const std::string& entry, std::function<MXReturnValue(Run&)> call,
              const std::vector<std::vector<float>>& expected) {
  for (int allocation = 0;; ++allocation) {
    Run run(given);
    if (entry != "create" && !run.create()) die(given.name, "cannot be created");
    run.prepare();
    if (entry == "backward" && !run.forward()) die(given.name, "cannot compute");
    std::string what = given.name + " " + entry;
    left = allocation, failed = false;
    MXReturnValue result = call(run);
    left = -1;
    if (result != (failed ? MX_FAIL : MX_SUCCESS)) die(what, failed ? "does not say that it failed" : "fails");
    if (!failed) return allocation;
    if (!call(run)) die(what, "fails when it is called again");
    if (entry == "backward" && run.results() != expected) die(what, "computes something else when it is called again");
  }
}

void check(const Operator& given) {
  Run run(given);
  if (!run.create()) die(given.name, "cannot be created");
  run.prepare();
  if (!run.forward() || (given.has_gradients && !run.backward())) die(given.name, "cannot compute");
  auto expected = run.results();
  int count = fail_each(given, "create", [](Run& failing) { return failing.create(); }, expected);
  count += fail_each(given, "forward", [](Run& failing) { return failing.forward(); }, expected);
  if (given.has_gradients)
    count += fail_each(given, "backward", [](Run& failing) { return failing.backward(); }, expected);
  std::printf("%s: %d\n", given.name.c_str(), count);
}

std::vector<Values> unit(unsigned inputs, unsigned outputs, unsigned kernel) {
  std::vector<unsigned> channels{inputs};
  return {Values(channels, 0.5f), Values(channels, -0.25f), Values(channels, 0.1f), Values(channels, 0.5f),
          Values(channels, 0.1f), Values({outputs, inputs, kernel, kernel}, -0.375f)};
}

std::vector<Values> block(unsigned channels, bool transition, bool training) {
  std::vector<Values> inputs;
  if (training) inputs.emplace_back(std::vector<unsigned>{1}, 0.0f);
  inputs.emplace_back(std::vector<unsigned>{2, channels, 4, 4}, -0.5f);
  for (unsigned layer = 0; layer < 2; ++layer)
    for (auto part : {unit(channels + 16 * layer, 64, 1), unit(64, 16, 3)})
      inputs.insert(inputs.end(), part.begin(), part.end());
  if (transition)
    for (const auto& values : unit(channels + 32, 32, 1)) inputs.push_back(values);
  return inputs;
}

}  // namespace

int main() {
  for (const char* bfloat16 : {"0", "1"})
    for (bool transition : {false, true}) {
      Attributes attributes{{"layers", "2"}, {"slopes", "1"}, {"eps", "0.001"}, {"momentum", "0.9"}};
      attributes["transition"] = transition ? "1" : "0", attributes["bfloat16"] = bfloat16;
      unsigned channels = transition ? 32 : 40;  // 40: padded
      std::vector<unsigned> output{2, transition ? 32 : channels + 32, transition ? 2u : 4u, transition ? 2u : 4u};
      check({std::string("training block ") + bfloat16, attributes, block(channels, transition, true), output,
             create_training, true});
      if (*bfloat16 == '0')
        check({"inference block", attributes, block(channels, transition, false), output, create_inference, false});
    }
  std::vector<Values> norm{Values({1}, 0.0f), Values({2, 4, 5, 5}, -0.5f)};
  for (const auto& values : unit(4, 1, 1)) norm.push_back(values);
  norm.pop_back();
  check({"norm", {{"activation", "prelu"}, {"eps", "0.001"}, {"momentum", "0.9"}}, norm, {2, 4, 5, 5}, create_norm,
         true});
#ifdef DENSEFACE_HAS_BFLOAT16
  for (const char* stride : {"1", "2"}) {
    unsigned size = *stride == '1' ? 8 : 4;
    check({std::string("convolution ") + stride, {{"stride", stride}},
           {Values({2, 48, 8, 8}, -0.5f), Values({16, 48, 3, 3}, -0.375f)}, {2, 16, size, size}, create_convolution,
           true});
  }
#endif
}

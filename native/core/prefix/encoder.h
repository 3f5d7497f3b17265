// The trainable reparameterisation of a prefix (Li & Liang 2021, in rinna's prefix-tuning-gpt form):
//   Embedding(P, input) -> Linear(input, hidden) -> tanh -> Linear(hidden, L * 2 * H), dropout on the output.
// Always float32. It runs once on [P]: every row of a batch sees the same prefix.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

namespace neox {

struct EncoderOptions {
  int64_t prefix_length = 10;  // P
  int64_t input_dim = 10;
  int64_t hidden_dim = 10;
  int64_t output_dim = 0;  // L * 2 * H
  double dropout = 0.0;
  uint64_t seed = 42;
};

class PrefixEncoder {
 public:
  // Parameters as torch's modules initialise them (embedding N(0, 1), linear layers U(+-1/sqrt(fan in))), drawn from the seed.
  explicit PrefixEncoder(const EncoderOptions& options);

  const EncoderOptions& options() const { return options_; }

  // -> [P, L*2*H]. With `training`, applies dropout and keeps what backward() needs.
  at::Tensor forward(bool training);
  // The gradients of all parameters, flat, given the output's gradient [P, L*2*H]. Needs forward(true) before.
  at::Tensor backward(const at::Tensor& grad) const;

  // All parameters live in one buffer, and so do their gradients and the optimizer's state: what is to be clipped, reduced over
  // processes or sharded is one tensor.
  at::Tensor& flat() { return flat_; }
  // 1 where weight decay applies: everywhere but on biases.
  const at::Tensor& decayed() const { return decayed_; }

  // Views into a buffer laid out as flat(), under rinna's names: prefix_wte.weight [P, input], prefix_mlp.0.weight [hidden, input],
  // prefix_mlp.0.bias [hidden], prefix_mlp.2.weight [L*2*H, hidden], prefix_mlp.2.bias [L*2*H].
  std::vector<std::pair<std::string, at::Tensor>> views(const at::Tensor& buffer) const;

 private:
  at::Tensor view(const at::Tensor& buffer, size_t parameter) const;

  struct Parameter {
    std::string name;
    std::vector<int64_t> shape;
    int64_t offset;
  };
  EncoderOptions options_;
  std::vector<Parameter> parameters_;
  at::Tensor flat_, decayed_;
  at::Generator generator_;
  at::Tensor hidden_;  // [P, hidden] behind tanh
  at::Tensor keep_;    // [P, L*2*H] dropout mask over its keep probability; undefined without dropout
};

}  // namespace neox

// The trainable form of a prefix, always float32. It runs once on [P]: every row of a batch sees the same prefix.
// Either the reparameterisation of Li & Liang 2021, in rinna's prefix-tuning-gpt form,
//   Embedding(P, input) -> Linear(input, hidden) -> tanh -> Linear(hidden, L * 2 * H),
// or, without projection, the prefix itself: Embedding(P, L * 2 * H), as PEFT's prefix_projection=False. Dropout on the
// output of both.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace neox {

struct EncoderOptions {
  int64_t prefix_length = 10;  // P
  bool projection = true;
  int64_t input_dim = 10;  // without projection: not used
  int64_t hidden_dim = 10;
  int64_t output_dim = 0;  // L * 2 * H
  double dropout = 0.0;
  uint64_t seed = 42;
};

class PrefixEncoder {
 public:
  // Parameters as torch's modules initialise them (embedding N(0, 1), linear layers U(+-1/sqrt(fan in))), drawn from
  // the seed.
  explicit PrefixEncoder(const EncoderOptions& options);

  const EncoderOptions& options() const { return options_; }

  // A forward pass and what its backward pass needs.
  struct Pass {
    at::Tensor output;  // [P, L*2*H]
    at::Tensor hidden;  // [P, hidden] behind tanh; undefined without projection
    at::Tensor keep;    // [P, L*2*H] dropout mask over its keep probability; undefined where nothing was dropped
  };
  // With `dropout_step` applies dropout. The mask is a function of the encoder's seed and that number alone, so that
  // whoever knows the number can draw it again.
  Pass forward(std::optional<int64_t> dropout_step) const;
  // The gradients of all parameters, flat, given the output's gradient [P, L*2*H].
  at::Tensor backward(const Pass& pass, const at::Tensor& grad) const;

  // All parameters live in one buffer, and so do their gradients and the optimizer's state: what is to be clipped,
  // reduced over processes or sharded is one tensor.
  at::Tensor& flat() { return flat_; }

  // Parts of flat() as [first, count], of the weights, which are everything but the biases.
  std::vector<std::pair<int64_t, int64_t>> weights() const;

  // Views into a buffer laid out as flat(), under rinna's names: prefix_wte.weight [P, input], prefix_mlp.0.weight
  // [hidden, input], prefix_mlp.0.bias [hidden], prefix_mlp.2.weight [L*2*H, hidden], prefix_mlp.2.bias [L*2*H].
  // Without projection there is only prefix_wte.weight [P, L*2*H].
  std::vector<std::pair<std::string, at::Tensor>> views(const at::Tensor& buffer) const;

 private:
  at::Tensor view(const at::Tensor& buffer, size_t parameter) const;

  struct Parameter {
    std::string name;
    std::vector<int64_t> shape;
    int64_t offset;
    int64_t count;
  };
  EncoderOptions options_;
  std::vector<Parameter> parameters_;
  at::Tensor flat_;
};

}  // namespace neox

// What every backend must give: the numbers of the reference, operation by operation, and nothing of a row that depends
// on the rows beside it.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/backends/registry.h"
#include "core/base/error.h"
#include "tests.h"

namespace {

using neox::Backend;
using neox::KeyValueBlock;
using neox::Past;
using neox::Row;

// float32 against float32: the same numbers added in other orders.
constexpr double kTolerance = 3e-5;
constexpr int64_t kLayers = 2, kHeads = 3, kHeadSize = 16, kBlock = 5;

bool near(const at::Tensor& got, const at::Tensor& expected) {
  return got.sizes() == expected.sizes() && (got - expected).abs().max().item<double>() <= kTolerance;
}

void test_products(const Backend& backend, const std::string& name) {
  const at::Tensor weight = at::randn({40, 24});
  const at::Tensor bias = at::randn({40});
  const auto weights = backend.pack(weight);
  const auto reference = neox::reference_backend().pack(weight);
  for (const int64_t rows : {1, 3, 70}) {
    const at::Tensor x = at::randn({rows, 24});
    const at::Tensor residual = at::randn({rows, 40});
    for (const auto epilogue : {neox::Epilogue::kNothing, neox::Epilogue::kGelu, neox::Epilogue::kGeluTanh}) {
      check(near(weights->multiply(x, bias, epilogue, nullptr), reference->multiply(x, bias, epilogue, nullptr)),
            name + ": a product with a bias and an epilogue");
    }
    const at::Tensor added = weights->multiply(x, std::nullopt, neox::Epilogue::kNothing, &residual);
    check(near(added, at::matmul(x, weight.t()) + residual), name + ": a product with a residual");
    const at::Tensor dy = at::randn({rows, 40});
    const auto backward = weights->transposes() ? nullptr : backend.pack(weight.t());
    const at::Tensor dx = backward ? backward->multiply(dy, std::nullopt, neox::Epilogue::kNothing, nullptr)
                                   : weights->multiply_transposed(dy);
    check(near(dx, at::matmul(dy, weight)), name + ": the gradient of a product's input");
    if (!weights->transposes() || !backend.packs()) continue;
    check(weights->transposed()->multiply(dy, std::nullopt, neox::Epilogue::kNothing, nullptr).equal(dx),
          name + ": a transposed copy changes no bit");
  }
  check(weights->bytes() >= 40 * 24 * 4, name + ": weights say what they take");
}

// Two rows behind one block, one of them with a past of two tokens.
struct Batch {
  at::Tensor qkv = at::randn({7, kHeads, 3, kHeadSize});
  neox::KeyValueShape shape = {kLayers, kHeads, kHeadSize, 64, at::kFloat};
  std::shared_ptr<const KeyValueBlock> block =
      neox::make_block(shape, at::randn({kBlock, kLayers, 2, kHeads, kHeadSize}));
  std::vector<neox::RotaryAngles> angles = {{at::randn({16, 4}), at::randn({16, 4}), kBlock + 2},
                                            {at::randn({16, 4}), at::randn({16, 4}), kBlock}};
  at::Tensor cached = at::randn({kLayers, 2, kHeads, 2, kHeadSize});
};

struct Attended {
  at::Tensor qkv, storage, out;
};

Attended attend(const Backend& backend, const Batch& batch, bool with_past) {
  Past first = {batch.block, nullptr, 0};
  Past second = first;
  first.reserve(batch.shape, 6);
  first.storage->keys_values.zero_();
  first.storage->keys_values.narrow(3, 0, 2).copy_(batch.cached);
  first.length = 2;
  second.reserve(batch.shape, 4);
  const std::vector<Row> rows = {{0, 4, batch.block.get(), with_past ? &first : nullptr},
                                 {4, 3, batch.block.get(), with_past ? &second : nullptr}};
  Attended result = {batch.qkv.clone(), {}, {}};
  backend.rotate(result.qkv, rows, batch.angles, false);
  backend.store(result.qkv, rows, 1);
  result.out = backend.attention(result.qkv, rows, 1);
  result.storage = first.storage->keys_values.narrow(3, 0, 6);
  return result;
}

void test_attention(const Backend& backend, const std::string& name) {
  const Batch batch;
  for (const bool with_past : {true, false}) {
    const Attended got = attend(backend, batch, with_past);
    const Attended expected = attend(neox::reference_backend(), batch, with_past);
    check(near(got.qkv, expected.qkv), name + ": rotation");
    check(near(got.storage, expected.storage), name + ": keys and values in the storage");
    check(near(got.out, expected.out), name + ": attention");
  }
  const std::vector<Row> rows = {{0, 4, batch.block.get(), nullptr}, {4, 3, batch.block.get(), nullptr}};
  const at::Tensor grad = at::randn({7, kHeads * kHeadSize});
  const auto got = backend.attention_backward(grad, batch.qkv, rows, 1, false);
  const auto expected = neox::reference_backend().attention_backward(grad, batch.qkv, rows, 1, false);
  check(near(got.qkv, expected.qkv) && near(got.block, expected.block), name + ": gradients of attention");
  const auto alone = backend.attention_backward(grad, batch.qkv, rows, 1, true);
  check(!alone.qkv.defined() && near(alone.block, expected.block), name + ": the gradient of the block alone");
  at::Tensor turned = batch.qkv.clone();
  at::Tensor wanted = batch.qkv.clone();
  backend.rotate(turned, rows, batch.angles, true);
  neox::reference_backend().rotate(wanted, rows, batch.angles, true);
  check(near(turned, wanted), name + ": rotation back");
}

void test_elements(const Backend& backend, const std::string& name) {
  const at::Tensor x = at::randn({5, 33});
  const at::Tensor dy = at::randn({5, 33});
  const auto& reference = neox::reference_backend();
  for (const auto activation : {neox::Activation::kGelu, neox::Activation::kGeluTanh, neox::Activation::kQuickGelu,
                                neox::Activation::kRelu, neox::Activation::kSilu}) {
    check(near(backend.activate(x, activation), reference.activate(x, activation)), name + ": activation");
    check(near(backend.activate_backward(dy, x, activation), reference.activate_backward(dy, x, activation)),
          name + ": gradient of the activation");
  }
  const std::vector<int64_t> targets = {0, 32, 7, 7, 19};
  for (const double scale : {0.0, 0.25}) {
    at::Tensor logits = x.clone();
    at::Tensor expected = x.clone();
    const auto loss = backend.cross_entropy(logits, targets, scale);
    const auto wanted = reference.cross_entropy(expected, targets, scale);
    check(std::abs(loss.loss - wanted.loss) < 1e-4 && loss.correct == wanted.correct, name + ": cross entropy");
    check(near(logits, expected), name + ": gradient of the cross entropy");
  }
}

std::string refusal(const std::string& wanted, neox::Precision precision, at::Device device, bool packed) {
  try {
    neox::choose_backend(wanted, precision, device, packed);
  } catch (const neox::CoreError& error) {
    return error.code() + ": " + error.what();
  }
  return "";
}

void test_choice() {
  const auto& best = *neox::backends().front();
  check(neox::choose_backend("auto", {at::kFloat, false}, at::kCPU, true).backend == &best, "the default comes first");
  check(neox::choose_backend("auto", {at::kFloat, false}, at::kCUDA, true).backend == &neox::reference_backend(),
        "the reference runs on every device");
  check(neox::choose_backend("aten", {at::kHalf, false}, at::kCPU, true).backend == &neox::reference_backend(),
        "a backend is chosen by its name");
  const auto int8 = neox::choose_backend("auto", {at::kFloat, true}, at::kCPU, true);
  check(int8.precision.int8 && int8.backend->int8_activations(at::kCPU) == int8.precision.activations,
        "int8 runs where there are int8 weights");
  const std::string no_int8 = "NEOX_UNSUPPORTED: int8 weights run on the CPU, packed, with the native backend only";
  check(refusal("aten", {at::kFloat, true}, at::kCPU, true) == no_int8, "int8 has one backend");
  check(refusal("auto", {at::kFloat, true}, at::kCPU, false) == no_int8, "int8 is packed");
  check(refusal("auto", {at::kFloat, true}, at::kCUDA, true) == no_int8, "int8 is for the CPU");
  check(
      refusal("native", {at::kHalf, false}, at::kCPU, true) ==
          "NEOX_UNSUPPORTED: The native backend does not run float16 on cpu here; use backend 'aten' or another dtype",
      "a backend that does not run a dtype is refused");
}

}  // namespace

void test_backends() {
  test_choice();
  for (const Backend* const backend : neox::backends()) {
    if (!backend->supports(at::kFloat, at::kCPU)) continue;
    const std::string name = backend->name();
    test_products(*backend, name);
    test_attention(*backend, name);
    test_elements(*backend, name);
  }
}

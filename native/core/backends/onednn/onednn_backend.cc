#include "core/backends/onednn/onednn_backend.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <string_view>

namespace neox {
namespace {

// libtorch has no C++ header for these operators; the dispatcher knows them by name, if it has them.
using Reorder = at::Tensor(const at::Tensor&, std::optional<int64_t>);
using Pointwise = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                             c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
using PointwiseBinary = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                   const std::optional<at::Tensor>&, std::string_view);

// The layout that oneDNN prefers depends a little on the number of rows; this is a training batch's order of magnitude.
constexpr int64_t kTypicalRows = 128;

struct OneDnnOps {
  c10::TypedOperatorHandle<Reorder> reorder;
  c10::TypedOperatorHandle<Pointwise> pointwise;
  c10::TypedOperatorHandle<PointwiseBinary> binary;

  static const std::optional<OneDnnOps>& get() {
    static const std::optional<OneDnnOps> ops = find();
    return ops;
  }

 private:
  static std::optional<OneDnnOps> find() {
    auto& dispatcher = c10::Dispatcher::singleton();
    const auto reorder = dispatcher.findSchema({"mkldnn::_reorder_linear_weight", ""});
    const auto pointwise = dispatcher.findSchema({"mkldnn::_linear_pointwise", ""});
    const auto binary = dispatcher.findSchema({"mkldnn::_linear_pointwise", "binary"});
    if (!reorder || !pointwise || !binary) return std::nullopt;
    try {
      return OneDnnOps{reorder->typed<Reorder>(), pointwise->typed<Pointwise>(), binary->typed<PointwiseBinary>()};
    } catch (const c10::Error&) {
      return std::nullopt;  // another libtorch, where they take other arguments
    }
  }
};

class OneDnnWeights final : public FrozenWeights {
 public:
  explicit OneDnnWeights(const at::Tensor& weight)
      : packed_(OneDnnOps::get()->reorder.call(weight.contiguous(), kTypicalRows)) {}

  at::Tensor multiply(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                      const at::Tensor* residual) const override {
    const int64_t rows = x.size(0);
    const int64_t padded = padded_rows(rows);
    if (padded == rows) return run(x, bias, epilogue, residual);
    const auto pad = [&](const at::Tensor& t) {
      at::Tensor longer = at::empty({padded, t.size(1)}, t.options());
      longer.narrow(0, 0, rows).copy_(t);
      longer.narrow(0, rows, padded - rows).zero_();
      return longer;
    };
    const at::Tensor longer = residual == nullptr ? at::Tensor() : pad(*residual);
    return run(pad(x), bias, epilogue, residual == nullptr ? nullptr : &longer).narrow(0, 0, rows);
  }

  int64_t bytes() const override { return static_cast<int64_t>(packed_.nbytes()); }

 private:
  // oneDNN compiles code for every number of rows that it meets, and keeps it: training on texts of all lengths held
  // 900 MB of code for a model of 10 MB. So many rows are rounded up; what stands in the rows added changes nothing in
  // the others.
  static int64_t padded_rows(int64_t rows) {
    constexpr int64_t kStep = 32;
    return rows <= 2 * kStep ? rows : (rows + kStep - 1) / kStep * kStep;
  }

  at::Tensor run(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                 const at::Tensor* residual) const {
    const OneDnnOps& ops = *OneDnnOps::get();
    if (residual != nullptr) return ops.binary.call(x, *residual, packed_, bias, "add");
    const bool gelu = epilogue != Epilogue::kNothing;
    return ops.pointwise.call(x, packed_, bias, gelu ? "gelu" : "none", c10::List<std::optional<at::Scalar>>(),
                              epilogue == Epilogue::kGeluTanh ? "tanh" : "none");
  }

  at::Tensor packed_;
};

bool runs(at::ScalarType dtype) {
  if (!OneDnnOps::get()) return false;
  try {
    const OneDnnWeights weights(at::ones({16, 16}, dtype));
    const at::Tensor y = weights.multiply(at::ones({2, 16}, dtype), std::nullopt, Epilogue::kNothing, nullptr);
    return y.to(at::kFloat).eq(16.0).all().item<bool>();
  } catch (const c10::Error&) {
    return false;  // this processor lacks what oneDNN wants for the dtype
  }
}

}  // namespace

bool OneDnnBackend::supports(at::ScalarType dtype, at::Device device) const {
  if (!device.is_cpu()) return false;
  static const bool float32 = runs(at::kFloat);
  static const bool bfloat16 = runs(at::kBFloat16);
  static const bool float16 = runs(at::kHalf);
  return dtype == at::kFloat ? float32 : dtype == at::kBFloat16 ? bfloat16 : dtype == at::kHalf && float16;
}

std::shared_ptr<const FrozenWeights> OneDnnBackend::pack(const at::Tensor& weight) const {
  return std::make_shared<OneDnnWeights>(weight);
}

std::optional<at::ScalarType> OneDnnBackend::int8_activations(at::Device /*device*/) const { return std::nullopt; }

int64_t OneDnnBackend::operand_bytes(at::ScalarType /*activations*/, bool /*int8*/) const { return 0; }

}  // namespace neox

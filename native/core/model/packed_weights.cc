#include "core/model/packed_weights.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <string_view>

#include "core/base/error.h"
#include "core/kernels/kernels.h"
#include "core/model/native_weights.h"

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

class OneDnnWeights final : public PackedWeights {
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

bool onednn_runs(at::ScalarType dtype) {
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

at::Tensor PackedWeights::multiply_transposed(const at::Tensor& /*dy*/) const {
  throw CoreError("NEOX_UNSUPPORTED", "These packed weights do not multiply transposed");
}

std::shared_ptr<const PackedWeights> PackedWeights::transposed() const {
  throw CoreError("NEOX_UNSUPPORTED", "These packed weights do not multiply transposed");
}

std::shared_ptr<const PackedWeights> pack_weights(Backend backend, const at::Tensor& weight) {
  switch (backend) {
    case Backend::kOneDnn: return std::make_shared<OneDnnWeights>(weight);
    case Backend::kNative: return NativeWeights::pack(weight);
    case Backend::kAten: break;
  }
  throw CoreError("NEOX_UNSUPPORTED", "The aten backend has no packed weights");
}

const char* backend_name(Backend backend) {
  switch (backend) {
    case Backend::kAten: return "aten";
    case Backend::kOneDnn: return "onednn";
    case Backend::kNative: return "native";
  }
  return "unknown";
}

bool backend_supports(Backend backend, at::ScalarType dtype) {
  switch (backend) {
    case Backend::kAten: return true;
    case Backend::kNative: return dtype == at::kFloat || dtype == at::kBFloat16;
    case Backend::kOneDnn: break;
  }
  static const bool float32 = onednn_runs(at::kFloat);
  static const bool bfloat16 = onednn_runs(at::kBFloat16);
  static const bool float16 = onednn_runs(at::kHalf);
  return dtype == at::kFloat ? float32 : dtype == at::kBFloat16 ? bfloat16 : dtype == at::kHalf && float16;
}

Backend best_backend(at::ScalarType dtype) {
  // With vector instructions of their own our kernels win, also where they widen bfloat16. On two cores of a Zen 3
  // (AVX2), float32: 1.25 times oneDNN's prefill, 1.2 to 1.35 times its decoding, 1.07 times its training. oneDNN runs
  // no bfloat16 there, and libtorch's own products take more than ten times as long as ours.
  if (backend_supports(Backend::kNative, dtype) && std::string_view(kernels::kernels().name) != "portable")
    return Backend::kNative;
  if (backend_supports(Backend::kOneDnn, dtype)) return Backend::kOneDnn;
  return backend_supports(Backend::kNative, dtype) ? Backend::kNative : Backend::kAten;
}

}  // namespace neox

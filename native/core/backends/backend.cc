#include "core/backends/backend.h"

#include <string>

#include "core/base/error.h"

namespace neox {
namespace {

[[noreturn]] void unsupported(const std::string& what) { throw CoreError("NEOX_UNSUPPORTED", what); }

}  // namespace

at::Tensor FrozenWeights::multiply_transposed(const at::Tensor& /*dy*/) const {
  unsupported("These weights do not multiply transposed");
}

std::shared_ptr<const FrozenWeights> FrozenWeights::transposed() const {
  unsupported("These weights do not multiply transposed");
}

std::optional<at::ScalarType> Backend::int8_activations(at::Device /*device*/) const { return std::nullopt; }

std::shared_ptr<const FrozenWeights> Backend::quantize(const at::Tensor& /*weight*/,
                                                       at::ScalarType /*activations*/) const {
  unsupported(std::string("The ") + name() + " backend has no int8 weights");
}

int64_t Backend::operand_bytes(at::ScalarType /*activations*/, bool /*int8*/) const { return 0; }

}  // namespace neox

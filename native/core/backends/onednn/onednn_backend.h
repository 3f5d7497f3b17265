// oneDNN's products on the CPU, with weights that are reordered once into the layout that they want; all else with the
// kernels of our own.
#pragma once

#include "core/backends/cpu/cpu_backend.h"

namespace neox {

class OneDnnBackend final : public CpuBackend {
 public:
  const char* name() const override { return "onednn"; }
  // Tries a small product, once for each dtype: a libtorch or a processor without oneDNN's operators does without.
  bool supports(at::ScalarType dtype, at::Device device) const override;
  int preference() const override { return 20; }

  std::shared_ptr<const FrozenWeights> pack(const at::Tensor& weight) const override;
  std::optional<at::ScalarType> int8_activations(at::Device device) const override;
  int64_t operand_bytes(at::ScalarType activations, bool int8) const override;
};

}  // namespace neox

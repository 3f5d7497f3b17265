#include "core/backends/registry.h"

#include <algorithm>
#include <string_view>

#include "core/backends/aten/aten_backend.h"
#include "core/backends/cpu/cpu_backend.h"
#include "core/backends/onednn/onednn_backend.h"
#include "core/base/error.h"

namespace neox {
namespace {

// As users write it.
std::string name_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return "float32";
    case at::kBFloat16: return "bfloat16";
    case at::kHalf: return "float16";
    default: return c10::toString(dtype);
  }
}

}  // namespace

const Backend& reference_backend() {
  static const AtenBackend backend;
  return backend;
}

const std::vector<const Backend*>& backends() {
  static const std::vector<const Backend*> all = [] {
    static const CpuBackend cpu;
    static const OneDnnBackend onednn;
    std::vector<const Backend*> made = {&cpu, &onednn, &reference_backend()};
    std::stable_sort(made.begin(), made.end(),
                     [](const Backend* a, const Backend* b) { return a->preference() > b->preference(); });
    return made;
  }();
  return all;
}

Choice choose_backend(const std::string& wanted, Precision precision, at::Device device, bool packed) {
  const auto named = [&](const Backend* backend) { return wanted == "auto" || wanted == backend->name(); };
  for (const Backend* const backend : backends()) {
    if (!named(backend)) continue;
    if (precision.int8) {
      const auto activations = packed ? backend->int8_activations(device) : std::nullopt;
      if (activations) return {backend, {*activations, true}};
    } else if (backend->supports(precision.activations, device)) {
      return {backend, precision};
    }
  }
  if (precision.int8)
    throw CoreError("NEOX_UNSUPPORTED", "int8 weights run on the CPU, packed, with the native backend only");
  throw CoreError("NEOX_UNSUPPORTED", "The " + wanted + " backend does not run " + name_of(precision.activations) +
                                          " on " + device.str() + " here; use backend 'aten' or another dtype");
}

}  // namespace neox

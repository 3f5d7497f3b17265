#include "core/kernels/kernels.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "core/base/error.h"

namespace neox::kernels {

namespace portable {
extern const KernelTable table;
}
#if defined(__x86_64__)
namespace avx2 {
extern const KernelTable table;
}
namespace avx512 {
extern const KernelTable table;
}
namespace avx512_bf16 {
extern const KernelTable table;
}
#endif

const KernelTable* find_kernels(const char* name) {
#if defined(__x86_64__)
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("fma");
  if (std::strcmp(name, "avx512_bf16") == 0) {
    return avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") ? &avx512_bf16::table
                                                                                                  : nullptr;
  }
  if (std::strcmp(name, "avx512") == 0) return avx512 ? &avx512::table : nullptr;
  if (std::strcmp(name, "avx2") == 0) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2::table : nullptr;
  }
#endif
  return std::strcmp(name, "portable") == 0 ? &portable::table : nullptr;
}

static const KernelTable& choose() {
  if (const char* wanted = std::getenv("NEOX_PREFIX_KERNELS"); wanted != nullptr && *wanted != '\0') {
    const KernelTable* table = find_kernels(wanted);
    if (table == nullptr) {
      throw CoreError("NEOX_BAD_ARGUMENT",
                      std::string("NEOX_PREFIX_KERNELS is '") + wanted + "', which this processor does not run");
    }
    return *table;
  }
  for (const char* name : {"avx512_bf16", "avx512", "avx2"}) {
    if (const KernelTable* table = find_kernels(name)) return *table;
  }
  return portable::table;
}

const KernelTable& kernels() {
  static const KernelTable& chosen = choose();
  return chosen;
}

}  // namespace neox::kernels

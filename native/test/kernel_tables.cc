#include "core/kernels/kernels.h"
#include "tests.h"

#if defined(__x86_64__)
namespace neox::kernels::emulated_avx512 {
extern const KernelTable table;
}
#endif

std::vector<const neox::kernels::KernelTable*> kernel_tables() {
  std::vector<const neox::kernels::KernelTable*> tables;
  for (const char* name : {"portable", "avx2", "avx512", "avx512_bf16"}) {
    if (const auto* table = neox::kernels::find_kernels(name)) tables.push_back(table);
  }
#if defined(__x86_64__)
  if (neox::kernels::find_kernels("avx2") != nullptr) tables.push_back(&neox::kernels::emulated_avx512::table);
#endif
  return tables;
}

// Panels of W^T out of the packed form of W are those that packing W^T gives, byte by byte.
#include <array>
#include <random>
#include <string>
#include <vector>

#include "core/kernels/kernels.h"
#include "tests.h"

namespace {

namespace kernels = neox::kernels;
using kernels::WeightElement;

void test_sizes(const kernels::KernelTable& table, WeightElement element, int64_t out, int64_t in) {
  const int64_t bytes = element == WeightElement::kFloat32 ? 4 : element == WeightElement::kBFloat16 ? 2 : 1;
  std::mt19937 generator(static_cast<uint32_t>(out * 1000 + in));
  std::vector<char> weights(static_cast<size_t>(out * in * bytes));
  for (char& byte : weights) byte = static_cast<char>(generator());
  const auto packed = [&](int64_t n, int64_t k, int64_t n_stride, int64_t k_stride) {
    std::vector<char> to(static_cast<size_t>(kernels::linear_packed_size(element, n, k) * bytes));
    table.pack_linear({element, n, k, weights.data(), n_stride, k_stride, to.data()}, 0,
                      kernels::linear_panels(n, table.linear_panel));
    return to;
  };
  const std::vector<char> forward = packed(out, in, in, 1);
  const std::vector<char> expected = packed(in, out, 1, in);
  const int64_t panels = kernels::linear_panels(in, table.linear_panel);
  const int64_t panel_bytes = kernels::linear_packed_size(element, table.linear_panel, out) * bytes;
  const std::string name = std::string(table.name) + ": transposed weights " + std::to_string(out) + "x" +
                           std::to_string(in) + " of " + std::to_string(bytes) + " bytes";
  std::vector<char> found(expected.size(), 0x55);
  // One panel at a time, as the product does it, and all at once.
  for (int64_t p = 0; p < panels; ++p)
    table.transpose_panels({element, out, in, forward.data(), found.data() + p * panel_bytes}, p, p + 1);
  check(found == expected, name);
  found.assign(expected.size(), 0x55);
  table.transpose_panels({element, out, in, forward.data(), found.data()}, 0, panels);
  check(found == expected, name + ", all at once");
}

}  // namespace

void test_transposed() {
  for (const auto [out, in] :
       {std::array<int64_t, 2>{1, 1}, {1, 2}, {2, 1}, {17, 9}, {64, 64}, {65, 33}, {63, 130}, {200, 191}, {96, 224}}) {
    for (const auto element : {WeightElement::kFloat32, WeightElement::kBFloat16, WeightElement::kInt8}) {
      for (const auto* table : kernel_tables()) test_sizes(*table, element, out, in);
    }
  }
}

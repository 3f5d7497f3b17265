// The small matrix product of attention. Tiles of C stay in registers over the whole of K; B streams through the
// first-level cache. At attention's sizes (64 to a few hundred rows) this reaches about the rate of a tuned library
// without its call and packing costs.
#include "core/kernels/functions.h"
#include "core/kernels/vector.h"

namespace neox::kernels::NEOX_KERNEL_NAMESPACE {
namespace {

// One tile: ROWS rows by VECTORS vectors of columns.
template <int ROWS, int VECTORS>
inline void tile(int64_t k, const float* a, int64_t a_row, int64_t a_column, const float* b, int64_t b_row, float* c,
                 int64_t c_row, bool accumulate) {
  FloatV sum[ROWS][VECTORS];
  for (int i = 0; i < ROWS; ++i) {
    for (int j = 0; j < VECTORS; ++j) sum[i][j] = accumulate ? load(c + i * c_row + j * kWidth) : FloatV{};
  }
  for (int64_t p = 0; p < k; ++p) {
    FloatV right[VECTORS];
    for (int j = 0; j < VECTORS; ++j) right[j] = load(b + p * b_row + j * kWidth);
    for (int i = 0; i < ROWS; ++i) {
      const FloatV left = splat(a[i * a_row + p * a_column]);
      for (int j = 0; j < VECTORS; ++j) sum[i][j] = add_product(sum[i][j], left, right[j]);
    }
  }
  for (int i = 0; i < ROWS; ++i) {
    for (int j = 0; j < VECTORS; ++j) store(c + i * c_row + j * kWidth, sum[i][j]);
  }
}

// Rows [i, i + ROWS), over the inner steps that they have.
template <int ROWS, int VECTORS>
inline void rows_of(const MatmulTask& t, int64_t i, int64_t column) {
  int64_t begin = 0;
  int64_t end = t.k;
  if (t.triangle == Triangle::kInner && t.diagonal + i + ROWS - 1 < end) end = t.diagonal + i + ROWS - 1;
  if (t.triangle == Triangle::kInnerOfOther && i >= t.diagonal) begin = i - t.diagonal + 1;
  tile<ROWS, VECTORS>(end - begin, t.a + i * t.a_row + begin * t.a_column, t.a_row, t.a_column,
                      t.b + begin * t.b_row + column, t.b_row, t.c + i * t.c_row + column, t.c_row, t.accumulate);
}

template <int VECTORS>
void columns(const MatmulTask& t, int64_t column) {
  int64_t i = 0;
  if (t.triangle == Triangle::kColumns && column >= t.diagonal) i = (column - t.diagonal + 1) / kTileRows * kTileRows;
  for (; i + kTileRows <= t.m; i += kTileRows) rows_of<kTileRows, VECTORS>(t, i, column);
  for (; i < t.m; ++i) rows_of<1, VECTORS>(t, i, column);
}

}  // namespace

void matmul(const MatmulTask& task) {
  int64_t column = 0;
  for (; column + kTileVectors * kWidth <= task.n; column += kTileVectors * kWidth) columns<kTileVectors>(task, column);
  for (; column < task.n; column += kWidth) columns<1>(task, column);
}

}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE

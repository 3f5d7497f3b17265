// Taking rows through the model together.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/error.h"
#include "core/model/model.h"

namespace neox {

// Tokens to take through the model behind a row's cache, which grows by them. At least one.
struct RowInput {
  Past* cache = nullptr;
  const std::vector<int64_t>* tokens = nullptr;
};

// Where the rows from `begin` on that go through the model together end: at about 2048 tokens, since more would only
// cost memory, but always one row at least.
size_t batch_end(const std::vector<RowInput>& rows, size_t begin);

// Hidden states of the rows' tokens, one row behind the other: [M, H], or [rows, H] of the last ones.
at::Tensor hidden_states(const Model& model, const std::vector<RowInput>& rows, Wanted wanted, const CancelFlag& cancel,
                         HiddenLayer* layer = nullptr);

// Does something for one row of a request; its error says which row it is.
template <typename Body>
auto for_row(size_t row, const Body& body) {
  try {
    return body();
  } catch (const CoreError& error) {
    throw CoreError(error.code(), std::string(error.what()) + " for row " + std::to_string(row));
  }
}

}  // namespace neox

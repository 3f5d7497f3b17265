#include "core/generation/beam_search.h"

#include <utility>

#include "core/generation/batch.h"

namespace neox {

std::vector<std::vector<BeamResult>> beam_search(const Model& model, const std::vector<BeamRequest>& requests,
                                                 const CancelFlag& cancel) {
  const int64_t vocab = model.config().vocab_size;
  std::vector<BeamSearch> searches;
  searches.reserve(requests.size());
  for (const BeamRequest& request : requests) searches.emplace_back(model.kv_shape(), request.row, request.beams);
  for (;;) {
    cancel.check();
    std::vector<RowInput> inputs;
    std::vector<std::pair<BeamSearch*, size_t>> owners;  // of the inputs: a search's first, and how many it has
    for (BeamSearch& search : searches) {
      if (search.done()) continue;
      owners.emplace_back(&search, search.running().size());
      for (Beam& beam : search.running()) inputs.push_back({&beam.cache, &beam.input});
    }
    if (inputs.empty()) break;
    // Beams of one search stay together: their logits are compared.
    size_t begin = 0;
    for (size_t owner = 0; owner < owners.size();) {
      const size_t limit = batch_end(inputs, begin);
      size_t end = begin;
      size_t last = owner;
      while (last < owners.size() && (last == owner || end + owners[last].second <= limit))
        end += owners[last++].second;
      const std::vector<RowInput> part(inputs.begin() + static_cast<std::ptrdiff_t>(begin),
                                       inputs.begin() + static_cast<std::ptrdiff_t>(end));
      const at::Tensor logits = last_logits(model, part, cancel);  // [rows, V]
      auto* data = logits.data_ptr<float>();
      for (; owner < last; ++owner) {
        BeamSearch* const search = owners[owner].first;
        for_row(static_cast<size_t>(search - searches.data()), [&] { search->step(data, vocab); });
        data += static_cast<int64_t>(owners[owner].second) * vocab;
      }
      begin = end;
    }
  }
  std::vector<std::vector<BeamResult>> results;
  for (BeamSearch& search : searches) results.push_back(search.results());
  return results;
}

}  // namespace neox

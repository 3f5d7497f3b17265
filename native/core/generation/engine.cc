#include "core/generation/engine.h"

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/generation/batch.h"

namespace neox {
namespace {

// With dynamic rotary scaling, keys beyond the trained length depend on how long the row is when they are made: such a prompt is neither
// cut nor taken from the cache.
bool goes_whole(const NeoXConfig& config, const GenerationRequest& request) {
  return request.past.positions() + static_cast<int64_t>(request.prompt.size()) > config.trained_positions;
}

}  // namespace

EngineReport Engine::run(const GPTNeoX& model, EngineCommands commands, const CancelFlag& cancel) {
  const auto begin = std::chrono::steady_clock::now();
  EngineReport report;
  apply(model, commands, report);
  const auto over = [&] {
    return interrupted_.load(std::memory_order_relaxed) || std::chrono::steady_clock::now() - begin >= commands.slice;
  };
  bool going = report.ended.empty();
  do {
    const std::vector<Part> parts = plan(model, report);
    if (parts.empty()) break;
    going = step(model, parts, cancel, report) && going && report.ended.empty();
    std::erase_if(rows_, [](const auto& row) { return row->ended; });
  } while (going && !over());
  report.prompt_cache_bytes = cache_.bytes();
  report.time = std::chrono::steady_clock::now() - begin;
  return report;
}

void Engine::apply(const GPTNeoX& model, EngineCommands& commands, EngineReport& report) {
  std::erase_if(rows_, [&](const auto& row) {
    return std::find(commands.removed.begin(), commands.removed.end(), row->slot) != commands.removed.end();
  });
  const NeoXConfig& config = model.config();
  for (EngineRequest& added : commands.added) {
    auto row = std::make_unique<ActiveRow>(std::move(added));
    try {
      // The whole of what the row may need: its cache is never copied, and memory that is not there is missed at once.
      const int64_t room = config.max_positions - row->cache.positions();
      const auto wanted = static_cast<int64_t>(row->request.prompt.size()) + row->request.max_new_tokens;
      row->cache.reserve(config, std::min(room, wanted), model.tensor_options());
      rows_.push_back(std::move(row));
    } catch (...) {
      end(*row, FinishReason::kLength, std::current_exception(), report);
    }
  }
  const auto words = static_cast<size_t>((config.vocab_size + 31) / 32);
  for (EngineGrant& grant : commands.grants) {
    if (!grant.mask.empty() && (grant.mask.size() != words || grant.tokens != 1)) {
      throw CoreError("NEOX_BAD_ARGUMENT", "A mask has a bit for each token of the vocabulary and is for one token");
    }
    for (const auto& row : rows_) {
      if (row->slot != grant.slot) continue;
      row->granted += grant.tokens;
      row->mask = std::move(grant.mask);
      break;
    }
  }
}

void Engine::start(const GPTNeoX& model, ActiveRow& row, EngineReport& report) {
  row.started = true;
  // The last token's logits are wanted, so it is computed in any case.
  const int64_t limit = goes_whole(model.config(), row.request) ? 0 : row.prompt_left() - 1;
  if (options_.prompt_cache_bytes > 0 && limit > 0) row.prompted = cache_.load(row.request.prompt, limit, row.cache);
  report.started.push_back({row.slot, row.prompted});
}

std::vector<Engine::Part> Engine::plan(const GPTNeoX& model, EngineReport& report) {
  std::vector<Part> parts;
  int64_t room = options_.prefill_tokens;
  for (const auto& row : rows_) {
    if (row->granted == 0) continue;
    if (row->started && row->prompt_left() == 0) {
      parts.push_back({row.get(), {row->last}});
      continue;
    }
    if (room == 0) continue;
    if (!row->started) start(model, *row, report);
    const int64_t tokens = piece(model, *row, room);
    if (tokens == 0) continue;
    const auto from = row->request.prompt.begin() + row->prompted;
    parts.push_back({row.get(), {from, from + tokens}});
    room = std::max<int64_t>(0, room - tokens);
  }
  return parts;
}

// How many tokens of a row's prompt go next.
int64_t Engine::piece(const GPTNeoX& model, const ActiveRow& row, int64_t room) const {
  if (row.prompt_left() <= room) return row.prompt_left();
  if (!goes_whole(model.config(), row.request)) return room;
  return room == options_.prefill_tokens ? row.prompt_left() : 0;
}

bool Engine::step(const GPTNeoX& model, const std::vector<Part>& parts, const CancelFlag& cancel,
                  EngineReport& report) {
  at::Tensor hidden;
  try {
    std::vector<RowInput> inputs;
    for (const Part& part : parts) inputs.push_back({&part.row->cache, &part.tokens});
    hidden = hidden_states(model, inputs, cancel);
  } catch (const Cancelled&) {
    throw;
  } catch (...) {
    fail(parts, std::current_exception(), report);
    return true;
  }
  ++report.steps;
  keep_prompts(model, parts, report);
  std::vector<Draw> drawn;
  try {
    drawn = draw(model, parts, hidden);
  } catch (...) {
    for (const Part& part : parts) end(*part.row, FinishReason::kLength, std::current_exception(), report);
    return true;
  }
  bool going = true;
  for (Draw& one : drawn) going = take(model.config(), one, report) && going;
  return going;
}

void Engine::keep_prompts(const GPTNeoX& model, const std::vector<Part>& parts, EngineReport& report) {
  for (const Part& part : parts) {
    ActiveRow& row = *part.row;
    if (row.prompt_left() == 0) continue;
    const auto tokens = static_cast<int64_t>(part.tokens.size());
    row.prompted += tokens;
    report.prompt_tokens += tokens;
    const bool whole = row.prompt_left() == 0 && !goes_whole(model.config(), row.request);
    if (!whole || options_.prompt_cache_bytes == 0) continue;
    try {
      cache_.store(row.request.prompt, row.cache);
    } catch (...) {
      // For want of memory: the prompt will take as long the next time.
    }
  }
}

// A token for each row whose prompt is through.
std::vector<Engine::Draw> Engine::draw(const GPTNeoX& model, const std::vector<Part>& parts,
                                       const at::Tensor& hidden) const {
  std::vector<Draw> drawn;
  std::vector<int64_t> last;  // of each such row's tokens, in `hidden`
  int64_t end = 0;
  for (const Part& part : parts) {
    end += static_cast<int64_t>(part.tokens.size());
    if (part.row->prompt_left() > 0) continue;
    drawn.push_back({part.row, {}, nullptr});
    last.push_back(end - 1);
  }
  if (drawn.empty()) return drawn;
  const auto count = static_cast<int64_t>(drawn.size());
  const at::Tensor index = at::from_blob(last.data(), {count}, at::kLong).to(hidden.device());
  const at::Tensor logits =
      model.logits(count == end ? hidden : hidden.index_select(0, index)).to(at::kCPU);  // [rows, V]

  const int64_t vocab = model.config().vocab_size;
  auto* data = logits.data_ptr<float>();
  at::parallel_for(0, count, 1, [&](int64_t first, int64_t past) {
    for (int64_t i = first; i < past; ++i) {
      Draw& one = drawn[static_cast<size_t>(i)];
      try {
        one.choice =
            one.row->sampler.next(data + i * vocab, vocab, one.row->mask.empty() ? nullptr : one.row->mask.data());
      } catch (...) {
        one.error = std::current_exception();
      }
    }
  });
  return drawn;
}

bool Engine::take(const NeoXConfig& config, Draw& drawn, EngineReport& report) {
  ActiveRow& row = *drawn.row;
  if (drawn.error) {
    end(row, FinishReason::kLength, drawn.error, report);
    return true;
  }
  const int64_t token = drawn.choice.token;
  if (row.sampler.ends(token)) {
    end(row, FinishReason::kStop, nullptr, report);
    return true;
  }
  row.last = token;
  report.tokens.push_back({row.slot, row.request.sampling.logprobs >= 0, std::move(drawn.choice)});
  if (row.sampler.generated() == row.request.max_new_tokens || row.cache.positions() >= config.max_positions)
    end(row, FinishReason::kLength, nullptr, report);
  return --row.granted > 0;
}

void Engine::end(ActiveRow& row, FinishReason reason, const std::exception_ptr& error, EngineReport& report) {
  row.ended = true;
  report.ended.push_back({row.slot, reason, error});
}

// A forward pass that failed has changed no row but for the room that it claimed. Prompts are what needs memory: where there were some, the
// other rows try again without them.
void Engine::fail(const std::vector<Part>& parts, const std::exception_ptr& error, EngineReport& report) {
  const bool prompts =
      std::any_of(parts.begin(), parts.end(), [](const Part& part) { return part.row->prompt_left() > 0; });
  for (const Part& part : parts) {
    ActiveRow& row = *part.row;
    if (!prompts || row.prompt_left() > 0) {
      end(row, FinishReason::kLength, error, report);
    } else {
      row.cache.storage->used = row.cache.length;
    }
  }
}

}  // namespace neox

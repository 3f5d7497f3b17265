#include "core/generation/engine.h"

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <utility>

#include "core/base/error.h"
#include "core/generation/batch.h"

namespace neox {
namespace {

constexpr int64_t kScored = 128;  // positions whose logits are in memory at a time

// With dynamic rotary scaling, keys beyond the trained length depend on how long the row is when they are made: such a
// prompt is neither cut nor taken from the cache.
bool goes_whole(const ModelConfig& config, const GenerationRequest& request) {
  return request.past.positions() + static_cast<int64_t>(request.prompt.size()) > config.trained_positions;
}

}  // namespace

EngineReport Engine::run(const Model& model, EngineCommands commands, const CancelFlag& cancel) {
  const auto begin = std::chrono::steady_clock::now();
  EngineReport report;
  apply(model, commands, report);
  const auto over = [&] {
    return interrupted_.load(std::memory_order_relaxed) || std::chrono::steady_clock::now() - begin >= commands.slice;
  };
  bool going = report.ended.empty();
  do {
    std::vector<Part> parts = plan(model, report);
    if (parts.empty()) break;
    going = step(model, parts, cancel, report) && going && report.ended.empty();
  } while (going && !over());
  std::erase_if(rows_, [](const auto& row) { return row->ended; });
  report.prompt_cache_bytes = cache_.bytes();
  report.time = std::chrono::steady_clock::now() - begin;
  return report;
}

void Engine::apply(const Model& model, EngineCommands& commands, EngineReport& report) {
  std::erase_if(rows_, [&](const auto& row) {
    return std::find(commands.removed.begin(), commands.removed.end(), row->slot) != commands.removed.end();
  });
  const ModelConfig& config = model.config();
  for (EngineRequest& added : commands.added) {
    auto row = std::make_unique<ActiveRow>(std::move(added));
    if (row->beams) {
      row->held_back = goes_whole(config, row->request) ? static_cast<int64_t>(row->request.prompt.size()) : 1;
    } else if (row->request.max_new_tokens == 0) {
      row->held_back = 1;
    }
    try {
      // The whole of what the row may need: its cache is never copied, and memory that is not there is missed at once.
      // Beams have their own.
      const int64_t room = config.max_positions - row->cache.positions();
      const int64_t wanted = row->prompt_left() + (row->beams ? 0 : row->request.max_new_tokens);
      row->cache.reserve(model.kv_shape(), std::min(room, wanted));
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

void Engine::start(const Model& model, ActiveRow& row, EngineReport& report) {
  row.started = true;
  // The last token's logits are wanted, so it is computed in any case; where scores of the prompt are, all of it is.
  const bool whole = goes_whole(model.config(), row.request) || row.prompt_logprobs >= 0;
  const int64_t limit = whole ? 0 : static_cast<int64_t>(row.request.prompt.size()) - 1;
  if (options_.prompt_cache_bytes > 0 && limit > 0) row.prompted = cache_.load(row.request.prompt, limit, row.cache);
  report.started.push_back({row.slot, row.prompted});
}

std::vector<Engine::Part> Engine::plan(const Model& model, EngineReport& report) {
  std::vector<Part> parts;
  int64_t room = options_.prefill_tokens;
  for (const auto& row : rows_) {
    if (row->granted == 0) continue;
    if (!row->started && room > 0) start(model, *row, report);
    if (row->started && row->prompt_left() == 0) {
      if (row->beams) {
        plan_search(model, *row, parts, report);
      } else {
        parts.push_back({row.get(), &row->cache, {row->last}});
      }
      continue;
    }
    if (room == 0) continue;
    const int64_t tokens = piece(model, *row, room);
    if (tokens == 0) continue;
    const auto from = row->request.prompt.begin() + row->prompted;
    parts.push_back({row.get(), &row->cache, {from, from + tokens}});
    room = std::max<int64_t>(0, room - tokens);
  }
  return parts;
}

// The search begins: its prompt becomes a block that all beams share.
void Engine::begin_search(const Model& model, ActiveRow& row, EngineReport& report) {
  row.request.past = row.cache.as_block();
  row.request.past_tokens = row.prompted;
  row.cache = {};
  row.search = std::make_unique<BeamSearch>(model.kv_shape(), row.request, *row.beams);
  report.prompt_tokens += row.held_back;
}

void Engine::plan_search(const Model& model, ActiveRow& row, std::vector<Part>& parts, EngineReport& report) {
  try {
    if (!row.search) begin_search(model, row, report);
    row.search->make_room(model.kv_shape());
    for (Beam& beam : row.search->running()) parts.push_back({&row, &beam.cache, beam.input});
  } catch (...) {
    end(row, FinishReason::kLength, std::current_exception(), report);
  }
}

// How many tokens of a row's prompt go next.
int64_t Engine::piece(const Model& model, const ActiveRow& row, int64_t room) const {
  if (row.prompt_left() <= room) return row.prompt_left();
  if (!goes_whole(model.config(), row.request)) return room;
  return room == options_.prefill_tokens ? row.prompt_left() : 0;
}

bool Engine::step(const Model& model, std::vector<Part>& parts, const CancelFlag& cancel,
                  EngineReport& report) {
  at::Tensor hidden;
  try {
    std::vector<RowInput> inputs;
    bool all = false;  // the last of each part will do, but for prompts that are scored
    for (const Part& part : parts) {
      inputs.push_back({part.cache, &part.tokens});
      all = all || (part.row->prompt_logprobs >= 0 && part.row->prompt_left() > 0);
    }
    int64_t count = 0;
    for (Part& part : parts) {
      count += all ? static_cast<int64_t>(part.tokens.size()) : 1;
      part.last = count - 1;
    }
    hidden = hidden_states(model, inputs, all ? Wanted::kAll : Wanted::kLast, cancel);  // [count, H]
  } catch (const Cancelled&) {
    throw;
  } catch (...) {
    fail(parts, std::current_exception(), report);
    return true;
  }
  ++report.steps;
  score_prompts(model, parts, hidden, cancel, report);
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

// The scores of the tokens that stand behind those of this step's pieces of prompts.
void Engine::score_prompts(const Model& model, const std::vector<Part>& parts, const at::Tensor& hidden,
                           const CancelFlag& cancel, EngineReport& report) {
  const int64_t vocab = model.config().vocab_size;
  for (const Part& part : parts) {
    ActiveRow& row = *part.row;
    if (row.prompt_logprobs < 0 || row.prompt_left() == 0) continue;
    const auto tokens = static_cast<int64_t>(part.tokens.size());
    const int64_t first = part.last + 1 - tokens;
    const int64_t scored = std::min(tokens, static_cast<int64_t>(row.request.prompt.size()) - 1 - row.prompted);
    try {
      for (int64_t begin = 0; begin < scored; begin += kScored) {
        cancel.check();
        const int64_t count = std::min(kScored, scored - begin);
        const at::Tensor logits = model.logits(hidden.narrow(0, first + begin, count)).to(at::kCPU);  // [count, V]
        const auto* own = logits.const_data_ptr<float>();
        for (int64_t i = 0; i < count; ++i) {
          const auto next = static_cast<size_t>(row.prompted + begin + i + 1);
          add_score(own + i * vocab, vocab, row.request.prompt[next], row.prompt_logprobs, row.prompt_scores);
        }
      }
      if (row.prompt_left() == tokens) report.prompts.push_back({row.slot, std::move(row.prompt_scores)});
    } catch (const Cancelled&) {
      throw;
    } catch (...) {
      end(row, FinishReason::kLength, std::current_exception(), report);
    }
  }
}

void Engine::keep_prompts(const Model& model, const std::vector<Part>& parts, EngineReport& report) {
  for (const Part& part : parts) {
    ActiveRow& row = *part.row;
    if (row.prompt_left() == 0) continue;
    const auto tokens = static_cast<int64_t>(part.tokens.size());
    row.prompted += tokens;
    report.prompt_tokens += tokens;
    if (row.prompt_left() == 0 && row.request.max_new_tokens == 0)
      end(row, FinishReason::kLength, nullptr, report);
    const bool whole = row.prompt_left() == 0 && !goes_whole(model.config(), row.request);
    if (!whole || options_.prompt_cache_bytes == 0) continue;
    try {
      cache_.store(row.request.prompt, row.cache);
    } catch (...) {
      // For want of memory: the prompt will take as long the next time.
    }
  }
}

// A token for each row whose prompt is through, or a step of its search.
std::vector<Engine::Draw> Engine::draw(const Model& model, const std::vector<Part>& parts,
                                       const at::Tensor& hidden) const {
  std::vector<Draw> drawn;
  std::vector<int64_t> giving;  // the parts of such rows
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].row->gives()) continue;
    if (drawn.empty() || drawn.back().row != parts[i].row) {
      drawn.push_back({parts[i].row, static_cast<int64_t>(giving.size()), {}, nullptr});
    }
    giving.push_back(parts[i].last);
  }
  if (drawn.empty()) return drawn;
  const auto count = static_cast<int64_t>(giving.size());
  const at::Tensor index = at::from_blob(giving.data(), {count}, at::kLong).to(hidden.device());
  const at::Tensor logits =
      model.logits(count == hidden.size(0) ? hidden : hidden.index_select(0, index)).to(at::kCPU);  // [giving, V]

  const int64_t vocab = model.config().vocab_size;
  auto* data = logits.data_ptr<float>();
  at::parallel_for(0, static_cast<int64_t>(drawn.size()), 1, [&](int64_t first, int64_t past) {
    for (int64_t i = first; i < past; ++i) {
      Draw& one = drawn[static_cast<size_t>(i)];
      ActiveRow& row = *one.row;
      float* const own = data + one.first * vocab;
      try {
        if (row.search) {
          row.search->step(own, vocab);
        } else {
          one.choice = row.sampler.next(own, vocab, row.mask.empty() ? nullptr : row.mask.data());
        }
      } catch (...) {
        one.error = std::current_exception();
      }
    }
  });
  return drawn;
}

bool Engine::take(const ModelConfig& config, Draw& drawn, EngineReport& report) {
  ActiveRow& row = *drawn.row;
  if (drawn.error) {
    end(row, FinishReason::kLength, drawn.error, report);
    return true;
  }
  if (row.search) {
    if (row.search->done()) {
      std::vector<BeamResult> sequences = row.search->results();
      end(row, sequences.front().reason, nullptr, report);
      report.ended.back().sequences = std::move(sequences);
    }
    return true;
  }
  const int64_t token = drawn.choice.token;
  if (row.sampler.ends(token)) {
    end(row, FinishReason::kStop, nullptr, report);
    report.ended.back().token = {row.slot, row.request.sampling.logprobs >= 0, std::move(drawn.choice)};
    return true;
  }
  row.last = token;
  report.tokens.push_back({row.slot, row.request.sampling.logprobs >= 0, std::move(drawn.choice)});
  if (row.sampler.generated() == row.request.max_new_tokens || row.cache.positions() >= config.max_positions)
    end(row, FinishReason::kLength, nullptr, report);
  // Whoever waits for a first token has it at once; the time of a slice is for those that follow.
  return --row.granted > 0 && row.sampler.generated() > 1;
}

void Engine::end(ActiveRow& row, FinishReason reason, const std::exception_ptr& error, EngineReport& report) {
  if (row.ended) return;  // a search has several parts
  row.ended = true;
  report.ended.push_back({row.slot, reason, error, {}, {}});
}

// A forward pass that failed has changed no row but for the room that it claimed. Prompts are what needs memory: where
// there were some, the other rows try again without them.
void Engine::fail(const std::vector<Part>& parts, const std::exception_ptr& error, EngineReport& report) {
  const bool prompts =
      std::any_of(parts.begin(), parts.end(), [](const Part& part) { return part.row->prompt_left() > 0; });
  for (const Part& part : parts) {
    ActiveRow& row = *part.row;
    if (!prompts || row.prompt_left() > 0) {
      end(row, FinishReason::kLength, error, report);
    } else {
      part.cache->storage->used = part.cache->length;
    }
  }
}

}  // namespace neox

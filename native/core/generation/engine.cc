#include "core/generation/engine.h"

#include <algorithm>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

// With dynamic rotary scaling and longrope, keys beyond a length depend on how long the row is when they are made: such
// a prompt is neither cut nor taken from the cache.
bool goes_whole(const ModelConfig& config, const GenerationRequest& request) {
  const int64_t left = static_cast<int64_t>(request.prompt.size()) - request.past_tokens;
  return request.past.positions() + left > config.trained_positions;
}

bool waits_for_prompt(const Share& share) { return share.sequence->prompt_left() > 0; }

}  // namespace

EngineReport Engine::run(const Model& model, EngineCommands commands, const CancelFlag& cancel,
                         const std::function<void(EngineReport)>& on_tokens) {
  const auto begin = std::chrono::steady_clock::now();
  EngineReport report;
  apply(model, commands, report);
  const auto over = [&] {
    return interrupted_.load(std::memory_order_relaxed) || std::chrono::steady_clock::now() - begin >= commands.slice;
  };
  bool going = report.ended.empty();
  for (;;) {
    std::vector<Share> shares = plan(model, report);
    if (shares.empty()) break;
    going = step(model, shares, cancel, report) && going && report.ended.empty();
    if (!going || over()) break;
    if (!on_tokens || report.tokens.empty()) continue;
    report.prompt_cache_bytes = cache_.bytes();
    on_tokens(std::exchange(report, {}));
  }
  std::erase_if(sequences_, [](const auto& sequence) { return sequence->ended; });
  report.prompt_cache_bytes = cache_.bytes();
  report.time = std::chrono::steady_clock::now() - begin;
  return report;
}

void Engine::apply(const Model& model, EngineCommands& commands, EngineReport& report) {
  std::erase_if(sequences_, [&](const auto& sequence) {
    return std::find(commands.removed.begin(), commands.removed.end(), sequence->slot) != commands.removed.end();
  });
  const ModelConfig& config = model.config();
  for (EngineRequest& added : commands.added) {
    auto sequence =
        std::make_unique<Sequence>(added.slot, std::move(added.request), added.beams, added.prompt_logprobs);
    sequence->row = added.row;
    if (sequence->beams) {
      const bool whole = goes_whole(config, sequence->request);
      sequence->held_back = whole ? static_cast<int64_t>(sequence->request.prompt.size()) : 1;
    } else if (sequence->request.max_new_tokens == 0) {
      sequence->held_back = 1;
    }
    try {
      // The whole of what the row may need: its storage is never copied, and memory that is not there is missed at
      // once. Beams have their own.
      const int64_t room = config.max_positions - sequence->past.positions();
      const int64_t wanted = sequence->prompt_left() + (sequence->beams ? 0 : sequence->request.max_new_tokens);
      sequence->past.reserve(model.kv_shape(), std::min(room, wanted));
      sequences_.push_back(std::move(sequence));
    } catch (...) {
      end(*sequence, FinishReason::kLength, std::current_exception(), report);
    }
  }
  const auto words = static_cast<size_t>((config.vocab_size + 31) / 32);
  for (EngineGrant& grant : commands.grants) {
    if (!grant.mask.empty() && (grant.mask.size() != words || grant.tokens != 1)) {
      throw CoreError("NEOX_BAD_ARGUMENT", "A mask has a bit for each token of the vocabulary and is for one token");
    }
    for (const auto& sequence : sequences_) {
      if (sequence->slot != grant.slot) continue;
      sequence->granted += grant.tokens;
      sequence->mask = std::move(grant.mask);
      break;
    }
  }
}

void Engine::start(const Model& model, Sequence& sequence, EngineReport& report) {
  sequence.started = true;
  const GenerationRequest& request = sequence.request;
  // The last token's logits are wanted, so it is computed in any case; where scores of the prompt are, all of it is.
  const bool whole = goes_whole(model.config(), request) || sequence.prompt_logprobs >= 0 || request.past_tokens > 0;
  const int64_t limit = whole ? 0 : static_cast<int64_t>(request.prompt.size()) - 1;
  const bool cached = options_.prompt_cache_bytes > 0 && limit > 0;
  if (cached) sequence.prompted = cache_.load(request.prompt, limit, sequence.past);
  report.started.push_back({sequence.slot, cached ? sequence.prompted : 0});
}

std::vector<Share> Engine::plan(const Model& model, EngineReport& report) {
  std::vector<Share> shares;
  int64_t room = options_.prefill_tokens;
  for (const auto& sequence : sequences_) {
    if (sequence->granted == 0) continue;
    if (!sequence->started && room > 0) start(model, *sequence, report);
    if (sequence->started && sequence->prompt_left() == 0) {
      if (sequence->beams) {
        plan_search(model, *sequence, shares, report);
      } else {
        shares.push_back({sequence.get(), &sequence->past, {sequence->last}});
      }
      continue;
    }
    if (room == 0) continue;
    const int64_t tokens = prefill_length(model, *sequence, room);
    if (tokens == 0) continue;
    const auto from = sequence->request.prompt.begin() + sequence->prompted;
    shares.push_back({sequence.get(), &sequence->past, {from, from + tokens}});
    room = std::max<int64_t>(0, room - tokens);
  }
  return shares;
}

// The search begins: its prompt becomes a block that all beams share.
void Engine::begin_search(const Model& model, Sequence& sequence, EngineReport& report) {
  sequence.request.past = sequence.past.as_block();
  sequence.request.past_tokens = sequence.prompted;
  sequence.past = {};
  sequence.search = std::make_unique<BeamSearch>(model.kv_shape(), sequence.request, *sequence.beams);
  report.prompt_tokens += sequence.held_back;
}

void Engine::plan_search(const Model& model, Sequence& sequence, std::vector<Share>& shares, EngineReport& report) {
  try {
    if (!sequence.search) begin_search(model, sequence, report);
    sequence.search->make_room(model.kv_shape());
    for (Beam& beam : sequence.search->running()) shares.push_back({&sequence, &beam.cache, beam.input});
  } catch (...) {
    end(sequence, FinishReason::kLength, std::current_exception(), report);
  }
}

// How many tokens of a row's prompt go next.
int64_t Engine::prefill_length(const Model& model, const Sequence& sequence, int64_t room) const {
  if (sequence.prompt_left() <= room) return sequence.prompt_left();
  if (!goes_whole(model.config(), sequence.request)) return room;
  return room == options_.prefill_tokens ? sequence.prompt_left() : 0;
}

bool Engine::step(const Model& model, std::vector<Share>& shares, const CancelFlag& cancel, EngineReport& report) {
  const bool prompts = std::any_of(shares.begin(), shares.end(), waits_for_prompt);
  const bool single = std::all_of(shares.begin(), shares.end(), [](const Share& s) { return s.tokens.size() == 1; });
  at::Tensor hidden;
  try {
    hidden = prompts || !single ? prefill(model, shares, cancel) : decode_step(model, shares, cancel);
  } catch (const Cancelled&) {
    throw;
  } catch (...) {
    fail(shares, std::current_exception(), report);
    return true;
  }
  ++report.steps;
  if (prompts) {
    for (const Share& share : shares) {
      if (waits_for_prompt(share)) note_prefill(model, share, hidden, cancel, report);
    }
  }
  std::vector<Sampled> sampled;
  try {
    sampled = sample(model, shares, hidden);
  } catch (...) {
    for (const Share& share : shares) end(*share.sequence, FinishReason::kLength, std::current_exception(), report);
    return true;
  }
  bool going = true;
  for (Sampled& one : sampled) going = accept_token(model.config(), one, report) && going;
  return going;
}

// A piece of a prompt is through: it is scored and counted, and the whole prompt goes into the cache.
void Engine::note_prefill(const Model& model, const Share& share, const at::Tensor& hidden, const CancelFlag& cancel,
                          EngineReport& report) {
  Sequence& sequence = *share.sequence;
  const auto tokens = static_cast<int64_t>(share.tokens.size());
  const bool through = sequence.prompt_left() == tokens;
  if (sequence.prompt_logprobs >= 0) {
    try {
      score_prompt(model, share, hidden, cancel);
      if (through) report.prompts.push_back({sequence.slot, std::move(sequence.prompt_scores)});
    } catch (const Cancelled&) {
      throw;
    } catch (...) {
      end(sequence, FinishReason::kLength, std::current_exception(), report);
    }
  }
  sequence.prompted += tokens;
  report.prompt_tokens += tokens;
  if (!through) return;
  if (sequence.request.max_new_tokens == 0) end(sequence, FinishReason::kLength, nullptr, report);
  // Of a prompt that began behind a past, only the rest is in the row's own storage.
  const bool whole = sequence.request.past_tokens == 0 && !goes_whole(model.config(), sequence.request);
  if (!whole || options_.prompt_cache_bytes == 0) return;
  try {
    cache_.store(sequence.request.prompt, sequence.past);
  } catch (...) {
    // For want of memory: the prompt will take as long the next time.
  }
}

bool Engine::accept_token(const ModelConfig& config, Sampled& sampled, EngineReport& report) {
  Sequence& sequence = *sampled.sequence;
  if (sampled.error) {
    end(sequence, FinishReason::kLength, sampled.error, report);
    return true;
  }
  if (sequence.search) {
    if (sequence.search->done()) {
      std::vector<BeamResult> sequences = sequence.search->results();
      end(sequence, sequences.front().reason, nullptr, report);
      report.ended.back().sequences = std::move(sequences);
    }
    return true;
  }
  const int64_t token = sampled.choice.token;
  const bool scored = sequence.request.sampling.logprobs >= 0;
  if (sequence.sampler.ends(token)) {
    end(sequence, FinishReason::kStop, nullptr, report);
    report.ended.back().token = {sequence.slot, scored, std::move(sampled.choice)};
    return true;
  }
  sequence.last = token;
  report.tokens.push_back({sequence.slot, scored, std::move(sampled.choice)});
  const int64_t generated = sequence.sampler.generated();
  if (generated == sequence.request.max_new_tokens || sequence.past.positions() >= config.max_positions)
    end(sequence, FinishReason::kLength, nullptr, report);
  // Whoever waits for a first token has it at once; the time of a slice is for those that follow.
  return --sequence.granted > 0 && generated > 1;
}

void Engine::end(Sequence& sequence, FinishReason reason, const std::exception_ptr& error, EngineReport& report) {
  if (sequence.ended) return;  // a search has several shares
  sequence.ended = true;
  report.ended.push_back({sequence.slot, reason, error, {}, {}});
}

// A forward pass that failed has changed no row but for the room that it claimed. Prompts are what needs memory: where
// there were some, the other rows try again without them.
void Engine::fail(const std::vector<Share>& shares, const std::exception_ptr& error, EngineReport& report) {
  const bool prompts = std::any_of(shares.begin(), shares.end(), waits_for_prompt);
  for (const Share& share : shares) {
    if (!prompts || waits_for_prompt(share)) {
      end(*share.sequence, FinishReason::kLength, error, report);
    } else {
      share.past->storage->used = share.past->length;
    }
  }
}

}  // namespace neox

// Continuous batching: rows join and leave the running batch between two forward passes, each with its own prefix,
// prompt, sampling settings, length and end. One forward pass takes the next token of every running row and a piece of
// the prompts that are new.
//
// It is the one loop that chooses tokens: a call of a model has an engine that lives as long as the call, a service one
// that lives as long as the service.
//
// What a row gets does not depend on the rows beside it, on the pieces that its prompt came in, or on the prompt cache.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/base/cancel.h"
#include "core/generation/decode.h"
#include "core/generation/prompt_cache.h"
#include "core/model/model.h"

namespace neox {

struct EngineOptions {
  int64_t prefill_tokens = 128;    // of prompts, in one forward pass
  int64_t prompt_cache_bytes = 0;  // 0: no prompt cache
};

struct EngineRequest {
  int64_t slot = 0;  // the caller's name for the row, free again when the row has ended or was removed
  GenerationRequest request;
  std::optional<BeamSettings> beams;  // a beam search
  int64_t row = -1;                   // its number in a call, which its errors name; -1: they do not
  // 0 or more: the prompt's tokens are scored, with so many of the most likely beside each. Its max_new_tokens may be
  // 0.
  int64_t prompt_logprobs = -1;
};

// More tokens that a row may give; a row without any waits, and the others go on. A beam search goes on to its end with
// any. With a mask it is one token: bit i % 32 of word i / 32 says whether token i may be it.
struct EngineGrant {
  int64_t slot = 0;
  int64_t tokens = 0;
  std::vector<uint32_t> mask;  // empty: any token
};

// What changed since the last run. Removals come first: their slots may be given again.
struct EngineCommands {
  std::vector<int64_t> removed;
  std::vector<EngineRequest> added;
  std::vector<EngineGrant> grants;
  std::chrono::nanoseconds slice{0};  // one forward pass at least, then on until this time is over
};

struct EngineReport {
  struct Token {
    int64_t slot = 0;
    bool scored = false;  // whether the row asked for log-probabilities
    TokenChoice choice;
  };
  struct Start {
    int64_t slot = 0;
    int64_t cached = 0;  // tokens of its prompt that the prompt cache had
  };
  struct End {
    int64_t slot = 0;
    FinishReason reason = FinishReason::kLength;
    std::exception_ptr error;           // set: the row failed, and only it
    std::vector<BeamResult> sequences;  // of a beam search, which has no tokens before
    std::optional<Token> token;         // the end token, where one came
  };
  struct Prompt {
    int64_t slot = 0;
    TokenScores scores;  // of its tokens but for the first
  };
  std::vector<Start> started;
  std::vector<Prompt> prompts;  // that are through, of rows that asked for their scores
  std::vector<Token> tokens;    // in the order of the steps
  std::vector<End> ended;
  int64_t steps = 0;          // forward passes
  int64_t prompt_tokens = 0;  // that went through the model
  int64_t prompt_cache_bytes = 0;
  std::chrono::nanoseconds time{0};
};

// All but interrupt() belongs to the model's thread.
class Engine {
 public:
  explicit Engine(const EngineOptions& options) : options_(options), cache_(options.prompt_cache_bytes) {}

  // Runs until something needs the caller: a row has its first token, ended or has used its grant, interrupt() was
  // called, the time is over, or no row can go on. Throws Cancelled; what else goes wrong is the end of the rows it
  // belongs to.
  //
  // With `on_tokens` the tokens of each forward pass are reported at once, but for those of the last; the report that
  // is returned says what came since.
  EngineReport run(const Model& model, EngineCommands commands, const CancelFlag& cancel,
                   const std::function<void(EngineReport)>& on_tokens = {});

  // From any thread: the run in progress ends behind its current forward pass. Cleared by resume().
  void interrupt() { interrupted_.store(true, std::memory_order_relaxed); }
  void resume() { interrupted_.store(false, std::memory_order_relaxed); }

 private:
  void apply(const Model& model, EngineCommands& commands, EngineReport& report);
  void start(const Model& model, Sequence& sequence, EngineReport& report);
  std::vector<Share> plan(const Model& model, EngineReport& report);
  static void begin_search(const Model& model, Sequence& sequence, EngineReport& report);
  static void plan_search(const Model& model, Sequence& sequence, std::vector<Share>& shares, EngineReport& report);
  int64_t prefill_length(const Model& model, const Sequence& sequence, int64_t room) const;
  // False when a row used up what it was granted.
  bool step(const Model& model, std::vector<Share>& shares, const CancelFlag& cancel, EngineReport& report);
  void note_prefill(const Model& model, const Share& share, const at::Tensor& hidden, const CancelFlag& cancel,
                    EngineReport& report);
  static bool accept_token(const ModelConfig& config, Sampled& sampled, EngineReport& report);
  static void end(Sequence& sequence, FinishReason reason, const std::exception_ptr& error, EngineReport& report);
  static void fail(const std::vector<Share>& shares, const std::exception_ptr& error, EngineReport& report);

  EngineOptions options_;
  PromptCache cache_;
  std::vector<std::unique_ptr<Sequence>> sequences_;  // in the order they came
  std::atomic<bool> interrupted_{false};
};

}  // namespace neox

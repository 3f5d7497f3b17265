// generate, beamSearch, score; createSampler, sampleToken, pushToken, tokenProbabilities.
#include "binding/generation_binding.h"

#include <cstring>
#include <string>
#include <utility>

#include "binding/generation_options.h"
#include "binding/model_handle.h"
#include "binding/options.h"
#include "core/base/error.h"
#include "core/generation/beam_search.h"
#include "core/generation/score.h"

namespace neox::binding {
namespace {

// options.tokens, .lengths, .settings, and .cache with .cachedTokens or .prefixes, as GenerateOptions has them.
std::vector<GenerationRequest> parse_requests(const Napi::Object& options) {
  auto rows = parse_rows(options);
  auto past = parse_past(options, rows.size());
  const auto settings = get_array(options, "settings");
  const auto cached = has_value(options, "cachedTokens") ? get_ids(options, "cachedTokens") : std::vector<int64_t>();
  std::vector<GenerationRequest> requests;
  for (uint32_t i = 0; i < rows.size(); ++i) {
    const auto row = settings.Get(i).As<Napi::Object>();
    GenerationRequest request;
    request.prompt = std::move(rows[i]);
    request.past = std::move(past[i]);
    if (!cached.empty()) request.past_tokens = cached.at(i);
    if (request.past_tokens < 0 || request.past_tokens >= static_cast<int64_t>(request.prompt.size()))
      throw CoreError("NEOX_BAD_ARGUMENT", "A cache must hold fewer tokens than its prompt has");
    request.sampling = parse_sampling(row);
    request.max_new_tokens = get_int(row, "maxNewTokens");
    if (has_value(row, "stop")) request.stop = get_handle<CancelFlag>(row.Get("stop"));
    requests.push_back(std::move(request));
  }
  return requests;
}

class GenerateWorker final : public ModelWorker {
 public:
  GenerateWorker(const Napi::Object& options, const std::shared_ptr<ModelHandle>& handle)
      : ModelWorker(handle, get_cancel(options)), requests_(parse_requests(options)) {}

 protected:
  void Work() override {
    results_ = generate(model(), requests_, cancel(), [this](int64_t row, const TokenChoice& choice) {
      TokenScores scores;
      const bool scored = requests_[static_cast<size_t>(row)].sampling.logprobs >= 0;
      if (scored) scores.add(choice.logprob, choice.top);
      Emit([row, token = choice.token, scored, scores = std::move(scores)](Napi::Env env) -> Napi::Value {
        auto event = Napi::Array::New(env, scored ? 3 : 2);
        event.Set(0U, Napi::Number::New(env, static_cast<double>(row)));
        event.Set(1U, Napi::Number::New(env, static_cast<double>(token)));
        if (scored) event.Set(2U, to_scores(env, scores));
        return event;
      });
    });
    requests_.clear();  // their caches
  }

  Napi::Value Result(Napi::Env env) override {
    auto array = Napi::Array::New(env, results_.size());
    for (uint32_t i = 0; i < results_.size(); ++i) {
      auto result = Napi::Object::New(env);
      result.Set("tokens", to_int_array(env, results_[i].tokens));
      result.Set("finishReason", reason_name(results_[i].reason));
      result.Set("scores", to_scores(env, results_[i].scores));
      array.Set(i, result);
    }
    return array;
  }

 private:
  std::vector<GenerationRequest> requests_;
  std::vector<GenerationResult> results_;
};

class BeamWorker final : public ModelWorker {
 public:
  BeamWorker(const Napi::Object& options, const std::shared_ptr<ModelHandle>& handle)
      : ModelWorker(handle, get_cancel(options)) {
    const BeamSettings beams = parse_beams(options);
    for (GenerationRequest& row : parse_requests(options)) requests_.push_back({std::move(row), beams});
  }

 protected:
  void Work() override {
    results_ = beam_search(model(), requests_, cancel());
    requests_.clear();
  }

  Napi::Value Result(Napi::Env env) override {
    auto rows = Napi::Array::New(env, results_.size());
    for (uint32_t i = 0; i < results_.size(); ++i) rows.Set(i, to_sequences(env, results_[i]));
    return rows;
  }

 private:
  std::vector<BeamRequest> requests_;
  std::vector<std::vector<BeamResult>> results_;
};

class ScoreWorker final : public ModelWorker {
 public:
  ScoreWorker(const Napi::Object& options, const std::shared_ptr<ModelHandle>& handle)
      : ModelWorker(handle, get_cancel(options)), top_(get_int(options, "top")), keep_(get_string(options, "keep")) {
    auto tokens = parse_rows(options, 0);
    auto past = parse_past(options, tokens.size());
    const auto targets = get_ids(options, "targets");
    auto next = targets.begin();
    for (size_t i = 0; i < tokens.size(); ++i) {
      const auto count = static_cast<int64_t>(tokens[i].size());
      if (targets.end() - next < count) throw CoreError("NEOX_BAD_ARGUMENT", "There are fewer targets than tokens");
      rows_.push_back({std::move(tokens[i]), {next, next + count}, std::move(past[i])});
      next += count;
    }
  }

 protected:
  void Work() override {
    scores_ = score(model(), rows_, top_, keep_ != "nothing", cancel());
    for (ScoreRow& row : rows_) {
      if (keep_ == "blocks") row.cache = row.cache.as_block();
    }
  }

  Napi::Value Result(Napi::Env env) override {
    auto rows = Napi::Array::New(env, scores_.size());
    for (uint32_t i = 0; i < scores_.size(); ++i) {
      auto row = to_scores(env, scores_[i].scores);
      auto greedy = Napi::Uint8Array::New(env, scores_[i].greedy.size());
      if (!scores_[i].greedy.empty()) std::memcpy(greedy.Data(), scores_[i].greedy.data(), scores_[i].greedy.size());
      row.Set("greedy", greedy);
      rows.Set(i, row);
    }
    auto cache = std::make_shared<CacheHandle>();
    for (ScoreRow& row : rows_) cache->rows.push_back(std::move(row.cache));
    auto result = Napi::Object::New(env);
    result.Set("rows", rows);
    result.Set("cache", make_handle(env, cache, cache->bytes()));
    return result;
  }

 private:
  int64_t top_;
  std::string keep_;
  std::vector<ScoreRow> rows_;
  std::vector<RowScores> scores_;
};

template <typename Worker>
Napi::Value queue(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto handle = get_handle<ModelHandle>(info[0]);
    const auto options = info[1].As<Napi::Object>();
    return ModelWorker::Queue(info.Env(), std::make_unique<Worker>(options, handle), options.Get("onToken"));
  });
}

// createSampler(settings, prompt)
Napi::Value create_sampler(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto options = parse_sampling(info[0].As<Napi::Object>());
    return make_handle(info.Env(), std::make_shared<Sampler>(options, to_ids(info[1], "prompt")));
  });
}

// sampleToken(sampler, logits): [token, scores?]
Napi::Value sample_token(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto sampler = get_handle<Sampler>(info[0]);
    auto logits = to_floats(info[1], "logits");
    const TokenChoice choice = sampler->next(logits.data(), static_cast<int64_t>(logits.size()));
    auto result = Napi::Array::New(info.Env(), 2);
    result.Set(0U, Napi::Number::New(info.Env(), static_cast<double>(choice.token)));
    TokenScores scores;
    scores.add(choice.logprob, choice.top);
    result.Set(1U, to_scores(info.Env(), scores));
    return result;
  });
}

Napi::Value push_token(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    get_handle<Sampler>(info[0])->push(info[1].As<Napi::Number>().Int64Value());
    return info.Env().Undefined();
  });
}

Napi::Value token_probabilities(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto sampler = get_handle<Sampler>(info[0]);
    auto logits = to_floats(info[1], "logits");
    const auto result = sampler->probabilities(logits.data(), static_cast<int64_t>(logits.size()));
    auto array = Napi::Float32Array::New(info.Env(), result.size());
    if (!result.empty()) std::memcpy(array.Data(), result.data(), result.size() * sizeof(float));
    return array;
  });
}

}  // namespace

void export_generation_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("generate", Napi::Function::New(env, queue<GenerateWorker>, "generate"));
  exports.Set("beamSearch", Napi::Function::New(env, queue<BeamWorker>, "beamSearch"));
  exports.Set("score", Napi::Function::New(env, queue<ScoreWorker>, "score"));
  exports.Set("createSampler", Napi::Function::New(env, create_sampler, "createSampler"));
  exports.Set("sampleToken", Napi::Function::New(env, sample_token, "sampleToken"));
  exports.Set("pushToken", Napi::Function::New(env, push_token, "pushToken"));
  exports.Set("tokenProbabilities", Napi::Function::New(env, token_probabilities, "tokenProbabilities"));
}

}  // namespace neox::binding

// score; createSampler, sampleToken, pushToken, tokenProbabilities.
#include "binding/generation_binding.h"

#include <cstring>
#include <string>
#include <utility>

#include "binding/generation_options.h"
#include "binding/model_handle.h"
#include "binding/options.h"
#include "core/base/error.h"
#include "core/generation/score.h"

namespace neox::binding {
namespace {

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

Napi::Value score_rows(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto handle = get_handle<ModelHandle>(info[0]);
    return ModelWorker::Queue(info.Env(), std::make_unique<ScoreWorker>(info[1].As<Napi::Object>(), handle));
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
  exports.Set("score", Napi::Function::New(env, score_rows, "score"));
  exports.Set("createSampler", Napi::Function::New(env, create_sampler, "createSampler"));
  exports.Set("sampleToken", Napi::Function::New(env, sample_token, "sampleToken"));
  exports.Set("pushToken", Napi::Function::New(env, push_token, "pushToken"));
  exports.Set("tokenProbabilities", Napi::Function::New(env, token_probabilities, "tokenProbabilities"));
}

}  // namespace neox::binding

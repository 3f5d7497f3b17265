#include "binding/engine_binding.h"

#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include "binding/generation_options.h"
#include "binding/model_handle.h"
#include "binding/options.h"
#include "core/base/error.h"

namespace neox::binding {

namespace {

EngineRequest parse_request(const Napi::Object& o) {
  EngineRequest added;
  added.slot = get_int(o, "slot");
  GenerationRequest& request = added.request;
  request.prompt = get_ids(o, "prompt");
  if (has_value(o, "prefix")) request.past.block = get_handle<KeyValueBlock>(o.Get("prefix"));
  if (has_value(o, "past")) {
    const auto past = get_object(o, "past");
    request.past = get_handle<CacheHandle>(past.Get("cache"))->rows.at(static_cast<size_t>(get_int(past, "row")));
    request.past_tokens = get_int(past, "tokens");
  }
  const auto settings = get_object(o, "settings");
  request.sampling = parse_sampling(settings);
  request.max_new_tokens = get_int(settings, "maxNewTokens");
  if (has_value(o, "beams")) added.beams = parse_beams(get_object(o, "beams"));
  added.row = get_int(o, "row");
  added.prompt_logprobs = get_int(o, "promptLogprobs");
  const bool scores = added.prompt_logprobs >= 0 && request.prompt.size() > 1;
  const auto length = static_cast<int64_t>(request.prompt.size());
  const bool begun = request.past_tokens >= 0 && request.past_tokens < length;
  if (!begun || request.max_new_tokens < (scores ? 0 : 1)) {
    throw CoreError("NEOX_BAD_ARGUMENT", "A row of an engine has a prompt and something to give");
  }
  return added;
}

std::vector<uint32_t> get_mask(const Napi::Value& value) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) return {};
  const auto words = value.As<Napi::Int32Array>();
  const auto* data = reinterpret_cast<const uint32_t*>(words.Data());
  return {data, data + words.ElementLength()};
}

EngineCommands parse_commands(const Napi::Object& o) {
  EngineCommands commands;
  commands.removed = get_ids(o, "removed");
  const auto added = get_array(o, "added");
  for (uint32_t i = 0; i < added.Length(); ++i)
    commands.added.push_back(parse_request(added.Get(i).As<Napi::Object>()));
  const auto slots = get_ids(o, "grantSlots");
  const auto tokens = get_ids(o, "grantTokens");
  if (slots.size() != tokens.size()) throw CoreError("NEOX_BAD_ARGUMENT", "A grant has a slot and a number of tokens");
  const auto masks = get_array(o, "grantMasks");
  for (size_t i = 0; i < slots.size(); ++i) {
    commands.grants.push_back({slots[i], tokens[i], get_mask(masks.Get(static_cast<uint32_t>(i)))});
  }
  commands.slice = std::chrono::microseconds(get_int(o, "sliceMicroseconds"));
  return commands;
}

Napi::Object score_of(Napi::Env env, const TokenChoice& choice) {
  TokenScores scores;
  scores.add(choice.logprob, choice.top);
  return to_scores(env, scores);
}

Napi::Object to_report(Napi::Env env, const EngineReport& report) {
  std::vector<int64_t> started;
  std::vector<int64_t> tokens;
  for (const auto& start : report.started) started.insert(started.end(), {start.slot, start.cached});
  auto scores = Napi::Array::New(env);
  for (const auto& token : report.tokens) {
    if (token.scored) scores.Set(static_cast<uint32_t>(tokens.size()) / 2, score_of(env, token.choice));
    tokens.insert(tokens.end(), {token.slot, token.choice.token});
  }
  auto prompts = Napi::Array::New(env, report.prompts.size());
  for (uint32_t i = 0; i < report.prompts.size(); ++i) {
    auto item = Napi::Object::New(env);
    item.Set("slot", static_cast<double>(report.prompts[i].slot));
    item.Set("scores", to_scores(env, report.prompts[i].scores));
    prompts.Set(i, item);
  }
  auto ended = Napi::Array::New(env, report.ended.size());
  for (uint32_t i = 0; i < report.ended.size(); ++i) {
    const EngineReport::End& end = report.ended[i];
    auto item = Napi::Object::New(env);
    item.Set("slot", static_cast<double>(end.slot));
    item.Set("finishReason", reason_name(end.reason));
    if (!end.sequences.empty()) item.Set("sequences", to_sequences(env, end.sequences));
    if (end.token) {
      item.Set("token", static_cast<double>(end.token->choice.token));
      if (end.token->scored) item.Set("scores", score_of(env, end.token->choice));
    }
    if (end.error) item.Set("error", to_js_error(env, describe(end.error)).Value());
    ended.Set(i, item);
  }
  auto result = Napi::Object::New(env);
  result.Set("started", to_int_array(env, started));
  result.Set("tokens", to_int_array(env, tokens));
  result.Set("scores", scores);
  result.Set("prompts", prompts);
  result.Set("ended", ended);
  result.Set("steps", static_cast<double>(report.steps));
  result.Set("promptTokens", static_cast<double>(report.prompt_tokens));
  result.Set("promptCacheBytes", static_cast<double>(report.prompt_cache_bytes));
  result.Set("microseconds", std::chrono::duration<double, std::micro>(report.time).count());
  return result;
}

class RunWorker final : public ModelWorker {
 public:
  RunWorker(const std::shared_ptr<ModelHandle>& handle, std::shared_ptr<Engine> engine, const Napi::Object& commands,
            bool reports_tokens)
      : ModelWorker(handle, get_cancel(commands)),
        engine_(std::move(engine)),
        commands_(parse_commands(commands)),
        reports_tokens_(reports_tokens) {
    engine_->resume();
  }

 protected:
  void Work() override {
    report_ = engine_->run(model(), std::move(commands_), cancel(),
                           reports_tokens_ ? [this](EngineReport report) { Report(std::move(report)); }
                                           : std::function<void(EngineReport)>());
  }
  Napi::Value Result(Napi::Env env) override { return to_report(env, report_); }

 private:
  void Report(EngineReport report) {
    // Shared, because an event is copied on its way.
    auto sent = std::make_shared<const EngineReport>(std::move(report));
    Emit([sent = std::move(sent)](Napi::Env env) -> Napi::Value { return to_report(env, *sent); });
  }

  std::shared_ptr<Engine> engine_;
  EngineCommands commands_;
  bool reports_tokens_;
  EngineReport report_;
};

// Queued behind a run in progress; the memory is freed on the model's thread.
class DisposeEngineWorker final : public PromiseWorker {
 public:
  explicit DisposeEngineWorker(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}

 protected:
  void Execute() override { engine_.reset(); }
  Napi::Value Result(Napi::Env env) override { return env.Undefined(); }

 private:
  std::shared_ptr<Engine> engine_;
};

std::shared_ptr<EngineHandle> get_engine(const Napi::Value& value) {
  auto handle = get_handle<EngineHandle>(value);
  if (!handle->engine) throw CoreError("NEOX_DISPOSED", "The engine is disposed");
  return handle;
}

Napi::Value create_engine(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto o = info[1].As<Napi::Object>();
    auto handle = std::make_shared<EngineHandle>();
    handle->thread = get_handle<ModelHandle>(info[0])->thread;
    handle->engine =
        std::make_shared<Engine>(EngineOptions{get_int(o, "prefillTokens"), get_int(o, "promptCacheBytes")});
    return make_handle(info.Env(), std::move(handle));
  });
}

Napi::Value engine_run(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto handle = get_handle<ModelHandle>(info[0]);
    const auto engine = get_engine(info[1])->engine;
    const auto commands = info[2].As<Napi::Object>();
    const Napi::Value on_tokens = info[3];
    auto worker = std::make_unique<RunWorker>(handle, engine, commands, on_tokens.IsFunction());
    return ModelWorker::Queue(info.Env(), std::move(worker), on_tokens);
  });
}

Napi::Value interrupt_engine(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    get_engine(info[0])->engine->interrupt();
    return info.Env().Undefined();
  });
}

Napi::Value dispose_engine(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto handle = get_handle<EngineHandle>(info[0]);
    return PromiseWorker::Start(info.Env(), handle->thread,
                                std::make_unique<DisposeEngineWorker>(std::move(handle->engine)));
  });
}

}  // namespace

void export_engine_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("createEngine", Napi::Function::New(env, create_engine, "createEngine"));
  exports.Set("engineRun", Napi::Function::New(env, engine_run, "engineRun"));
  exports.Set("interruptEngine", Napi::Function::New(env, interrupt_engine, "interruptEngine"));
  exports.Set("disposeEngine", Napi::Function::New(env, dispose_engine, "disposeEngine"));
}

}  // namespace neox::binding

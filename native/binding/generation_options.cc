#include "binding/generation_options.h"

#include <cstring>
#include <string>

#include "binding/model_handle.h"
#include "binding/options.h"
#include "core/base/error.h"

namespace neox::binding {

std::vector<std::vector<int64_t>> parse_rows(const Napi::Object& options, int64_t shortest) {
  const auto ids = get_ids(options, "tokens");
  std::vector<std::vector<int64_t>> rows;
  size_t first = 0;
  for (const int64_t length : get_ids(options, "lengths")) {
    if (length < shortest || first + static_cast<size_t>(length) > ids.size())
      throw CoreError("NEOX_BAD_ARGUMENT", "Bad row lengths");
    rows.emplace_back(ids.begin() + static_cast<int64_t>(first), ids.begin() + static_cast<int64_t>(first) + length);
    first += static_cast<size_t>(length);
  }
  return rows;
}

std::vector<Past> parse_past(const Napi::Object& options, size_t rows) {
  if (has_value(options, "cache")) {
    std::vector<Past> past =
        get_handle<CacheHandle>(options.Get("cache"))->rows;  // copies: the caller's stays as it is
    if (past.size() != rows) throw CoreError("NEOX_BAD_ARGUMENT", "The cache has another number of rows");
    return past;
  }
  std::vector<Past> past(rows);
  const auto prefixes = get_array(options, "prefixes");
  for (uint32_t i = 0; i < rows; ++i) {
    const Napi::Value value = prefixes.Get(i);
    if (!value.IsNull() && !value.IsUndefined()) past[i].block = get_handle<KeyValueBlock>(value);
  }
  return past;
}

SamplingOptions parse_sampling(const Napi::Object& settings) {
  SamplingOptions o;
  o.temperature = get_number(settings, "temperature");
  o.top_k = get_int(settings, "topK");
  o.top_p = get_number(settings, "topP");
  o.top_p_rule = get_string(settings, "topPRule") == "rinna" ? TopPRule::kRinna : TopPRule::kHuggingFace;
  o.min_p = get_number(settings, "minP");
  o.typical_p = get_number(settings, "typicalP");
  o.seed = static_cast<uint64_t>(get_int(settings, "seed"));
  o.stream = static_cast<uint32_t>(get_int(settings, "stream"));
  const auto biased = get_ids(settings, "biasedIds");
  const auto biases = get_floats(settings, "biases");
  if (biased.size() != biases.size()) throw CoreError("NEOX_BAD_ARGUMENT", "biasedIds and biases differ in length");
  for (size_t i = 0; i < biased.size(); ++i) o.logit_bias.emplace_back(biased[i], biases[i]);
  o.repetition_penalty = get_number(settings, "repetitionPenalty");
  o.presence_penalty = get_number(settings, "presencePenalty");
  o.frequency_penalty = get_number(settings, "frequencyPenalty");
  o.no_repeat_ngram = get_int(settings, "noRepeatNgramSize");
  const auto words = get_array(settings, "badWords");
  for (uint32_t i = 0; i < words.Length(); ++i) o.bad_words.push_back(to_ids(words.Get(i), "badWords"));
  o.min_new_tokens = get_int(settings, "minNewTokens");
  o.end_ids = get_ids(settings, "endIds");
  o.logprobs = get_int(settings, "logprobs");
  return o;
}

BeamSettings parse_beams(const Napi::Object& settings) {
  BeamSettings beams;
  beams.beams = get_int(settings, "numBeams");
  beams.length_penalty = get_number(settings, "lengthPenalty");
  const std::string early = get_string(settings, "earlyStopping");
  if (early == "yes") beams.early_stopping = EarlyStopping::kYes;
  if (early == "never") beams.early_stopping = EarlyStopping::kNever;
  beams.returned = get_int(settings, "numReturnSequences");
  return beams;
}

const char* reason_name(FinishReason reason) { return reason == FinishReason::kStop ? "stop" : "length"; }

Napi::Array to_sequences(Napi::Env env, const std::vector<BeamResult>& results) {
  auto sequences = Napi::Array::New(env, results.size());
  for (uint32_t i = 0; i < results.size(); ++i) {
    auto sequence = Napi::Object::New(env);
    sequence.Set("tokens", to_int_array(env, results[i].tokens));
    sequence.Set("finishReason", reason_name(results[i].reason));
    sequence.Set("score", Napi::Number::New(env, static_cast<double>(results[i].score)));
    sequences.Set(i, sequence);
  }
  return sequences;
}

Napi::Object to_scores(Napi::Env env, const TokenScores& scores) {
  const auto floats = [&](const std::vector<float>& values) {
    auto array = Napi::Float32Array::New(env, values.size());
    if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(float));
    return array;
  };
  auto tokens = Napi::Int32Array::New(env, scores.top_tokens.size());
  if (!scores.top_tokens.empty())
    std::memcpy(tokens.Data(), scores.top_tokens.data(), scores.top_tokens.size() * sizeof(int32_t));
  auto object = Napi::Object::New(env);
  object.Set("logprobs", floats(scores.logprobs));
  object.Set("topTokens", tokens);
  object.Set("topLogprobs", floats(scores.top_logprobs));
  return object;
}

}  // namespace neox::binding

// Reading what the operations over rows have in common: tokens, what stands in front of them, and how to choose the
// next ones.
#pragma once

#include <cstdint>
#include <vector>

#include "binding/napi_setup.h"
#include "core/generation/beams.h"
#include "core/generation/logprobs.h"
#include "core/generation/sampling_options.h"
#include "core/kv/past.h"

namespace neox::binding {

// options.tokens: the rows' tokens behind one another; options.lengths: how many each row has, at least `shortest`.
std::vector<std::vector<int64_t>> parse_rows(const Napi::Object& options, int64_t shortest = 1);

// What stands in front of each row: the rows of options.cache, or, without one, options.prefixes, a prefix or null for
// each.
std::vector<Past> parse_past(const Napi::Object& options, size_t rows);

// The sampling part of GenerateRowSettings.
SamplingOptions parse_sampling(const Napi::Object& settings);

// BeamSettings of types/native.d.ts.
BeamSettings parse_beams(const Napi::Object& settings);

const char* reason_name(FinishReason reason);

// BeamResult[] of types/native.d.ts.
Napi::Array to_sequences(Napi::Env env, const std::vector<BeamResult>& results);

// TokenScores of types/native.d.ts.
Napi::Object to_scores(Napi::Env env, const TokenScores& scores);

}  // namespace neox::binding

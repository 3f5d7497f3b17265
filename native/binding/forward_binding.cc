// forward, generate, cacheLengths, freeCache, readCache.
#include "binding/forward_binding.h"

#include <ATen/ops/from_blob.h>

#include <utility>

#include "binding/model_handle.h"
#include "binding/options.h"
#include "core/error.h"

namespace neox::binding {
namespace {

// options.tokens: the rows' tokens behind one another; options.lengths: how many each row has.
std::vector<std::vector<int64_t>> parse_rows(const Napi::Object& options) {
  const auto ids = get_ids(options, "tokens");
  std::vector<std::vector<int64_t>> rows;
  size_t first = 0;
  for (const int64_t length : get_ids(options, "lengths")) {
    if (length < 1 || first + static_cast<size_t>(length) > ids.size())
      throw CoreError("NEOX_BAD_ARGUMENT", "Bad row lengths");
    rows.emplace_back(ids.begin() + static_cast<int64_t>(first), ids.begin() + static_cast<int64_t>(first) + length);
    first += static_cast<size_t>(length);
  }
  return rows;
}

// options.prefixes: one prefix handle or null for each row.
std::vector<std::shared_ptr<const Prefix>> parse_prefixes(const Napi::Object& options, size_t rows) {
  std::vector<std::shared_ptr<const Prefix>> prefixes(rows);
  const auto array = get_array(options, "prefixes");
  for (uint32_t i = 0; i < rows; ++i) {
    const Napi::Value value = array.Get(i);
    if (!value.IsNull() && !value.IsUndefined()) prefixes[i] = get_handle<Prefix>(value);
  }
  return prefixes;
}

class ForwardWorker final : public ModelWorker {
 public:
  ForwardWorker(const Napi::Object& options, const std::shared_ptr<ModelHandle>& handle)
      : ModelWorker(handle, get_cancel(options)),
        rows_(parse_rows(options)),
        logits_mode_(get_string(options, "logits")) {
    cache_ = std::make_shared<CacheHandle>();
    if (has_value(options, "cache")) {
      cache_->rows = get_handle<CacheHandle>(options.Get("cache"))->rows;  // a copy: the caller's cache stays as it is
      if (cache_->rows.size() != rows_.size())
        throw CoreError("NEOX_BAD_ARGUMENT", "The cache has another number of rows");
    } else {
      for (auto& prefix : parse_prefixes(options, rows_.size()))
        cache_->rows.push_back({std::move(prefix), nullptr, 0});
    }
  }

 protected:
  void Work() override {
    std::vector<int64_t> ids;
    std::vector<int64_t> last;
    std::vector<Row> batch;
    for (size_t i = 0; i < rows_.size(); ++i) {
      RowCache& cache = cache_->rows[i];
      batch.push_back(
          {static_cast<int64_t>(ids.size()), static_cast<int64_t>(rows_[i].size()), cache.prefix.get(), &cache});
      ids.insert(ids.end(), rows_[i].begin(), rows_[i].end());
      last.push_back(static_cast<int64_t>(ids.size()) - 1);
    }
    const auto device = model().options().device;
    const at::Tensor id_tensor = at::from_blob(ids.data(), {static_cast<int64_t>(ids.size())}, at::kLong).to(device);
    const at::Tensor hidden = model().forward(id_tensor, batch, cancel());
    if (logits_mode_ == "none") return;
    cancel().check();
    const at::Tensor index = at::from_blob(last.data(), {static_cast<int64_t>(last.size())}, at::kLong).to(device);
    logits_ = model().logits(logits_mode_ == "last" ? hidden.index_select(0, index) : hidden).to(at::kCPU);
  }

  Napi::Value Result(Napi::Env env) override {
    auto result = Napi::Object::New(env);
    result.Set("logits", logits_.defined() ? Napi::Value(to_float_array(env, logits_)) : env.Null());
    int64_t bytes = 0;
    for (const RowCache& row : cache_->rows) bytes += static_cast<int64_t>(row.storage->keys_values.nbytes());
    result.Set("cache", make_handle(env, cache_, bytes));
    return result;
  }

 private:
  std::vector<std::vector<int64_t>> rows_;
  std::string logits_mode_;
  std::shared_ptr<CacheHandle> cache_;
  at::Tensor logits_;
};

class GenerateWorker final : public ModelWorker {
 public:
  GenerateWorker(const Napi::Object& options, const std::shared_ptr<ModelHandle>& handle)
      : ModelWorker(handle, get_cancel(options)) {
    auto rows = parse_rows(options);
    auto prefixes = parse_prefixes(options, rows.size());
    const auto settings = get_array(options, "settings");
    for (uint32_t i = 0; i < rows.size(); ++i) {
      const auto o = settings.Get(i).As<Napi::Object>();
      GenerationRequest request;
      request.prompt = std::move(rows[i]);
      request.prefix = std::move(prefixes[i]);
      request.sampling.temperature = get_number(o, "temperature");
      request.sampling.top_k = get_int(o, "topK");
      request.sampling.top_p = get_number(o, "topP");
      request.sampling.seed = static_cast<uint64_t>(get_int(o, "seed"));
      request.sampling.end_ids = get_ids(o, "stopIds");
      request.max_new_tokens = get_int(o, "maxNewTokens");
      requests_.push_back(std::move(request));
    }
  }

 protected:
  void Work() override {
    results_ = generate(model(), requests_, cancel(), [this](int64_t row, int64_t token) {
      Emit([row, token](Napi::Env env) -> Napi::Value {
        auto event = Napi::Array::New(env, 2);
        event.Set(0U, Napi::Number::New(env, static_cast<double>(row)));
        event.Set(1U, Napi::Number::New(env, static_cast<double>(token)));
        return event;
      });
    });
  }

  Napi::Value Result(Napi::Env env) override {
    auto array = Napi::Array::New(env, results_.size());
    for (uint32_t i = 0; i < results_.size(); ++i) {
      auto result = Napi::Object::New(env);
      result.Set("tokens", to_int_array(env, results_[i].tokens));
      result.Set("finishReason", results_[i].reason == FinishReason::kStop ? "stop" : "length");
      array.Set(i, result);
    }
    return array;
  }

 private:
  std::vector<GenerationRequest> requests_;
  std::vector<GenerationResult> results_;
};

// Keys and values of one row in prefix order.
class ReadCacheWorker final : public ModelWorker {
 public:
  ReadCacheWorker(const std::shared_ptr<ModelHandle>& handle, RowCache row)
      : ModelWorker(handle, nullptr), row_(std::move(row)) {}

 protected:
  void Work() override { data_ = row_.read(model().config()); }
  Napi::Value Result(Napi::Env env) override { return to_float_array(env, data_); }

 private:
  RowCache row_;
  at::Tensor data_;
};

Napi::Value forward(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto handle = get_handle<ModelHandle>(info[0]);
    return ModelWorker::Queue(info.Env(), std::make_unique<ForwardWorker>(info[1].As<Napi::Object>(), handle));
  });
}

Napi::Value generate_text(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto handle = get_handle<ModelHandle>(info[0]);
    const auto options = info[1].As<Napi::Object>();
    return ModelWorker::Queue(info.Env(), std::make_unique<GenerateWorker>(options, handle), options.Get("onToken"));
  });
}

Napi::Value cache_lengths(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    std::vector<int64_t> lengths;
    for (const RowCache& row : get_handle<CacheHandle>(info[0])->rows) lengths.push_back(row.length);
    return to_int_array(info.Env(), lengths);
  });
}

Napi::Value free_cache(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    get_handle<CacheHandle>(info[0])->rows.clear();
    return info.Env().Undefined();
  });
}

Napi::Value read_cache(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto handle = get_handle<ModelHandle>(info[0]);
    const auto cache = get_handle<CacheHandle>(info[1]);
    const auto row = info[2].As<Napi::Number>().Int64Value();
    return ModelWorker::Queue(info.Env(),
                              std::make_unique<ReadCacheWorker>(handle, cache->rows.at(static_cast<size_t>(row))));
  });
}

}  // namespace

void export_forward_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("forward", Napi::Function::New(env, forward, "forward"));
  exports.Set("generate", Napi::Function::New(env, generate_text, "generate"));
  exports.Set("cacheLengths", Napi::Function::New(env, cache_lengths, "cacheLengths"));
  exports.Set("freeCache", Napi::Function::New(env, free_cache, "freeCache"));
  exports.Set("readCache", Napi::Function::New(env, read_cache, "readCache"));
}

}  // namespace neox::binding

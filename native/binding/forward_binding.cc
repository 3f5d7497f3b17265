// forward, and what there is to do with its caches: cacheLengths, cacheBytes, forkCache, freeCache, readCache.
#include "binding/forward_binding.h"

#include <optional>
#include <utility>

#include "binding/generation_options.h"
#include "binding/model_handle.h"
#include "binding/options.h"
#include "core/base/error.h"
#include "core/generation/batch.h"

namespace neox::binding {
namespace {

class ForwardWorker final : public ModelWorker {
 public:
  ForwardWorker(const Napi::Object& options, const std::shared_ptr<ModelHandle>& handle)
      : ModelWorker(handle, get_cancel(options)),
        rows_(parse_rows(options)),
        logits_mode_(get_string(options, "logits")) {
    cache_ = std::make_shared<CacheHandle>();
    cache_->rows = parse_past(options, rows_.size());
    if (has_value(options, "hiddenLayer")) layer_.emplace(HiddenLayer{get_int(options, "hiddenLayer"), {}});
  }

 protected:
  void Work() override {
    std::vector<RowInput> inputs;
    for (size_t i = 0; i < rows_.size(); ++i) inputs.push_back({&cache_->rows[i], &rows_[i]});
    const Wanted wanted = logits_mode_ == "all" ? Wanted::kAll : Wanted::kLast;
    const at::Tensor hidden = hidden_states(model(), inputs, wanted, cancel(), layer_ ? &*layer_ : nullptr);
    if (layer_) layer_->states = layer_->states.to(at::kCPU, at::kFloat);
    if (logits_mode_ == "none") return;
    cancel().check();
    logits_ = model().logits(hidden).to(at::kCPU);
  }

  Napi::Value Result(Napi::Env env) override {
    auto result = Napi::Object::New(env);
    result.Set("logits", logits_.defined() ? Napi::Value(to_float_array(env, logits_)) : env.Null());
    result.Set("hiddenStates", layer_ ? Napi::Value(to_float_array(env, layer_->states)) : env.Null());
    result.Set("cache", make_handle(env, cache_, cache_->bytes()));
    return result;
  }

 private:
  std::vector<std::vector<int64_t>> rows_;
  std::string logits_mode_;
  std::shared_ptr<CacheHandle> cache_;
  std::optional<HiddenLayer> layer_;
  at::Tensor logits_;
};

// Keys and values of one row in prefix order.
class ReadCacheWorker final : public ModelWorker {
 public:
  ReadCacheWorker(const std::shared_ptr<ModelHandle>& handle, Past row)
      : ModelWorker(handle, nullptr), row_(std::move(row)) {}

 protected:
  void Work() override { data_ = row_.read(model().kv_shape()); }
  Napi::Value Result(Napi::Env env) override { return to_float_array(env, data_); }

 private:
  Past row_;
  at::Tensor data_;
};

Napi::Value forward(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto handle = get_handle<ModelHandle>(info[0]);
    return ModelWorker::Queue(info.Env(), std::make_unique<ForwardWorker>(info[1].As<Napi::Object>(), handle));
  });
}

Napi::Value cache_lengths(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    std::vector<int64_t> lengths;
    for (const Past& row : get_handle<CacheHandle>(info[0])->rows) lengths.push_back(row.length);
    return to_int_array(info.Env(), lengths);
  });
}

Napi::Value cache_bytes(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    return Napi::Number::New(info.Env(), static_cast<double>(get_handle<CacheHandle>(info[0])->bytes()));
  });
}

// forkCache(cache, rows, lengths): a cache of these rows of another, each cut to a length. Nothing is copied until one
// goes on.
Napi::Value fork_cache(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto source = get_handle<CacheHandle>(info[0]);
    const auto rows = to_ids(info[1], "rows");
    const auto lengths = to_ids(info[2], "lengths");
    auto fork = std::make_shared<CacheHandle>();
    for (size_t i = 0; i < rows.size(); ++i) {
      Past row = source->rows.at(static_cast<size_t>(rows[i]));
      if (lengths.at(i) < 0 || lengths[i] > row.length) throw CoreError("NEOX_BAD_ARGUMENT", "Bad lengths of a fork");
      row.length = lengths[i];
      if (row.length == 0) row.storage = nullptr;
      fork->rows.push_back(std::move(row));
    }
    return make_handle(info.Env(), fork);  // its memory is reported by the cache that it shares it with
  });
}

Napi::Value free_cache(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    get_handle<CacheHandle>(info[0])->rows.clear();
    release_bytes<CacheHandle>(info[0]);
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
  exports.Set("cacheLengths", Napi::Function::New(env, cache_lengths, "cacheLengths"));
  exports.Set("cacheBytes", Napi::Function::New(env, cache_bytes, "cacheBytes"));
  exports.Set("forkCache", Napi::Function::New(env, fork_cache, "forkCache"));
  exports.Set("freeCache", Napi::Function::New(env, free_cache, "freeCache"));
  exports.Set("readCache", Napi::Function::New(env, read_cache, "readCache"));
}

}  // namespace neox::binding

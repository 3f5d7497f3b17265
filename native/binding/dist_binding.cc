// Process groups: the store and the exchanges of a training on several ranks.
#include "binding/dist_binding.h"

#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>

#include <cstring>
#include <functional>
#include <utility>

#include "binding/model_handle.h"
#include "binding/options.h"
#include "core/dist/ordered_sum.h"
#include "core/dist/process_group.h"

namespace neox::binding {

// Exchanges wait for other ranks, for minutes where one is slow: they have a thread of their own, and the store
// another, which says meanwhile why they wait.
struct GroupHandle {
  std::shared_ptr<ProcessGroup> group;
  std::shared_ptr<WorkerThread> exchanges = WorkerThread::create();
  std::shared_ptr<WorkerThread> store = WorkerThread::create();
  std::shared_ptr<CancelFlag> left = std::make_shared<CancelFlag>();
};

NEOX_HANDLE(GroupHandle, "group", 0x5d0e7f13c8a94b26, 0x9b71d2e46f3a08c5);

namespace {

template <typename T>
class GroupTask final : public PromiseWorker {
 public:
  using WorkFunction = std::function<T(GroupHandle&, const CancelFlag&)>;
  using ResultFunction = std::function<Napi::Value(Napi::Env, const T&)>;
  GroupTask(std::shared_ptr<GroupHandle> handle, std::shared_ptr<CancelFlag> cancel, WorkFunction work,
            ResultFunction result)
      : PromiseWorker(std::move(cancel)),
        handle_(std::move(handle)),
        work_(std::move(work)),
        result_(std::move(result)) {}

 protected:
  void Execute() override {
    const c10::InferenceMode guard;
    value_ = work_(*handle_, cancel());
  }
  Napi::Value Result(Napi::Env env) override { return result_(env, value_); }

 private:
  std::shared_ptr<GroupHandle> handle_;
  WorkFunction work_;
  ResultFunction result_;
  T value_{};
};

template <typename T>
Napi::Value on_store(const Napi::CallbackInfo& info, typename GroupTask<T>::WorkFunction work,
                     typename GroupTask<T>::ResultFunction result) {
  const auto handle = get_handle<GroupHandle>(info[0]);
  return PromiseWorker::Start(
      info.Env(), handle->store,
      std::make_unique<GroupTask<T>>(handle, std::make_shared<CancelFlag>(), std::move(work), std::move(result)));
}

// Nothing but leaving the group ends an exchange: a rank that gives up by itself would leave the others waiting.
template <typename T>
Napi::Value exchange(const Napi::CallbackInfo& info, typename GroupTask<T>::WorkFunction work,
                     typename GroupTask<T>::ResultFunction result) {
  const auto handle = get_handle<GroupHandle>(info[0]);
  return PromiseWorker::Start(info.Env(), handle->exchanges,
                              std::make_unique<GroupTask<T>>(handle, handle->left, std::move(work), std::move(result)));
}

Napi::Value nothing(Napi::Env env, const bool&) { return env.Undefined(); }

at::Tensor floats_of(const Napi::Value& value, const char* key) {
  const auto values = to_floats(value, key);
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kFloat);
  std::memcpy(tensor.mutable_data_ptr<float>(), values.data(), values.size() * sizeof(float));
  return tensor;
}

Napi::Value open_group(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto o = info[0].As<Napi::Object>();
    GroupOptions options;
    options.rank = static_cast<int>(get_int(o, "rank"));
    options.size = static_cast<int>(get_int(o, "size"));
    options.host = get_string(o, "host");
    options.port = static_cast<uint16_t>(get_int(o, "port"));
    options.hosts_store = get_bool(o, "hostsStore");
    if (has_value(o, "interface")) options.interface = get_string(o, "interface");
    options.scope = get_string(o, "scope");
    options.timeout = get_number(o, "timeout");
    const auto handle = std::make_shared<GroupHandle>();
    return PromiseWorker::Start(info.Env(), handle->store,
                                std::make_unique<GroupTask<bool>>(
                                    handle, get_cancel(o),
                                    [options](GroupHandle& self, const CancelFlag& cancel) {
                                      self.group = ProcessGroup::open(options, cancel);
                                      return true;
                                    },
                                    [handle](Napi::Env env, const bool&) { return make_handle(env, handle); }));
  });
}

Napi::Value connect_group(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto handle = get_handle<GroupHandle>(info[0]);
    return PromiseWorker::Start(info.Env(), handle->exchanges,
                                std::make_unique<GroupTask<bool>>(
                                    handle, get_cancel(info[1].As<Napi::Object>()),
                                    [](GroupHandle& self, const CancelFlag& cancel) {
                                      self.group->connect(cancel);
                                      return true;
                                    },
                                    nothing));
  });
}

Napi::Value leave_group(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto handle = get_handle<GroupHandle>(info[0]);
    handle->left->cancel();
    // Not the flag that has just been set: this is to run.
    return PromiseWorker::Start(info.Env(), handle->exchanges,
                                std::make_unique<GroupTask<bool>>(
                                    handle, std::make_shared<CancelFlag>(),
                                    [](GroupHandle& self, const CancelFlag&) {
                                      self.group->leave();
                                      return true;
                                    },
                                    nothing));
  });
}

Napi::Value group_set(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const std::string key = info[1].As<Napi::String>();
    const std::string value = info[2].As<Napi::String>();
    return on_store<bool>(
        info,
        [key, value](GroupHandle& self, const CancelFlag&) {
          self.group->set(key, value);
          return true;
        },
        nothing);
  });
}

Napi::Value group_get(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const std::string key = info[1].As<Napi::String>();
    return on_store<std::optional<std::string>>(
        info, [key](GroupHandle& self, const CancelFlag&) { return self.group->get(key); },
        [](Napi::Env env, const std::optional<std::string>& value) -> Napi::Value {
          if (!value) return env.Null();
          return Napi::String::New(env, *value);
        });
  });
}

Napi::Value group_add(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const std::string key = info[1].As<Napi::String>();
    const int64_t amount = info[2].As<Napi::Number>().Int64Value();
    return on_store<int64_t>(
        info, [key, amount](GroupHandle& self, const CancelFlag&) { return self.group->add(key, amount); },
        [](Napi::Env env, const int64_t& sum) -> Napi::Value {
          return Napi::Number::New(env, static_cast<double>(sum));
        });
  });
}

Napi::Value group_gather(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    if (!info[1].IsTypedArray() || info[1].As<Napi::TypedArray>().TypedArrayType() != napi_float64_array)
      throw to_js_error(info.Env(), {"NEOX_BAD_ARGUMENT", "Expected a Float64Array for values"});
    const auto values = info[1].As<Napi::Float64Array>();
    const at::Tensor tensor = at::empty({static_cast<int64_t>(values.ElementLength())}, at::kDouble);
    std::memcpy(tensor.mutable_data_ptr<double>(), values.Data(), values.ByteLength());
    return exchange<at::Tensor>(
        info, [tensor](GroupHandle& self, const CancelFlag& cancel) { return self.group->all_gather(tensor, cancel); },
        [](Napi::Env env, const at::Tensor& all) -> Napi::Value {
          auto result = Napi::Float64Array::New(env, all.numel());
          std::memcpy(result.Data(), all.const_data_ptr<double>(), result.ByteLength());
          return result;
        });
  });
}

Napi::Value group_broadcast(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const at::Tensor tensor = floats_of(info[1], "values");
    const int root = info[2].As<Napi::Number>().Int32Value();
    return exchange<at::Tensor>(
        info,
        [tensor, root](GroupHandle& self, const CancelFlag& cancel) {
          self.group->broadcast(tensor, root, cancel);
          return tensor;
        },
        [](Napi::Env env, const at::Tensor& values) -> Napi::Value { return to_float_array(env, values); });
  });
}

Napi::Value share_prefix(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto trainer = get_handle<Trainer>(info[1]);
    return exchange<bool>(
        info,
        [trainer](GroupHandle& self, const CancelFlag& cancel) {
          self.group->broadcast(trainer->prefix_values(), 0, cancel);
          return true;
        },
        nothing);
  });
}

Napi::Value sum_lanes(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto trainer = get_handle<Trainer>(info[1]);
    const auto o = info[2].As<Napi::Object>();
    const int64_t lanes = get_int(o, "lanes");
    const double loss = get_number(o, "loss");
    const int64_t tokens = get_int(o, "tokens");
    return exchange<bool>(
        info,
        [trainer, lanes, loss, tokens](GroupHandle& self, const CancelFlag& cancel) {
          std::vector<at::Tensor> mine;
          for (const Lane& lane : trainer->lanes()) mine.push_back(lane.gradient.to(at::kCPU).contiguous().view({-1}));
          ProcessGroup& group = *self.group;
          const auto bounds = equal_parts(trainer->prefix_values().numel(), group.size());
          const at::Tensor part = ordered_sum(group, mine, lanes, bounds, cancel);
          const at::Tensor sum = gather_parts(group, part, bounds, cancel);
          if (sum.defined()) {
            trainer->set_sum(sum, loss, tokens);
          } else {
            trainer->clear();
          }
          return true;
        },
        nothing);
  });
}

}  // namespace

void export_dist_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("openGroup", Napi::Function::New(env, open_group, "openGroup"));
  exports.Set("connectGroup", Napi::Function::New(env, connect_group, "connectGroup"));
  exports.Set("leaveGroup", Napi::Function::New(env, leave_group, "leaveGroup"));
  exports.Set("groupSet", Napi::Function::New(env, group_set, "groupSet"));
  exports.Set("groupGet", Napi::Function::New(env, group_get, "groupGet"));
  exports.Set("groupAdd", Napi::Function::New(env, group_add, "groupAdd"));
  exports.Set("groupGather", Napi::Function::New(env, group_gather, "groupGather"));
  exports.Set("groupBroadcast", Napi::Function::New(env, group_broadcast, "groupBroadcast"));
  exports.Set("sharePrefix", Napi::Function::New(env, share_prefix, "sharePrefix"));
  exports.Set("sumLanes", Napi::Function::New(env, sum_lanes, "sumLanes"));
}

}  // namespace neox::binding

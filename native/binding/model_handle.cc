#include "binding/model_handle.h"

#include <c10/core/InferenceMode.h>

#include <set>
#include <utility>

#include "binding/options.h"
#include "core/base/error.h"

namespace neox::binding {

int64_t CacheHandle::bytes() const {
  std::set<const KeyValueStorage*> seen;
  int64_t bytes = 0;
  for (const Past& row : rows) {
    if (row.storage && seen.insert(row.storage.get()).second)
      bytes += static_cast<int64_t>(row.storage->keys_values.nbytes());
  }
  return bytes;
}

Napi::Error wrong_handle(Napi::Env env, const char* name) {
  std::string message("Invalid ");
  message.append(name).append(" handle");
  return to_js_error(env, {"NEOX_BAD_ARGUMENT", message});
}

std::shared_ptr<CancelFlag> get_cancel(const Napi::Object& options) {
  return has_value(options, "cancel") ? get_handle<CancelFlag>(options.Get("cancel")) : nullptr;
}

ModelWorker::ModelWorker(std::shared_ptr<ModelHandle> handle, std::shared_ptr<CancelFlag> cancel)
    : PromiseWorker(std::move(cancel)), handle_(std::move(handle)), model_(handle_->model) {
  if (!model_) throw CoreError("NEOX_DISPOSED", "The model is disposed");
}

void ModelWorker::Execute() {
  const c10::InferenceMode guard;
  Work();
}

Napi::Value ModelWorker::Queue(Napi::Env env, std::unique_ptr<ModelWorker> worker, const Napi::Value& on_event) {
  const auto thread = worker->handle_->thread;
  return Start(env, thread, std::move(worker), on_event);
}

}  // namespace neox::binding

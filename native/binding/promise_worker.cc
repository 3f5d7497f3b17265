#include "binding/promise_worker.h"

#include <optional>
#include <set>
#include <unordered_map>
#include <utility>

namespace neox::binding {

// One running operation. Made and destroyed on the JavaScript thread; the worker thread uses it until it has sent
// `done`.
struct PromiseWorker::Operation {
  Napi::Env env;
  Napi::Promise::Deferred deferred;
  Napi::FunctionReference on_event;
  std::unique_ptr<PromiseWorker> worker;
  napi_threadsafe_function tsfn = nullptr;
  std::optional<ErrorInfo> error;

  std::mutex mutex;
  std::condition_variable executed_changed;
  bool executed = false;   // the worker thread will not touch this object any more
  bool abandoned = false;  // the environment is going: nobody will read messages

  explicit Operation(Napi::Env environment) : env(environment), deferred(Napi::Promise::Deferred::New(environment)) {}

  struct Message {
    Event event;  // empty: the operation is done
  };

  static void OnMessage(napi_env raw_env, napi_value /*callback*/, void* context, void* data) {
    std::unique_ptr<Message> message(static_cast<Message*>(data));
    auto* operation = static_cast<Operation*>(context);
    if (raw_env == nullptr) return;  // the environment is being torn down: only free the payload
    try {
      Napi::Env env(raw_env);
      Napi::HandleScope scope(env);
      if (message->event) {
        operation->Deliver(env, message->event);
      } else {
        operation->Settle(env);
      }
    } catch (const Napi::Error&) {
      // A worker that is being terminated: every call fails, and there is nobody to tell. Thrown on, it would end the
      // process.
    }
  }

  void Deliver(Napi::Env environment, const Event& event) {
    try {
      on_event.Call({event(environment)});
    } catch (const Napi::Error& thrown) {
      // A callback that throws stops the work, and its error is what the caller sees.
      worker->cancel_->cancel();
      if (!thrown_by_callback) thrown_by_callback = Napi::Persistent(thrown.Value());
    }
  }

  void Settle(Napi::Env environment) {
    { std::lock_guard<std::mutex> wait_until_run_returns(mutex); }
    napi_remove_env_cleanup_hook(environment, OnTeardown, this);
    Unlist();
    try {
      Answer(environment);
    } catch (const Napi::Error&) {
      // The environment ends; what is left has to be freed all the same.
    }
    worker.reset();
    napi_release_threadsafe_function(tsfn, napi_tsfn_release);  // its finalizer deletes this
  }

  void Answer(Napi::Env environment) {
    try {
      if (thrown_by_callback) {
        deferred.Reject(thrown_by_callback->Value());
      } else if (error) {
        deferred.Reject(to_js_error(environment, *error).Value());
      } else {
        deferred.Resolve(worker->Result(environment));
      }
    } catch (const Napi::Error& thrown) {
      deferred.Reject(thrown.Value());
    } catch (...) {
      deferred.Reject(to_js_error(environment, describe(std::current_exception())).Value());
    }
  }

  static void OnFinalize(napi_env /*env*/, void* /*data*/, void* context) { delete static_cast<Operation*>(context); }

  static void OnTeardown(void* data) {
    auto* operation = static_cast<Operation*>(data);
    // All of them before the first is waited for: hooks run from the last operation to the first, and the last one
    // waits in the queue behind one that runs, for minutes, until that is over.
    CancelAll(operation->env);
    std::unique_lock<std::mutex> lock(operation->mutex);
    operation->abandoned = true;
    operation->executed_changed.wait(lock, [&] { return operation->executed; });
  }

  // Of each environment those that are not settled. An environment's own are touched by its thread alone.
  static inline std::mutex pending_mutex;
  static inline std::unordered_map<napi_env, std::set<Operation*>> pending;

  void List() {
    std::lock_guard<std::mutex> lock(pending_mutex);
    pending[env].insert(this);
  }

  void Unlist() {
    std::lock_guard<std::mutex> lock(pending_mutex);
    const auto own = pending.find(env);
    if (own == pending.end()) return;
    own->second.erase(this);
    if (own->second.empty()) pending.erase(own);
  }

  static void CancelAll(napi_env environment) {
    std::lock_guard<std::mutex> lock(pending_mutex);
    const auto own = pending.find(environment);
    if (own == pending.end()) return;
    for (Operation* operation : own->second) operation->worker->cancel_->cancel();
    pending.erase(own);
  }

  void Send(Event event) {
    auto message = std::make_unique<Message>(Message{std::move(event)});
    if (napi_call_threadsafe_function(tsfn, message.get(), napi_tsfn_nonblocking) == napi_ok) message.release();
  }

  void Run() {
    worker->operation_ = this;
    try {
      worker->cancel_->check();
      worker->Execute();
    } catch (...) {
      error = describe(std::current_exception());
    }
    std::lock_guard<std::mutex> lock(mutex);
    if (!abandoned) Send(Event());
    executed = true;
    executed_changed.notify_all();
  }

  std::optional<Napi::ObjectReference> thrown_by_callback;
};

PromiseWorker::PromiseWorker(std::shared_ptr<CancelFlag> cancel)
    : cancel_(cancel ? std::move(cancel) : std::make_shared<CancelFlag>()) {}

void PromiseWorker::Emit(Event event) {
  if (operation_ == nullptr || operation_->on_event.IsEmpty()) return;
  std::lock_guard<std::mutex> lock(operation_->mutex);
  if (!operation_->abandoned) operation_->Send(std::move(event));
}

Napi::Value PromiseWorker::Start(Napi::Env env, const std::shared_ptr<WorkerThread>& thread,
                                 std::unique_ptr<PromiseWorker> worker, const Napi::Value& on_event) {
  auto operation = std::make_unique<Operation>(env);
  operation->worker = std::move(worker);
  if (!on_event.IsEmpty() && on_event.IsFunction())
    operation->on_event = Napi::Persistent(on_event.As<Napi::Function>());
  const Napi::String name = Napi::String::New(env, "neox-prefix");
  const napi_status status =
      napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, Operation::OnFinalize,
                                      operation.get(), Operation::OnMessage, &operation->tsfn);
  if (status != napi_ok) throw Napi::Error::New(env, "Could not create a thread-safe function");
  Operation* raw = operation.release();
  raw->List();
  napi_add_env_cleanup_hook(env, Operation::OnTeardown, raw);
  const Napi::Promise promise = raw->deferred.Promise();
  thread->post([raw] { raw->Run(); });
  return promise;
}

}  // namespace neox::binding

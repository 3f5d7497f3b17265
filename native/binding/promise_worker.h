// Asynchronous native work. PromiseWorker is the one owner of a Deferred and of a thread-safe function; subclasses say
// what to do off the JavaScript thread (`Execute`) and how to hand the result over (`Result`).
//
// Rules, each of which was a crash somewhere before it was a rule:
//  - Execute() contains no Napi call: inputs are copied or pinned in the constructor.
//  - An event's payload is freed also when the queue refuses it.
//  - The thread-safe function is touched by the worker thread only while its environment lives: an environment that is
//    torn down cancels the work and waits for it, in a clean-up hook that runs before the thread-safe function's own.
//  - The thread-safe function stays referenced until the promise is settled: a program that only awaits must not exit.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "binding/errors.h"
#include "binding/napi_setup.h"
#include "core/base/cancel.h"
#include "core/base/worker_thread.h"

namespace neox::binding {

class PromiseWorker {
 public:
  explicit PromiseWorker(std::shared_ptr<CancelFlag> cancel = nullptr);
  virtual ~PromiseWorker() = default;
  PromiseWorker(const PromiseWorker&) = delete;
  PromiseWorker& operator=(const PromiseWorker&) = delete;

  // Queues the work on a thread; `on_event` (may be empty) is called on the JavaScript thread for each Emit().
  static Napi::Value Start(Napi::Env env, const std::shared_ptr<WorkerThread>& thread,
                           std::unique_ptr<PromiseWorker> worker, const Napi::Value& on_event = Napi::Value());

 protected:
  // On the worker thread. Polls cancel() between units of work.
  virtual void Execute() = 0;
  // On the JavaScript thread, after Execute() returned.
  virtual Napi::Value Result(Napi::Env env) = 0;

  // Makes the argument of the event callback, on the JavaScript thread.
  using Event = std::function<Napi::Value(Napi::Env)>;
  // On the worker thread: sends an event. Does nothing when nobody listens.
  void Emit(Event event);

  const CancelFlag& cancel() const { return *cancel_; }
  // Keeps a JavaScript value (a typed array whose memory Execute() reads, say) alive until the promise is settled.
  void Pin(const Napi::Object& value) { pinned_.push_back(Napi::Persistent(value)); }

 private:
  struct Operation;
  std::shared_ptr<CancelFlag> cancel_;
  std::vector<Napi::ObjectReference> pinned_;
  Operation* operation_ = nullptr;  // set while Execute() runs
};

}  // namespace neox::binding

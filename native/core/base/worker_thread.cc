#include "core/base/worker_thread.h"

#include <chrono>
#include <utility>
#include <vector>

#include "core/base/cancel.h"

namespace neox {

struct WorkerThread::State {
  std::mutex mutex;
  std::condition_variable wake;   // a job was posted, or the thread shall end
  std::condition_variable ended;  // the thread has left its loop
  std::deque<std::function<void()>> jobs;
  bool closing = false;
  bool finished = false;
};

namespace {

struct Registry {
  std::mutex mutex;
  std::vector<std::weak_ptr<void>> states;  // of every thread that may still run
};

// Never destroyed: stop_all() runs at exit, when a static object made after it was registered is gone already.
Registry& registry() {
  static auto* const instance = new Registry();
  return *instance;
}

}  // namespace

std::shared_ptr<WorkerThread> WorkerThread::create(std::function<void()> on_start) {
  auto state = std::make_shared<State>();
  {
    std::lock_guard<std::mutex> lock(registry().mutex);
    std::erase_if(registry().states, [](const std::weak_ptr<void>& weak) { return weak.expired(); });
    registry().states.push_back(state);
  }
  std::thread([state, start = std::move(on_start)] { run(state, start); }).detach();
  return std::shared_ptr<WorkerThread>(new WorkerThread(state));
}

WorkerThread::~WorkerThread() {
  std::lock_guard<std::mutex> lock(state_->mutex);
  state_->closing = true;
  state_->wake.notify_all();
}

void WorkerThread::post(std::function<void()> job) {
  std::lock_guard<std::mutex> lock(state_->mutex);
  state_->jobs.push_back(std::move(job));
  state_->wake.notify_one();
}

void WorkerThread::run(const std::shared_ptr<State>& state, const std::function<void()>& on_start) {
  if (on_start) on_start();
  std::unique_lock<std::mutex> lock(state->mutex);
  for (;;) {
    state->wake.wait(lock, [&] { return !state->jobs.empty() || state->closing; });
    if (state->jobs.empty()) break;
    auto job = std::move(state->jobs.front());
    state->jobs.pop_front();
    lock.unlock();
    job();
    job = nullptr;  // what the job captured may be large: free it before sleeping, and outside of the lock
    lock.lock();
  }
  state->finished = true;
  state->ended.notify_all();
}

void WorkerThread::stop_all() {
  CancelFlag::shutting_down.store(true);
  std::vector<std::weak_ptr<void>> states;
  {
    std::lock_guard<std::mutex> lock(registry().mutex);
    states = registry().states;
  }
  for (const auto& weak : states) {
    const auto state = std::static_pointer_cast<State>(weak.lock());
    if (!state) continue;
    std::unique_lock<std::mutex> lock(state->mutex);
    // The jobs still queued run, and end at their first look at the flag: whoever waits for one is told.
    state->closing = true;
    state->wake.notify_all();
    state->ended.wait_for(lock, std::chrono::seconds(10), [&] { return state->finished; });
  }
}

}  // namespace neox

// One thread with a queue of jobs, run in the order they were posted. A model owns one: its operations are serial, and
// nothing heavy runs on the thread that posts.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace neox {

class WorkerThread {
 public:
  // `on_start` runs first on the new thread (for example to set its number of compute threads).
  static std::shared_ptr<WorkerThread> create(std::function<void()> on_start = {});
  // Lets the queue run dry, then ends the thread. Never blocks on the thread itself: the last reference to a model may
  // be dropped by one of its own jobs.
  ~WorkerThread();
  WorkerThread(const WorkerThread&) = delete;
  WorkerThread& operator=(const WorkerThread&) = delete;

  void post(std::function<void()> job);

  // Called when the process exits: cancels everything and waits until no job runs. Without it a job could still be
  // inside libtorch while libtorch's static objects are destroyed.
  static void stop_all();

 private:
  struct State;
  explicit WorkerThread(std::shared_ptr<State> state) : state_(std::move(state)) {}
  static void run(const std::shared_ptr<State>& state, const std::function<void()>& on_start);

  std::shared_ptr<State> state_;
};

}  // namespace neox

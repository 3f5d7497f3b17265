#include "core/dist/abandonable.h"

#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

namespace neox {

namespace {

constexpr auto kLook = std::chrono::milliseconds(20);  // between two looks at the flag
// A call that is about to end is waited for also when the flag is set: at the end of the process nobody should be
// inside of libtorch.
constexpr auto kGrace = std::chrono::milliseconds(200);

}  // namespace

struct AbandonableCalls::Call {
  std::mutex mutex;
  std::condition_variable ended;
  bool done = false;
  std::exception_ptr error;

  bool wait(std::chrono::steady_clock::time_point deadline, const CancelFlag& cancel) {
    std::unique_lock<std::mutex> lock(mutex);
    const auto is_done = [&] { return done; };
    while (!ended.wait_for(lock, kLook, is_done)) {
      if (cancel.cancelled() && !ended.wait_for(lock, kGrace, is_done)) throw Cancelled();
      if (!done && std::chrono::steady_clock::now() >= deadline) return false;
    }
    return true;
  }
};

bool AbandonableCalls::run(const std::function<void()>& body, std::chrono::milliseconds timeout,
                           const CancelFlag& cancel) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  if (unfinished_ && !unfinished_->wait(deadline, cancel)) return false;
  const auto call = std::make_shared<Call>();
  unfinished_ = call;
  std::thread([call, body] {
    std::exception_ptr error;
    try {
      body();
    } catch (...) {
      error = std::current_exception();
    }
    std::lock_guard<std::mutex> lock(call->mutex);
    call->error = error;
    call->done = true;
    call->ended.notify_all();
  }).detach();
  if (!call->wait(deadline, cancel)) return false;
  unfinished_.reset();
  if (call->error) std::rethrow_exception(call->error);
  return true;
}

}  // namespace neox

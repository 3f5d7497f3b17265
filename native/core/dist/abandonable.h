// Calls into libraries that may never return.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "core/base/cancel.h"

namespace neox {

// Runs one call after the other, each on a thread of its own that is left behind where the call does not return: what
// it has captured must own all that it touches. Not for several threads at a time.
class AbandonableCalls {
 public:
  // Runs `body` and waits for it, and before for a call that was given up and still runs. Returns whether `body` came
  // to its end within `timeout`; throws what it threw, and Cancelled.
  bool run(const std::function<void()>& body, std::chrono::milliseconds timeout, const CancelFlag& cancel);

 private:
  struct Call;
  std::shared_ptr<Call> unfinished_;
};

}  // namespace neox

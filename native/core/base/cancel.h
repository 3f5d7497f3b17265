// Cancelling long work: a flag set on one thread and polled on another, between layers, tokens and files.
#pragma once

#include <atomic>
#include <memory>

#include "core/base/error.h"

namespace neox {

class CancelFlag {
 public:
  void cancel() { flag_.store(true, std::memory_order_relaxed); }
  bool cancelled() const {
    return flag_.load(std::memory_order_relaxed) || shutting_down.load(std::memory_order_relaxed);
  }
  // Throws Cancelled when the flag is set.
  void check() const;

  // Set once, when the process exits while work is in flight: every flag then reads as set.
  static inline std::atomic<bool> shutting_down{false};

 private:
  std::atomic<bool> flag_{false};
};

// Not an error of its own: the caller who set the flag knows the reason.
class Cancelled : public CoreError {
 public:
  Cancelled() : CoreError("NEOX_CANCELLED", "Cancelled") {}
};

inline void CancelFlag::check() const {
  if (cancelled()) throw Cancelled();
}

}  // namespace neox

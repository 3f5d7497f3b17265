// The processes of one training, on c10d: a key-value store (TCPStore) where they meet, and exchanges of tensors
// between all of them (ProcessGroupGloo). Both are in libtorch.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "core/base/cancel.h"
#include "core/dist/abandonable.h"

namespace c10d {
class ProcessGroupGloo;
class Work;
}  // namespace c10d

namespace neox {

struct GroupOptions {
  int rank = 0;
  int size = 1;
  std::string host;  // where the store is
  uint16_t port = 0;
  bool hosts_store = false;  // this process opens the store, at the address of `host` or of `interface` alone
  std::string interface;     // the network interface of the exchanges; empty: the one that reaches `host`
  std::string scope;         // stands in front of all keys
  double timeout = 600.0;    // seconds, of the meeting and of each exchange
};

// Ranks call the same exchanges in the same order with tensors of equal sizes: Gloo ends the process where sizes
// differ.
class ProcessGroup {
 public:
  // Opens the store, or waits for it. Throws NEOX_RENDEZVOUS.
  static std::shared_ptr<ProcessGroup> open(const GroupOptions& options, const CancelFlag& cancel);
  ~ProcessGroup();
  ProcessGroup(const ProcessGroup&) = delete;
  ProcessGroup& operator=(const ProcessGroup&) = delete;

  int rank() const { return options_.rank; }
  int size() const { return options_.size; }

  // The store's operations, for one thread at a time. They throw NEOX_PEER_LOST: "The store is gone" where it is, "The
  // store does not answer" where nothing came within a second, and it may be asked again.
  void set(const std::string& key, const std::string& value);
  std::optional<std::string> get(const std::string& key);  // nothing where the key is not set
  int64_t add(const std::string& key, int64_t amount);     // returns the sum

  // Connects every rank with every other. All have to be there already. Throws NEOX_RENDEZVOUS.
  void connect(const CancelFlag& cancel);

  // Exchanges, of contiguous tensors on the CPU. They throw NEOX_PEER_LOST where a rank ended or was silent for
  // `timeout`. Whatever they throw, the group is of no more use.

  // `tensor` gets the values that it has on rank `root`.
  void broadcast(at::Tensor tensor, int root, const CancelFlag& cancel);
  // [n] of each rank -> [size, n]
  at::Tensor all_gather(at::Tensor tensor, const CancelFlag& cancel);
  // Rank r sends `counts_in[s]` elements of `input` to rank s and gets `counts_out[s]` from it, both in order of rank.
  void all_to_all(at::Tensor output, at::Tensor input, std::vector<int64_t> counts_out, std::vector<int64_t> counts_in,
                  const CancelFlag& cancel);

  // Closes the connections, so that ranks that wait for this one learn that it is gone. With it goes the store, where
  // it is here.
  void leave();

 private:
  struct Links;  // what c10d has
  using Start = std::function<c10::intrusive_ptr<c10d::Work>(c10d::ProcessGroupGloo&)>;
  explicit ProcessGroup(const GroupOptions& options);
  // Starts an exchange of `tensors` and waits for its end.
  void run(const std::vector<at::Tensor>& tensors, const Start& start, const CancelFlag& cancel);

  std::shared_ptr<Links> links() const;  // throws NEOX_DISPOSED
  void ask(const std::function<void()>& question);

  GroupOptions options_;
  mutable std::mutex mutex_;      // of the pointer: the store is asked while an exchange goes on
  std::shared_ptr<Links> links_;  // null: left
  AbandonableCalls store_calls_;
};

}  // namespace neox

// The only file that includes c10d.
#include "core/dist/process_group.h"

#include <ATen/ops/empty.h>
#include <c10/util/Logging.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>

#include "core/base/error.h"
#include "core/dist/abandonable.h"
#include "core/dist/network.h"

namespace neox {
namespace {

using std::chrono::milliseconds;

constexpr auto kStoreTimeout = milliseconds(1'000);  // of one operation of a store that is connected
constexpr auto kExtra = milliseconds(10'000);        // a library's own timeout comes first

milliseconds in_milliseconds(double seconds) { return milliseconds(static_cast<int64_t>(seconds * 1000.0)); }

// What an error of libtorch or of Gloo says, in one line, without a stack trace and without the place in their sources.
std::string what_of(const std::exception& error) {
  const auto* c10_error = dynamic_cast<const c10::Error*>(&error);
  std::string text = c10_error != nullptr ? c10_error->what_without_backtrace() : error.what();
  if (text.front() == '[' && text.find("] ") < text.find('\n')) text.erase(0, text.find("] ") + 2);
  return text.substr(0, std::min(text.find('\n'), text.find(". This is typically")));
}

// Runs `body` and gives what libraries throw our code.
template <typename Body>
auto with_code(const char* code, const std::string& context, const Body& body) {
  try {
    return body();
  } catch (const CoreError&) {
    throw;
  } catch (const std::exception& error) {
    throw CoreError(code, context + what_of(error));
  }
}

// c10d warns on stderr, with stack traces, of each attempt to connect that fails. TORCH_CPP_LOG_LEVEL brings it back.
void quiet_c10d() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (std::getenv("TORCH_CPP_LOG_LEVEL") != nullptr) {
      c10::initLogging();
    } else {
      FLAGS_caffe2_log_level = c10::GLOG_FATAL;
    }
  });
}

}  // namespace

struct ProcessGroup::Links {
  c10::intrusive_ptr<c10d::Store> store;  // with the scope in front of its keys
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
  std::string address;  // of this machine, for the exchanges

  // An exchange that somebody still waits in uses all of this: destroying it would wait as well, so it stays for good.
  static void leave_behind(std::shared_ptr<Links> links, c10::intrusive_ptr<c10d::Work> work,
                           std::vector<at::Tensor> tensors) {
    struct Left {
      std::shared_ptr<Links> links;
      c10::intrusive_ptr<c10d::Work> work;
      std::vector<at::Tensor> tensors;
    };
    static std::mutex mutex;
    static auto* const left = new std::vector<Left>();
    std::lock_guard<std::mutex> lock(mutex);
    left->push_back({std::move(links), std::move(work), std::move(tensors)});
  }
};

namespace {

// Waits for an exchange to end. Polls: nothing else lets go of an exchange that never ends.
void wait_for(c10d::Work& work, const CancelFlag& cancel) {
  auto pause = std::chrono::microseconds(20);
  while (!work.isCompleted()) {
    cancel.check();
    std::this_thread::sleep_for(pause);
    if (pause < std::chrono::microseconds(500)) pause += pause / 4;
  }
  if (const auto error = work.exception()) std::rethrow_exception(error);
}

}  // namespace

ProcessGroup::ProcessGroup(const GroupOptions& options) : options_(options), links_(std::make_shared<Links>()) {}

ProcessGroup::~ProcessGroup() { leave(); }

std::shared_ptr<ProcessGroup> ProcessGroup::open(const GroupOptions& options, const CancelFlag& cancel) {
  quiet_c10d();
  const std::shared_ptr<ProcessGroup> group(new ProcessGroup(options));
  const auto links = group->links_;
  const auto timeout = in_milliseconds(options.timeout);
  const std::string place = options.host + ", port " + std::to_string(options.port);
  const bool done = with_code("NEOX_RENDEZVOUS", "The store at " + place + " is not to be reached: ", [&] {
    const auto work = [links, options, timeout] {
      const std::string own = options.interface.empty() ? "" : address_of_interface(options.interface);
      c10d::TCPStoreOptions store;
      store.port = options.port;
      store.isServer = options.hosts_store;
      store.waitWorkers = false;
      store.timeout = timeout;
      std::string host = options.host;
      if (options.hosts_store) {
        const BoundSocket bound = bind_to(own.empty() ? options.host : own, options.port);
        store.masterListenFd = bound.descriptor;
        host = bound.address;
      }
      links->address = own.empty() ? address_towards(host, options.port) : own;
      links->store =
          c10::make_intrusive<c10d::PrefixStore>(options.scope, c10::make_intrusive<c10d::TCPStore>(host, store));
    };
    return group->store_calls_.run(work, timeout + kExtra, cancel);
  });
  if (!done) throw CoreError("NEOX_RENDEZVOUS", "The store at " + place + " did not answer");
  return group;
}

void ProcessGroup::connect(const CancelFlag& cancel) {
  const auto links = this->links();
  const auto options = options_;
  const auto timeout = in_milliseconds(options.timeout);
  const bool done = with_code("NEOX_RENDEZVOUS", "The ranks do not reach each other: ", [&] {
    const auto work = [links, options, timeout] {
      const auto gloo = c10d::ProcessGroupGloo::Options::create(timeout);
      gloo->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(links->address));
      gloo->threads = 2;
      links->gloo = c10::make_intrusive<c10d::ProcessGroupGloo>(links->store, options.rank, options.size, gloo);
    };
    return AbandonableCalls().run(work, timeout + kExtra, cancel);
  });
  if (!done) throw CoreError("NEOX_RENDEZVOUS", "The ranks do not reach each other at " + links->address);
}

// One operation of the store. A store whose process is stopped takes the question and never answers.
void ProcessGroup::ask(const std::function<void()>& question) {
  static const CancelFlag never;
  const bool answered = with_code(
      "NEOX_PEER_LOST", "The store is gone: ", [&] { return store_calls_.run(question, kStoreTimeout, never); });
  if (!answered) throw CoreError("NEOX_PEER_LOST", "The store does not answer");
}

void ProcessGroup::set(const std::string& key, const std::string& value) {
  const auto links = this->links();
  ask([links, key, value] { links->store->set(key, std::vector<uint8_t>(value.begin(), value.end())); });
}

std::optional<std::string> ProcessGroup::get(const std::string& key) {
  const auto links = this->links();
  const auto answer = std::make_shared<std::optional<std::string>>();
  ask([links, key, answer] {
    if (!links->store->check({key})) return;
    const std::vector<uint8_t> value = links->store->get(key);
    *answer = std::string(value.begin(), value.end());
  });
  return *answer;
}

int64_t ProcessGroup::add(const std::string& key, int64_t amount) {
  const auto links = this->links();
  const auto sum = std::make_shared<int64_t>(0);
  ask([links, key, amount, sum] { *sum = links->store->add(key, amount); });
  return *sum;
}

void ProcessGroup::run(const std::vector<at::Tensor>& tensors, const Start& start, const CancelFlag& cancel) {
  const auto links = this->links();
  if (!links->gloo) throw CoreError("NEOX_RENDEZVOUS", "The ranks are not connected");
  with_code("NEOX_PEER_LOST", "", [&] {
    const auto work = start(*links->gloo);
    try {
      wait_for(*work, cancel);
    } catch (const Cancelled&) {
      Links::leave_behind(links, work, tensors);
      leave();
      throw;
    }
  });
}

void ProcessGroup::broadcast(at::Tensor tensor, int root, const CancelFlag& cancel) {
  std::vector<at::Tensor> tensors = {std::move(tensor)};
  c10d::BroadcastOptions options;
  options.rootRank = root;
  run(
      tensors, [&](c10d::ProcessGroupGloo& gloo) { return gloo.broadcast(tensors, options); }, cancel);
}

at::Tensor ProcessGroup::all_gather(at::Tensor tensor, const CancelFlag& cancel) {
  at::Tensor all = at::empty({size() * tensor.numel()}, tensor.options());
  run(
      {all, tensor}, [&](c10d::ProcessGroupGloo& gloo) { return gloo._allgather_base(all, tensor); }, cancel);
  return all.view({size(), tensor.numel()});
}

void ProcessGroup::all_to_all(at::Tensor output, at::Tensor input, std::vector<int64_t> counts_out,
                              std::vector<int64_t> counts_in, const CancelFlag& cancel) {
  run(
      {output, input},
      [&](c10d::ProcessGroupGloo& gloo) { return gloo.alltoall_base(output, input, counts_out, counts_in); }, cancel);
}

std::shared_ptr<ProcessGroup::Links> ProcessGroup::links() const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!links_) throw CoreError("NEOX_DISPOSED", "The process group is left");
  return links_;
}

void ProcessGroup::leave() {
  std::shared_ptr<Links> gone;  // destroyed behind the lock
  const std::lock_guard<std::mutex> lock(mutex_);
  gone.swap(links_);
}

}  // namespace neox

#include "core/dist/network.h"

#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

[[noreturn]] void fail(const std::string& message) { throw CoreError("NEOX_RENDEZVOUS", message); }

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Addresses resolve(const std::string& host, uint16_t port, int type) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = type;
  addrinfo* found = nullptr;
  const int status = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (status != 0) fail("The name " + host + " has no address: " + gai_strerror(status));
  return {found, freeaddrinfo};
}

std::string as_text(const sockaddr* address, socklen_t length) {
  std::array<char, NI_MAXHOST> text{};
  const int status = getnameinfo(address, length, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST);
  if (status != 0) fail(std::string("An address has no text: ") + gai_strerror(status));
  return text.data();
}

// Closes a socket unless it is released.
class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }
  int release() { return std::exchange(value_, -1); }

 private:
  int value_;
};

}  // namespace

std::string address_of_interface(const std::string& name) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) fail(std::string("The network interfaces cannot be listed: ") + std::strerror(errno));
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(list, freeifaddrs);
  for (const int family : {AF_INET, AF_INET6}) {
    for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
      if (name != entry->ifa_name || entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != family) continue;
      return as_text(entry->ifa_addr, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    }
  }
  fail("There is no network interface " + name + " with an address");
}

std::string address_towards(const std::string& host, uint16_t port) {
  const Addresses addresses = resolve(host, port, SOCK_DGRAM);
  int error = 0;
  for (const addrinfo* to = addresses.get(); to != nullptr; to = to->ai_next) {
    // Connecting a datagram socket sends nothing: it only chooses the way.
    const Descriptor probe(socket(to->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_storage own{};
    socklen_t length = sizeof(own);
    if (probe.get() >= 0 && ::connect(probe.get(), to->ai_addr, to->ai_addrlen) == 0 &&
        getsockname(probe.get(), reinterpret_cast<sockaddr*>(&own), &length) == 0) {
      return as_text(reinterpret_cast<sockaddr*>(&own), length);
    }
    error = errno;
  }
  fail("No address of this machine reaches " + host + ": " + std::strerror(error));
}

BoundSocket bind_to(const std::string& host, uint16_t port) {
  const Addresses addresses = resolve(host, port, SOCK_STREAM);
  const addrinfo* at = addresses.get();
  Descriptor bound(socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  if (bound.get() < 0 || setsockopt(bound.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      ::bind(bound.get(), at->ai_addr, at->ai_addrlen) != 0 || ::listen(bound.get(), SOMAXCONN) != 0) {
    const std::string place = as_text(at->ai_addr, at->ai_addrlen) + ", port " + std::to_string(port);
    if (errno == EADDRINUSE) fail("The store cannot be opened at " + place + ": the port is taken");
    if (errno == EADDRNOTAVAIL)
      fail("The store cannot be opened at " + place + ": " + host + " is no address of this machine, where rank 0 is");
    fail("The store cannot be opened at " + place + ": " + std::strerror(errno));
  }
  return {bound.release(), as_text(at->ai_addr, at->ai_addrlen)};
}

}  // namespace neox

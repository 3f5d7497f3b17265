// Which address of this machine ranks meet at.
#pragma once

#include <cstdint>
#include <string>

namespace neox {

// The address of a network interface, as text. Throws NEOX_RENDEZVOUS.
std::string address_of_interface(const std::string& name);

// The address of this machine from which `host` is reached, as text. Throws NEOX_RENDEZVOUS.
std::string address_towards(const std::string& host, uint16_t port);

// A socket bound to `port` at the one address that `host` names, which has to be this machine's. Returns its file
// descriptor, and the address as text. Throws NEOX_RENDEZVOUS.
struct BoundSocket {
  int descriptor;
  std::string address;
};
BoundSocket bind_to(const std::string& host, uint16_t port);

}  // namespace neox

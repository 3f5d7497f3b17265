// The one exception of the core. The binding turns it into NeoXPrefixError with the same code.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace neox {

class CoreError : public std::runtime_error {
 public:
  CoreError(std::string code, const std::string& message) : std::runtime_error(message), code_(std::move(code)) {}
  const std::string& code() const { return code_; }  // e.g. "NEOX_BAD_CHECKPOINT"

 private:
  std::string code_;
};

}  // namespace neox

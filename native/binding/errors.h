// The boundary for errors: core exceptions and c10::Error become JavaScript errors with a `code`; lib/native.ts makes them
// NeoXPrefixError.
#pragma once

#include <exception>
#include <string>

#include "binding/napi_setup.h"

namespace neox::binding {

struct ErrorInfo {
  std::string code;
  std::string message;
};

// What a thrown exception says. Never throws.
ErrorInfo describe(const std::exception_ptr& exception) noexcept;

Napi::Error to_js_error(Napi::Env env, const ErrorInfo& info);

// Runs the body of a synchronous native function and turns every C++ exception into a JavaScript one.
template <typename Body>
Napi::Value guarded(const Napi::CallbackInfo& info, Body&& body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_js_error(info.Env(), describe(std::current_exception()));
  }
}

}  // namespace neox::binding

// The boundary for errors: core exceptions and c10::Error become JavaScript errors with a `code`; lib/native.ts makes
// them NeoXPrefixError.
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

// Throws an error in JavaScript. Where the environment ends (a worker that is terminated) that fails with another
// Napi::Error, which would end the process: it is let go, since no JavaScript will run that could see it.
void throw_to_js(const Napi::Error& error) noexcept;

// Runs the body of a synchronous native function and turns every C++ exception into a JavaScript one.
template <typename Body>
Napi::Value guarded(const Napi::CallbackInfo& info, Body&& body) {
  try {
    try {
      return body();
    } catch (const Napi::Error&) {
      throw;
    } catch (...) {
      throw to_js_error(info.Env(), describe(std::current_exception()));
    }
  } catch (const Napi::Error& error) {
    throw_to_js(error);
    return {};
  }
}

}  // namespace neox::binding

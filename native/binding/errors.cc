#include "binding/errors.h"

#include <c10/util/Exception.h>

#include <new>

#include "core/base/error.h"

namespace neox::binding {

ErrorInfo describe(const std::exception_ptr& exception) noexcept {
  try {
    std::rethrow_exception(exception);
  } catch (const CoreError& error) {
    return {error.code(), error.what()};
  } catch (const c10::Error& error) {
    // The first line says what happened; the rest is a C++ stack trace.
    std::string text = error.what_without_backtrace();
    text.erase(0, text.find_first_not_of(" \n"));
    text = text.substr(0, text.find('\n'));
    bool memory = false;
    for (const char* words : {"not enough memory", "out of memory", "can't allocate memory"}) {
      memory = memory || text.find(words) != std::string::npos;
    }
    return {memory ? "NEOX_OUT_OF_MEMORY" : "NEOX_NATIVE", text};
  } catch (const std::bad_alloc&) {
    return {"NEOX_OUT_OF_MEMORY", "Not enough memory"};
  } catch (const std::exception& error) {
    return {"NEOX_NATIVE", error.what()};
  } catch (...) {
    return {"NEOX_NATIVE", "Unknown native error"};
  }
}

Napi::Error to_js_error(Napi::Env env, const ErrorInfo& info) {
  Napi::Error error = Napi::Error::New(env, info.message);
  error.Set("code", Napi::String::New(env, info.code));
  return error;
}

void throw_to_js(const Napi::Error& error) noexcept {
  try {
    error.ThrowAsJavaScriptException();
  } catch (const Napi::Error&) {
  }
}

}  // namespace neox::binding

// neox_preload.node: opens shared libraries by absolute path so that the loader finds them by name afterwards.
// The main addon names libtorch but carries no path to it, and process.dlopen cannot open a library that is no addon.
// This addon depends on nothing but libc, so it always loads.
#include <dlfcn.h>
#include <node_api.h>
#include <stdbool.h>
#include <stdlib.h>

// open(path: string): undefined | string. The error of dlopen, or undefined when the library is open, for good.
static napi_value open_library(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  if (napi_get_cb_info(env, info, &count, &argument, NULL, NULL) != napi_ok) return NULL;
  size_t length = 0;
  if (count < 1 || napi_get_value_string_utf8(env, argument, NULL, 0, &length) != napi_ok) {
    napi_throw_type_error(env, NULL, "Expected a string for path");
    return NULL;
  }
  char* path = malloc(length + 1);
  if (path == NULL) {
    napi_throw_error(env, NULL, "Out of memory");
    return NULL;
  }
  napi_get_value_string_utf8(env, argument, path, length + 1, &length);
  // Never closed: libtorch registers operators and thread pools that cannot be taken back.
  const bool opened = dlopen(path, RTLD_NOW | RTLD_GLOBAL) != NULL;
  free(path);
  napi_value result = NULL;
  if (opened) {
    napi_get_undefined(env, &result);
  } else {
    const char* reason = dlerror();
    napi_create_string_utf8(env, reason == NULL ? "unknown error" : reason, NAPI_AUTO_LENGTH, &result);
  }
  return result;
}

NAPI_MODULE_INIT() {
  napi_value function;
  if (napi_create_function(env, "open", NAPI_AUTO_LENGTH, open_library, NULL, &function) != napi_ok) return NULL;
  if (napi_set_named_property(env, exports, "open", function) != napi_ok) return NULL;
  return exports;
}

// neox_preload.node: opens shared libraries by absolute path so that the loader finds them by name afterwards.
// The main addon names libtorch but carries no path to it, and process.dlopen cannot open a library that is no addon.
// This addon depends on nothing but libc, so it always loads. Locks of files are here as well, so that whoever looks at
// the folder of a run need not have libtorch.
#include <dlfcn.h>
#include <errno.h>
#include <node_api.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/file.h>

// glibc 2.34 moved these from libdl into libc under a new version. The old version is there in both, so that an addon
// linked on a new Linux runs on an old one (native/compat).
#if defined(__x86_64__)
__asm__(".symver dlopen,dlopen@GLIBC_2.2.5");
__asm__(".symver dlerror,dlerror@GLIBC_2.2.5");
#else
__asm__(".symver dlopen,dlopen@GLIBC_2.17");
__asm__(".symver dlerror,dlerror@GLIBC_2.17");
#endif

// libgomp's threads spin for up to 300,000 turns (several milliseconds) at the end of each parallel region before they
// sleep. Alone that costs nothing, but beside another busy process each turn is taken from the thread that is waited
// for: two trainings at once on two cores took 48 s each, with 2,000 turns 13 s (and 5.2 s alone, either way). libgomp
// reads its settings once, while it is opened.
static const char kSpinName[] = "GOMP_SPINCOUNT";
static const char kSpinTurns[] = "2000";

static void* open_for_good(const char* path) {
  const bool ours = getenv(kSpinName) == NULL && getenv("OMP_WAIT_POLICY") == NULL;
  if (ours) setenv(kSpinName, kSpinTurns, 0);
  // Never closed: libtorch registers operators and thread pools that cannot be taken back.
  void* library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  // Not for the processes that this one starts.
  if (ours) unsetenv(kSpinName);
  return library;
}

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
  const bool opened = open_for_good(path) != NULL;
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

// lock(fd: number, exclusive: boolean): number. Locks an open file, for as long as it is open, without waiting: 0, or
// errno. It is flock's lock and not fcntl's: that one belongs to a process, of which any close of the file gives it up.
static napi_value lock_file(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2];
  int32_t fd = -1;
  bool exclusive = false;
  if (napi_get_cb_info(env, info, &count, arguments, NULL, NULL) != napi_ok) return NULL;
  if (count < 2 || napi_get_value_int32(env, arguments[0], &fd) != napi_ok ||
      napi_get_value_bool(env, arguments[1], &exclusive) != napi_ok) {
    napi_throw_type_error(env, NULL, "Expected a number for fd and a boolean for exclusive");
    return NULL;
  }
  int status = 0;
  do {
    status = flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB);
  } while (status != 0 && errno == EINTR);
  napi_value result = NULL;
  napi_create_int32(env, status == 0 ? 0 : errno, &result);
  return result;
}

static bool add_function(napi_env env, napi_value exports, const char* name, napi_callback callback) {
  napi_value function;
  return napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, NULL, &function) == napi_ok &&
         napi_set_named_property(env, exports, name, function) == napi_ok;
}

NAPI_MODULE_INIT() {
  const bool added = add_function(env, exports, "open", open_library) && add_function(env, exports, "lock", lock_file);
  return added ? exports : NULL;
}

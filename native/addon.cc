// Registers the addon's exports, and nothing else. types/native.d.ts lists them.
#include <cstdlib>

#include "binding/dist_binding.h"
#include "binding/engine_binding.h"
#include "binding/export_binding.h"
#include "binding/forward_binding.h"
#include "binding/generation_binding.h"
#include "binding/model_binding.h"
#include "binding/napi_setup.h"
#include "binding/system_binding.h"
#include "binding/training_binding.h"
#include "core/base/worker_thread.h"

namespace {

Napi::Object init(Napi::Env env, Napi::Object exports) {
  // For an end that passes by JavaScript, which calls shutdown(). Static objects that libtorch made later are gone by
  // then.
  static const int registered = std::atexit(neox::WorkerThread::stop_all);
  static_cast<void>(registered);
  neox::binding::export_system_functions(env, exports);
  neox::binding::export_model_functions(env, exports);
  neox::binding::export_forward_functions(env, exports);
  neox::binding::export_generation_functions(env, exports);
  neox::binding::export_engine_functions(env, exports);
  neox::binding::export_training_functions(env, exports);
  neox::binding::export_dist_functions(env, exports);
  neox::binding::export_fastertransformer_functions(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(neox_prefix, init)

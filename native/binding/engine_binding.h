// createEngine, engineRun, interruptEngine, disposeEngine: core/generation/engine.h for JavaScript.
#pragma once

#include "binding/napi_setup.h"

namespace neox::binding {

void export_engine_functions(Napi::Env env, Napi::Object exports);

}  // namespace neox::binding

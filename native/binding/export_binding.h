// writeFastertransformer and compareFastertransformer: core/checkpoint/fastertransformer.h for JavaScript.
#pragma once

#include "binding/napi_setup.h"

namespace neox::binding {

void export_fastertransformer_functions(Napi::Env env, Napi::Object exports);

}  // namespace neox::binding

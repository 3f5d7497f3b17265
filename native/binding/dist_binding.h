#pragma once

#include "binding/napi_setup.h"

namespace neox::binding {

void export_dist_functions(Napi::Env env, Napi::Object exports);

}  // namespace neox::binding

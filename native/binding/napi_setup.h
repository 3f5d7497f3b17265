// The only include of napi.h, so that the settings below always precede it.
#pragma once

#ifndef NAPI_VERSION
#define NAPI_VERSION 9
#endif
#ifndef NAPI_CPP_EXCEPTIONS
#define NAPI_CPP_EXCEPTIONS
#endif
#define NODE_ADDON_API_DISABLE_DEPRECATED
#include <napi.h>

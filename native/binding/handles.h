// Opaque handles: a shared_ptr behind a type-tagged external value, so that a wrong handle is an error and never a
// crash. All tags stand here, to be seen together: no value may be used twice. Make a new one with `uuidgen`.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "binding/napi_setup.h"

namespace neox::binding {

template <typename T>
struct HandleTraits;  // tag: napi_type_tag; name: how errors call it

#define NEOX_HANDLE(Type, Name, Low, High)            \
  template <>                                         \
  struct HandleTraits<Type> {                         \
    static constexpr napi_type_tag tag = {Low, High}; \
    static constexpr const char* name = Name;         \
  }

// What a handle's external value points to. `bytes` of native memory are reported to V8 for as long as the handle
// lives, so that garbage is collected before it piles up.
template <typename T>
struct Box {
  std::shared_ptr<T> object;
  int64_t bytes;
};

template <typename T>
Napi::Value make_handle(Napi::Env env, std::shared_ptr<T> object, int64_t bytes = 0) {
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
  auto* made = new Box<T>{std::move(object), bytes};
  auto external = Napi::External<Box<T>>::New(env, made, [](Napi::Env environment, Box<T>* box) {
    Napi::MemoryManagement::AdjustExternalMemory(environment, -box->bytes);
    delete box;
  });
  external.TypeTag(&HandleTraits<T>::tag);
  return external;
}

Napi::Error wrong_handle(Napi::Env env, const char* name);

template <typename T>
Box<T>& get_box(const Napi::Value& value) {
  if (value.IsExternal()) {
    auto external = value.As<Napi::External<Box<T>>>();
    if (external.CheckTypeTag(&HandleTraits<T>::tag)) return *external.Data();
  }
  throw wrong_handle(value.Env(), HandleTraits<T>::name);
}

// The object of a handle; throws an error with a code for anything else.
template <typename T>
std::shared_ptr<T> get_handle(const Napi::Value& value) {
  return get_box<T>(value).object;
}

// Tells V8 that the memory behind a handle is free before the handle is gone.
template <typename T>
void release_bytes(const Napi::Value& value) {
  Box<T>& box = get_box<T>(value);
  Napi::MemoryManagement::AdjustExternalMemory(value.Env(), -box.bytes);
  box.bytes = 0;
}

}  // namespace neox::binding

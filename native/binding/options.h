// Reading option objects into plain structs on the JavaScript thread. The TypeScript side has checked and completed
// them; what is wrong here is a mistake of ours, named by key.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "binding/napi_setup.h"
#include "core/checkpoint/mapped_file.h"

namespace neox::binding {

int64_t get_int(const Napi::Object& object, const char* key);
double get_number(const Napi::Object& object, const char* key);
bool get_bool(const Napi::Object& object, const char* key);
std::string get_string(const Napi::Object& object, const char* key);
Napi::Object get_object(const Napi::Object& object, const char* key);
Napi::Array get_array(const Napi::Object& object, const char* key);
std::vector<int64_t> get_int_list(const Napi::Object& object, const char* key);
// Copies of typed arrays: a caller may change or transfer his while the work runs.
std::vector<int64_t> to_ids(const Napi::Value& value, const char* key);      // from an Int32Array
std::vector<float> to_floats(const Napi::Value& value, const char* key);     // from a Float32Array
std::vector<int64_t> get_ids(const Napi::Object& object, const char* key);   // from an Int32Array
std::vector<float> get_floats(const Napi::Object& object, const char* key);  // from a Float32Array
bool has_value(const Napi::Object& object, const char* key);                 // neither undefined nor null

// The TensorEntry of types/native.d.ts.
TensorEntry get_tensor_entry(const Napi::Object& object);

// A Float32Array that owns a copy of a float32 tensor's elements, row-major.
Napi::Float32Array to_float_array(Napi::Env env, const at::Tensor& tensor);
Napi::Int32Array to_int_array(Napi::Env env, const std::vector<int64_t>& values);

// "float32" | "bfloat16" | "float16"
at::ScalarType compute_dtype(const std::string& name);
const char* dtype_name(at::ScalarType dtype);
// "F32" and so on: the names of lib/checkpoint/tensor.ts.
at::ScalarType storage_dtype(const std::string& name);

}  // namespace neox::binding

#include "binding/options.h"

#include <array>
#include <cstring>
#include <utility>

#include "core/base/error.h"

namespace neox::binding {
namespace {

struct DTypeName {
  const char* name;
  at::ScalarType dtype;
};

constexpr std::array<DTypeName, 3> compute_dtypes = {{
    {"float32", at::kFloat},
    {"bfloat16", at::kBFloat16},
    {"float16", at::kHalf},
}};

constexpr std::array<DTypeName, 10> storage_dtypes = {{
    {"BOOL", at::kBool},
    {"U8", at::kByte},
    {"I8", at::kChar},
    {"I16", at::kShort},
    {"I32", at::kInt},
    {"I64", at::kLong},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"F32", at::kFloat},
    {"F64", at::kDouble},
}};

template <typename Table>
at::ScalarType find_dtype(const Table& table, const std::string& name) {
  for (const auto& row : table) {
    if (name == row.name) return row.dtype;
  }
  throw CoreError("NEOX_UNSUPPORTED", "Unsupported dtype " + name);
}

[[noreturn]] void fail(const char* key, const char* expected) {
  throw CoreError("NEOX_BAD_ARGUMENT", std::string("Expected ") + expected + " for " + key);
}

template <typename TypedArray>
TypedArray to_typed(const Napi::Value& value, const char* key, napi_typedarray_type type, const char* expected) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) fail(key, expected);
  return value.As<TypedArray>();
}

// The part of a tensor that lies in one file.
void place(TensorEntry& entry, const Napi::Object& object) {
  entry.file = get_string(object, "file");
  if (has_value(object, "identity")) entry.identity = get_string(object, "identity");
  entry.shape = get_int_list(object, "shape");
  if (has_value(object, "stride")) entry.stride = get_int_list(object, "stride");
  entry.offset = static_cast<uint64_t>(get_int(object, "offset"));
  entry.byte_length = static_cast<uint64_t>(get_int(object, "byteLength"));
}

}  // namespace

double get_number(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsNumber()) fail(key, "a number");
  return value.As<Napi::Number>().DoubleValue();
}

int64_t get_int(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsNumber()) fail(key, "an integer");
  return value.As<Napi::Number>().Int64Value();
}

bool get_bool(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsBoolean()) fail(key, "a boolean");
  return value.As<Napi::Boolean>().Value();
}

std::string get_string(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsString()) fail(key, "a string");
  return value.As<Napi::String>().Utf8Value();
}

Napi::Object get_object(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsObject()) fail(key, "an object");
  return value.As<Napi::Object>();
}

Napi::Array get_array(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsArray()) fail(key, "an array");
  return value.As<Napi::Array>();
}

std::vector<int64_t> get_int_list(const Napi::Object& object, const char* key) {
  const Napi::Array array = get_array(object, key);
  std::vector<int64_t> values;
  values.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value value = array.Get(i);
    if (!value.IsNumber()) fail(key, "an array of integers");
    values.push_back(value.As<Napi::Number>().Int64Value());
  }
  return values;
}

std::vector<int64_t> to_ids(const Napi::Value& value, const char* key) {
  const auto array = to_typed<Napi::Int32Array>(value, key, napi_int32_array, "an Int32Array");
  return {array.Data(), array.Data() + array.ElementLength()};
}

std::vector<int64_t> get_ids(const Napi::Object& object, const char* key) { return to_ids(object.Get(key), key); }

std::vector<float> to_floats(const Napi::Value& value, const char* key) {
  const auto array = to_typed<Napi::Float32Array>(value, key, napi_float32_array, "a Float32Array");
  return {array.Data(), array.Data() + array.ElementLength()};
}

std::vector<float> get_floats(const Napi::Object& object, const char* key) { return to_floats(object.Get(key), key); }

bool has_value(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  return !value.IsUndefined() && !value.IsNull();
}

TensorEntry get_tensor_entry(const Napi::Object& object) {
  TensorEntry entry;
  entry.name = get_string(object, "name");
  entry.dtype = storage_dtype(get_string(object, "dtype"));
  place(entry, object);
  if (has_value(object, "scale")) entry.scale = get_number(object, "scale");
  if (!has_value(object, "join")) return entry;
  const Napi::Object join = get_object(object, "join");
  entry.joined = true;
  entry.axis = get_int(join, "axis");
  const Napi::Array pieces = get_array(join, "pieces");
  for (uint32_t i = 0; i < pieces.Length(); ++i) {
    const auto piece = pieces.Get(i).As<Napi::Object>();
    TensorEntry& part = entry.pieces.emplace_back();
    part.name = entry.name;
    part.dtype = entry.dtype;
    place(part, piece);
  }
  return entry;
}

Napi::Float32Array to_float_array(Napi::Env env, const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous();
  auto array = Napi::Float32Array::New(env, static_cast<size_t>(flat.numel()));
  if (flat.numel() > 0) std::memcpy(array.Data(), flat.const_data_ptr<float>(), flat.nbytes());
  return array;
}

Napi::Int32Array to_int_array(Napi::Env env, const std::vector<int64_t>& values) {
  auto array = Napi::Int32Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i) array[i] = static_cast<int32_t>(values[i]);
  return array;
}

at::ScalarType compute_dtype(const std::string& name) { return find_dtype(compute_dtypes, name); }

at::ScalarType storage_dtype(const std::string& name) { return find_dtype(storage_dtypes, name); }

const char* dtype_name(at::ScalarType dtype) {
  for (const auto& row : compute_dtypes) {
    if (row.dtype == dtype) return row.name;
  }
  return "other";
}

}  // namespace neox::binding

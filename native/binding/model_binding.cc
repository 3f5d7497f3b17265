// loadModel, disposeModel, modelInfo, createPrefix.
#include "binding/model_binding.h"

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <array>
#include <utility>

#include "binding/model_handle.h"
#include "binding/options.h"
#include "core/base/error.h"
#include "core/base/heap.h"
#include "core/model/load.h"

namespace neox::binding {
namespace {

template <typename Value, size_t N>
Value find(const std::array<std::pair<const char*, Value>, N>& table, const std::string& name) {
  for (const auto& [known, value] : table) {
    if (name == known) return value;
  }
  throw CoreError("NEOX_UNSUPPORTED", "Unknown name " + name);
}

constexpr std::array<std::pair<const char*, Activation>, 16> activations = {{
    {"gelu", Activation::kGelu},
    {"gelu_tanh", Activation::kGeluTanh},
    {"gelu_10", Activation::kGelu10},
    {"quick_gelu", Activation::kQuickGelu},
    {"relu", Activation::kRelu},
    {"relu2", Activation::kRelu2},
    {"relu6", Activation::kRelu6},
    {"leaky_relu", Activation::kLeakyRelu},
    {"silu", Activation::kSilu},
    {"hardswish", Activation::kHardSwish},
    {"mish", Activation::kMish},
    {"sqrtsoftplus", Activation::kSqrtSoftplus},
    {"sigmoid", Activation::kSigmoid},
    {"tanh", Activation::kTanh},
    {"laplace", Activation::kLaplace},
    {"linear", Activation::kLinear},
}};

constexpr std::array<std::pair<const char*, RotaryType>, 6> rotary_types = {{
    {"default", RotaryType::kDefault},
    {"linear", RotaryType::kLinear},
    {"dynamic", RotaryType::kDynamic},
    {"yarn", RotaryType::kYarn},
    {"llama3", RotaryType::kLlama3},
    {"longrope", RotaryType::kLongRope},
}};

RotaryScaling parse_scaling(const Napi::Object& o) {
  return {find(rotary_types, get_string(o, "type")),
          get_number(o, "factor"),
          get_number(o, "attentionFactor"),
          get_int(o, "originalPositions"),
          get_number(o, "low"),
          get_number(o, "high"),
          get_floats(o, "shortFactors"),
          get_floats(o, "longFactors")};
}

NeoXConfig parse_config(const Napi::Object& o) {
  NeoXConfig c;
  c.vocab_size = get_int(o, "vocabSize");
  c.hidden_size = get_int(o, "hiddenSize");
  c.num_layers = get_int(o, "numLayers");
  c.num_heads = get_int(o, "numHeads");
  c.head_size = get_int(o, "headSize");
  c.intermediate_size = get_int(o, "intermediateSize");
  c.learned_positions = get_bool(o, "learnedPositions");
  c.rotary_dims = get_int(o, "rotaryDims");
  c.rotary_base = get_number(o, "rotaryBase");
  c.rotary_scaling = parse_scaling(get_object(o, "rotaryScaling"));
  c.trained_positions = get_int(o, "trainedPositions");
  c.max_positions = get_int(o, "maxPositions");
  c.parallel_residual = get_bool(o, "useParallelResidual");
  c.attention_bias = get_bool(o, "attentionBias");
  c.layer_norm_eps = get_number(o, "layerNormEps");
  c.activation = find(activations, get_string(o, "activation"));
  return c;
}

std::vector<TensorEntry> parse_entries(const Napi::Array& array) {
  std::vector<TensorEntry> entries;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    entries.push_back(get_tensor_entry(array.Get(i).As<Napi::Object>()));
  }
  return entries;
}

class LoadWorker final : public PromiseWorker {
 public:
  LoadWorker(const Napi::Object& options, std::shared_ptr<WorkerThread> thread)
      : PromiseWorker(get_cancel(options)),
        thread_(std::move(thread)),
        config_(parse_config(get_object(options, "config"))),
        entries_(parse_entries(get_array(options, "tensors"))) {
    options_.device = at::Device(get_string(options, "device"));
    options_.backend = get_string(options, "backend");
    options_.pack = get_string(options, "pack");
    const std::string dtype = get_string(options, "dtype");
    options_.precision.int8 = dtype == "int8";
    if (!options_.precision.int8) options_.precision.activations = compute_dtype(dtype);
  }

 protected:
  void Execute() override {
    const c10::InferenceMode guard;
    model_ = load_model(config_, entries_, options_, cancel(), [this](double share) {
      Emit([share](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, share); });
    });
  }

  Napi::Value Result(Napi::Env env) override {
    auto handle = std::make_shared<ModelHandle>();
    handle->thread = thread_;
    handle->model = std::move(model_);
    const int64_t bytes = handle->model->weight_bytes();
    return make_handle(env, std::move(handle), bytes);
  }

 private:
  std::shared_ptr<WorkerThread> thread_;
  ArchitectureConfig config_;
  std::vector<TensorEntry> entries_;
  LoadOptions options_;
  std::shared_ptr<Model> model_;
};

// Queued behind everything in flight; the memory is freed on the model's thread.
class DisposeWorker final : public PromiseWorker {
 public:
  explicit DisposeWorker(std::shared_ptr<Model> model) : model_(std::move(model)) {}

 protected:
  void Execute() override {
    model_.reset();
    trim_heap();
  }
  Napi::Value Result(Napi::Env env) override { return env.Undefined(); }

 private:
  std::shared_ptr<Model> model_;
};

class PrefixWorker final : public ModelWorker {
 public:
  PrefixWorker(const Napi::Object& options, const std::shared_ptr<ModelHandle>& handle)
      : ModelWorker(handle, nullptr), data_(get_floats(options, "data")) {}

 protected:
  void Work() override {
    prefix_ =
        make_block(model().kv_shape(), at::from_blob(data_.data(), {static_cast<int64_t>(data_.size())}, at::kFloat));
  }
  Napi::Value Result(Napi::Env env) override {
    return make_handle(env, std::const_pointer_cast<KeyValueBlock>(prefix_),
                       static_cast<int64_t>(prefix_->keys_values.nbytes()));
  }

 private:
  std::vector<float> data_;
  std::shared_ptr<const KeyValueBlock> prefix_;
};

Napi::Value load_model(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto options = info[0].As<Napi::Object>();
    const int64_t threads = get_int(options, "threads");
    // libtorch hands the number that was set last, by whatever model, to a thread that sets none.
    static const int default_threads = at::get_num_threads();
    const auto thread = WorkerThread::create([count = threads > 0 ? static_cast<int>(threads) : default_threads] {
      at::set_num_threads(count);  // belongs to the thread that starts them
    });
    return PromiseWorker::Start(info.Env(), thread, std::make_unique<LoadWorker>(options, thread),
                                options.Get("onProgress"));
  });
}

Napi::Value dispose_model(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto handle = get_handle<ModelHandle>(info[0]);
    return PromiseWorker::Start(info.Env(), handle->thread, std::make_unique<DisposeWorker>(std::move(handle->model)));
  });
}

Napi::Value model_info(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto handle = get_handle<ModelHandle>(info[0]);
    if (!handle->model) throw CoreError("NEOX_DISPOSED", "The model is disposed");
    const ModelOptions& options = handle->model->options();
    const Precision& precision = options.precision;
    auto result = Napi::Object::New(info.Env());
    result.Set("dtype", precision.int8 ? "int8" : dtype_name(precision.activations));
    result.Set("computeDtype", dtype_name(precision.activations));
    result.Set("device", options.device.str());
    result.Set("backend", options.backend->name());
    result.Set("weightBytes", static_cast<double>(handle->model->weight_bytes()));
    result.Set("backwardBytes", static_cast<double>(handle->model->backward_bytes(true)));
    result.Set("leastBackwardBytes", static_cast<double>(handle->model->backward_bytes(false)));
    result.Set("rowBytes", static_cast<double>(options.backend->operand_bytes(precision.activations, precision.int8)));
    result.Set("peakBytes", static_cast<double>(handle->model->pool()->peak()));
    return result;
  });
}

Napi::Value create_prefix(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto handle = get_handle<ModelHandle>(info[0]);
    return ModelWorker::Queue(info.Env(), std::make_unique<PrefixWorker>(info[1].As<Napi::Object>(), handle));
  });
}

Napi::Value create_cancel(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value { return make_handle(info.Env(), std::make_shared<CancelFlag>()); });
}

Napi::Value cancel(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    get_handle<CancelFlag>(info[0])->cancel();
    return info.Env().Undefined();
  });
}

}  // namespace

void export_model_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("loadModel", Napi::Function::New(env, load_model, "loadModel"));
  exports.Set("disposeModel", Napi::Function::New(env, dispose_model, "disposeModel"));
  exports.Set("modelInfo", Napi::Function::New(env, model_info, "modelInfo"));
  exports.Set("createPrefix", Napi::Function::New(env, create_prefix, "createPrefix"));
  exports.Set("createCancelFlag", Napi::Function::New(env, create_cancel, "createCancelFlag"));
  exports.Set("cancel", Napi::Function::New(env, cancel, "cancel"));
}

}  // namespace neox::binding

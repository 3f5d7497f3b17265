// loadModel, disposeModel, modelInfo, createPrefix.
#include "binding/model_binding.h"

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/InferenceMode.h>

#include <array>
#include <optional>
#include <utility>

#include "binding/model_handle.h"
#include "binding/options.h"
#include "core/base/error.h"
#include "core/base/heap.h"
#include "core/kernels/kernels.h"
#include "core/model/native_weights.h"

namespace neox::binding {
namespace {

NeoXConfig parse_config(const Napi::Object& o) {
  NeoXConfig c;
  c.vocab_size = get_int(o, "vocabSize");
  c.hidden_size = get_int(o, "hiddenSize");
  c.num_layers = get_int(o, "numLayers");
  c.num_heads = get_int(o, "numHeads");
  c.head_size = get_int(o, "headSize");
  c.intermediate_size = get_int(o, "intermediateSize");
  c.rotary_dims = get_int(o, "rotaryDims");
  c.rotary_base = get_number(o, "rotaryBase");
  c.rotary_factor = get_number(o, "rotaryFactor");
  c.rotary_dynamic_factor = get_number(o, "rotaryDynamicFactor");
  c.trained_positions = get_int(o, "trainedPositions");
  c.max_positions = get_int(o, "maxPositions");
  c.parallel_residual = get_bool(o, "useParallelResidual");
  c.attention_bias = get_bool(o, "attentionBias");
  c.layer_norm_eps = get_number(o, "layerNormEps");
  static constexpr std::array<std::pair<const char*, Activation>, 5> activations = {{
      {"gelu", Activation::kGelu},
      {"gelu_tanh", Activation::kGeluTanh},
      {"quick_gelu", Activation::kQuickGelu},
      {"relu", Activation::kRelu},
      {"silu", Activation::kSilu},
  }};
  const std::string wanted = get_string(o, "activation");
  for (const auto& [name, activation] : activations) {
    if (wanted == name) {
      c.activation = activation;
      return c;
    }
  }
  throw CoreError("NEOX_UNSUPPORTED", "Unknown activation " + wanted);
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
        entries_(parse_entries(get_array(options, "tensors"))),
        device_(get_string(options, "device")) {
    const std::string pack = get_string(options, "pack");
    options_.pack_forward = pack != "none";
    options_.pack_backward = pack == "auto" || pack == "both";
    prepare_backward_ = pack == "both";
    const std::string dtype = get_string(options, "dtype");
    options_.int8 = dtype == "int8";
    if (!options_.int8) options_.dtype = compute_dtype(dtype);
    options_.device = device_;
    const std::string backend = get_string(options, "backend");
    for (const Backend known : {Backend::kAten, Backend::kOneDnn, Backend::kNative}) {
      if (backend == backend_name(known)) wanted_ = known;
    }
  }

 protected:
  void Execute() override {
    const c10::InferenceMode guard;
    // Asked here and not on the JavaScript thread: the first question tries a product.
    const bool cpu = options_.device.is_cpu();
    if (options_.int8) {
      if (!cpu || !options_.pack_forward || wanted_.value_or(Backend::kNative) != Backend::kNative)
        throw CoreError("NEOX_UNSUPPORTED", "int8 weights run on the CPU, packed, with the native backend only");
      options_.dtype = int8_activations();
      wanted_ = Backend::kNative;
    }
    options_.backend = wanted_.value_or(cpu ? best_backend(options_.dtype) : Backend::kAten);
    if (options_.backend != Backend::kAten && !(cpu && backend_supports(options_.backend, options_.dtype))) {
      std::string message("The ");
      message.append(backend_name(options_.backend))
          .append(" backend does not run ")
          .append(dtype_name(options_.dtype));
      message.append(" on ").append(options_.device.str()).append(" here; use backend 'aten' or another dtype");
      throw CoreError("NEOX_UNSUPPORTED", message);
    }
    const auto weights = std::make_shared<CheckpointWeights>(entries_, options_.dtype, options_.device);
    model_ = std::make_shared<GPTNeoX>(config_, weights, options_, cancel(), [this](double share) {
      Emit([share](Napi::Env env) -> Napi::Value { return Napi::Number::New(env, share); });
    });
    if (prepare_backward_) model_->prepare_backward(true, cancel());
    trim_heap();
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
  NeoXConfig config_;
  std::vector<TensorEntry> entries_;
  ModelOptions options_;
  at::Device device_;
  std::optional<Backend> wanted_;
  bool prepare_backward_ = false;
  std::shared_ptr<GPTNeoX> model_;
};

// Queued behind everything in flight; the memory is freed on the model's thread.
class DisposeWorker final : public PromiseWorker {
 public:
  explicit DisposeWorker(std::shared_ptr<GPTNeoX> model) : model_(std::move(model)) {}

 protected:
  void Execute() override {
    model_.reset();
    trim_heap();
  }
  Napi::Value Result(Napi::Env env) override { return env.Undefined(); }

 private:
  std::shared_ptr<GPTNeoX> model_;
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
    auto result = Napi::Object::New(info.Env());
    result.Set("dtype", options.int8 ? "int8" : dtype_name(options.dtype));
    result.Set("computeDtype", dtype_name(options.dtype));
    result.Set("device", options.device.str());
    result.Set("backend", backend_name(options.backend));
    result.Set("weightBytes", static_cast<double>(handle->model->weight_bytes()));
    result.Set("backwardBytes", static_cast<double>(handle->model->backward_bytes(true)));
    result.Set("leastBackwardBytes", static_cast<double>(handle->model->backward_bytes(false)));
    result.Set("rowBytes", static_cast<double>(
                               options.backend == Backend::kNative ? row_copy_bytes(options.dtype, options.int8) : 0));
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

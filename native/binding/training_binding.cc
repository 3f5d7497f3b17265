// The prefix encoder, training steps and evaluation. All of it runs on the thread of the model it is for.
#include "binding/training_binding.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstring>
#include <functional>
#include <utility>

#include "binding/model_handle.h"
#include "binding/options.h"
#include "core/base/error.h"

namespace neox::binding {
namespace {

using Named = std::vector<std::pair<std::string, at::Tensor>>;

TrainingBatch parse_batch(const Napi::Object& o) {
  return {get_ids(o, "tokens"), get_ids(o, "targets"), get_ids(o, "lengths")};
}

Napi::Value loss_to_js(Napi::Env env, const LossSum& sum) {
  auto result = Napi::Object::New(env);
  result.Set("loss", sum.loss);
  result.Set("tokens", static_cast<double>(sum.tokens));
  result.Set("correct", static_cast<double>(sum.correct));
  return result;
}

Napi::Value named_to_js(Napi::Env env, const Named& named) {
  auto result = Napi::Object::New(env);
  for (const auto& [name, tensor] : named) result.Set(name, to_float_array(env, tensor));
  return result;
}

// Most operations here are a few lines: a lambda for the work and one for its result.
template <typename T>
class Task final : public ModelWorker {
 public:
  using WorkFunction = std::function<T(Model&, const CancelFlag&)>;
  using ResultFunction = std::function<Napi::Value(Napi::Env, const T&)>;
  Task(const std::shared_ptr<ModelHandle>& handle, std::shared_ptr<CancelFlag> cancel, WorkFunction work,
       ResultFunction result)
      : ModelWorker(handle, std::move(cancel)), work_(std::move(work)), result_(std::move(result)) {}

 protected:
  void Work() override { value_ = work_(model(), cancel()); }
  Napi::Value Result(Napi::Env env) override { return result_(env, value_); }

 private:
  WorkFunction work_;
  ResultFunction result_;
  T value_{};
};

template <typename T>
Napi::Value queue(const Napi::CallbackInfo& info, std::shared_ptr<CancelFlag> cancel,
                  typename Task<T>::WorkFunction work, typename Task<T>::ResultFunction result) {
  const auto handle = get_handle<ModelHandle>(info[0]);
  return ModelWorker::Queue(info.Env(),
                            std::make_unique<Task<T>>(handle, std::move(cancel), std::move(work), std::move(result)));
}

template <typename T>
Napi::Value handle_to_js(Napi::Env env, const std::shared_ptr<T>& object) {
  return make_handle(env, object);
}

Napi::Value create_encoder(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto o = info[1].As<Napi::Object>();
    EncoderOptions options;
    options.prefix_length = get_int(o, "prefixLength");
    options.projection = get_bool(o, "projection");
    options.input_dim = get_int(o, "inputDim");
    options.hidden_dim = get_int(o, "hiddenDim");
    options.dropout = get_number(o, "dropout");
    options.seed = static_cast<uint64_t>(get_int(o, "seed"));
    return queue<std::shared_ptr<PrefixEncoder>>(
        info, nullptr,
        [options](Model& model, const CancelFlag&) mutable {
          options.output_dim = model.config().num_layers * 2 * model.config().hidden_size;
          return std::make_shared<PrefixEncoder>(options);
        },
        handle_to_js<PrefixEncoder>);
  });
}

Napi::Value encoder_state(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto encoder = get_handle<PrefixEncoder>(info[1]);
    // A copy: the caller reads it while training may go on.
    return queue<Named>(
        info, nullptr, [encoder](Model&, const CancelFlag&) { return encoder->views(encoder->flat().clone()); },
        named_to_js);
  });
}

Napi::Value set_encoder_state(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto encoder = get_handle<PrefixEncoder>(info[1]);
    const auto state = info[2].As<Napi::Object>();
    std::vector<std::vector<float>> values;
    for (const auto& [name, view] : encoder->views(encoder->flat())) {
      values.push_back(get_floats(state, name.c_str()));
      if (static_cast<int64_t>(values.back().size()) != view.numel()) {
        throw CoreError("NEOX_BAD_ARGUMENT", "Encoder tensor " + name + " has " + std::to_string(values.back().size()) +
                                                 " elements, expected " + std::to_string(view.numel()));
      }
    }
    return queue<bool>(
        info, nullptr,
        [encoder, values](Model&, const CancelFlag&) {
          size_t i = 0;
          for (auto& [name, view] : encoder->views(encoder->flat())) {
            std::memcpy(view.template mutable_data_ptr<float>(), values[i].data(), values[i].size() * sizeof(float));
            ++i;
          }
          return true;
        },
        [](Napi::Env env, const bool&) { return env.Undefined(); });
  });
}

Napi::Value encoder_output(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto encoder = get_handle<PrefixEncoder>(info[1]);
    return queue<at::Tensor>(
        info, nullptr, [encoder](Model&, const CancelFlag&) { return encoder->forward(std::nullopt).output; },
        [](Napi::Env env, const at::Tensor& out) -> Napi::Value { return to_float_array(env, out); });
  });
}

Napi::Value fit_encoder_to(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto encoder = get_handle<PrefixEncoder>(info[1]);
    const auto o = info[2].As<Napi::Object>();
    const FitOptions options{get_int(o, "steps"), get_number(o, "learningRate"), get_number(o, "weightDecay")};
    const auto target = std::make_shared<std::vector<float>>(get_floats(o, "target"));
    const auto& e = encoder->options();
    if (static_cast<int64_t>(target->size()) != e.prefix_length * e.output_dim) {
      throw CoreError("NEOX_BAD_ARGUMENT", "The target has " + std::to_string(target->size()) + " elements, expected " +
                                               std::to_string(e.prefix_length * e.output_dim));
    }
    return queue<double>(
        info, get_cancel(o),
        [encoder, options, target](Model&, const CancelFlag& cancel) {
          const auto& size = encoder->options();
          return fit_encoder(*encoder, at::from_blob(target->data(), {size.prefix_length, size.output_dim}, at::kFloat),
                             options, cancel);
        },
        [](Napi::Env env, const double& error) -> Napi::Value { return Napi::Number::New(env, error); });
  });
}

Napi::Value create_trainer(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    std::shared_ptr<PrefixEncoder> encoder;  // null: another rank has it
    if (!info[1].IsNull()) encoder = get_handle<PrefixEncoder>(info[1]);
    const auto o = info[2].As<Napi::Object>();
    TrainerOptions options;
    options.optimizer = {get_number(o, "beta1"), get_number(o, "beta2"), get_number(o, "epsilon"),
                         get_number(o, "weightDecay")};
    options.decay_biases = get_string(o, "decay") == "all";
    options.checkpointing = get_bool(o, "checkpointing");
    options.copy_weights = get_bool(o, "copyWeights");
    if (!encoder) options.prefix_length = get_int(o, "prefixLength");
    options.keep_lanes = has_value(o, "keepLanes") && get_bool(o, "keepLanes");
    return queue<std::shared_ptr<Trainer>>(
        info, get_cancel(o),
        [encoder, options](Model& model, const CancelFlag& cancel) {
          return std::make_shared<Trainer>(model, encoder, options, cancel);
        },
        handle_to_js<Trainer>);
  });
}

Napi::Value trainer_accumulate(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto trainer = get_handle<Trainer>(info[1]);
    const auto o = info[2].As<Napi::Object>();
    const auto batch = std::make_shared<TrainingBatch>(parse_batch(o));
    const int64_t lane = has_value(o, "lane") ? get_int(o, "lane") : 0;
    const double loss_scale = get_number(o, "lossScale");
    return queue<LossSum>(
        info, get_cancel(o),
        [trainer, batch, lane, loss_scale](Model& model, const CancelFlag& cancel) {
          return trainer->accumulate(model, *batch, lane, loss_scale, cancel);
        },
        loss_to_js);
  });
}

// The prefix of the step, computed here where the encoder is here, and made ready to be exchanged.
Napi::Value trainer_prefix(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto trainer = get_handle<Trainer>(info[1]);
    return queue<bool>(
        info, nullptr,
        [trainer](Model&, const CancelFlag&) {
          trainer->prefix_values();
          return true;
        },
        [](Napi::Env env, const bool&) { return env.Undefined(); });
  });
}

Napi::Value trainer_step(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto trainer = get_handle<Trainer>(info[1]);
    const auto o = info[2].As<Napi::Object>();
    const double learning_rate = get_number(o, "learningRate");
    const double clip = get_number(o, "gradClip");
    return queue<StepResult>(
        info, nullptr,
        [trainer, learning_rate, clip](Model&, const CancelFlag&) { return trainer->step(learning_rate, clip); },
        [](Napi::Env env, const StepResult& step) -> Napi::Value {
          auto result = Napi::Object::New(env);
          result.Set("loss", step.loss);
          result.Set("tokens", static_cast<double>(step.tokens));
          result.Set("gradNorm", step.grad_norm);
          result.Set("applied", step.applied);
          return result;
        });
  });
}

Napi::Value trainer_reset(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto trainer = get_handle<Trainer>(info[1]);
    return queue<bool>(
        info, nullptr,
        [trainer](Model&, const CancelFlag&) {
          trainer->reset();
          return true;
        },
        [](Napi::Env env, const bool&) { return env.Undefined(); });
  });
}

Napi::Value trainer_state(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto trainer = get_handle<Trainer>(info[1]);
    return queue<TrainerState>(
        info, nullptr, [trainer](Model&, const CancelFlag&) { return trainer->state(); },
        [](Napi::Env env, const TrainerState& state) -> Napi::Value {
          auto result = Napi::Object::New(env);
          result.Set("steps", static_cast<double>(state.optimizer.steps));
          result.Set("mean", to_float_array(env, state.optimizer.mean));
          result.Set("square", to_float_array(env, state.optimizer.square));
          result.Set("gradient", state.gradient.defined() ? to_float_array(env, state.gradient) : env.Null());
          result.Set("loss", state.loss);
          result.Set("tokens", static_cast<double>(state.tokens));
          return result;
        });
  });
}

Napi::Value set_trainer_state(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto trainer = get_handle<Trainer>(info[1]);
    const auto o = info[2].As<Napi::Object>();
    const auto tensor = [&](const char* key) -> at::Tensor {
      const auto values = get_floats(o, key);
      at::Tensor copy = at::empty({static_cast<int64_t>(values.size())}, at::kFloat);
      std::memcpy(copy.mutable_data_ptr<float>(), values.data(), values.size() * sizeof(float));
      return copy;
    };
    TrainerState state;
    state.optimizer = {get_int(o, "steps"), tensor("mean"), tensor("square")};
    if (has_value(o, "gradient")) state.gradient = tensor("gradient");
    state.loss = get_number(o, "loss");
    state.tokens = get_int(o, "tokens");
    return queue<bool>(
        info, nullptr,
        [trainer, state](Model&, const CancelFlag&) {
          trainer->set_state(state);
          return true;
        },
        [](Napi::Env env, const bool&) { return env.Undefined(); });
  });
}

Napi::Value trainer_gradients(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto trainer = get_handle<Trainer>(info[1]);
    const auto encoder = get_handle<PrefixEncoder>(info[2]);
    return queue<Named>(
        info, nullptr, [trainer, encoder](Model&, const CancelFlag&) { return encoder->views(trainer->gradient()); },
        named_to_js);
  });
}

Napi::Value evaluate(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto o = info[1].As<Napi::Object>();
    const auto batch = std::make_shared<TrainingBatch>(parse_batch(o));
    const std::shared_ptr<const KeyValueBlock> prefix =
        has_value(o, "prefix") ? get_handle<KeyValueBlock>(o.Get("prefix")) : nullptr;
    return queue<LossSum>(
        info, get_cancel(o),
        [prefix, batch](Model& model, const CancelFlag& cancel) {
          return evaluate_batch(model, prefix.get(), *batch, cancel);
        },
        loss_to_js);
  });
}

}  // namespace

void export_training_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("createEncoder", Napi::Function::New(env, create_encoder, "createEncoder"));
  exports.Set("encoderState", Napi::Function::New(env, encoder_state, "encoderState"));
  exports.Set("setEncoderState", Napi::Function::New(env, set_encoder_state, "setEncoderState"));
  exports.Set("encoderOutput", Napi::Function::New(env, encoder_output, "encoderOutput"));
  exports.Set("fitEncoder", Napi::Function::New(env, fit_encoder_to, "fitEncoder"));
  exports.Set("createTrainer", Napi::Function::New(env, create_trainer, "createTrainer"));
  exports.Set("trainerAccumulate", Napi::Function::New(env, trainer_accumulate, "trainerAccumulate"));
  exports.Set("trainerPrefix", Napi::Function::New(env, trainer_prefix, "trainerPrefix"));
  exports.Set("trainerStep", Napi::Function::New(env, trainer_step, "trainerStep"));
  exports.Set("trainerReset", Napi::Function::New(env, trainer_reset, "trainerReset"));
  exports.Set("trainerState", Napi::Function::New(env, trainer_state, "trainerState"));
  exports.Set("setTrainerState", Napi::Function::New(env, set_trainer_state, "setTrainerState"));
  exports.Set("trainerGradients", Napi::Function::New(env, trainer_gradients, "trainerGradients"));
  exports.Set("evaluate", Napi::Function::New(env, evaluate, "evaluate"));
}

}  // namespace neox::binding

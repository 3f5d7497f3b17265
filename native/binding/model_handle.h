// What JavaScript holds of a model: the model and the thread that its operations run on, one after the other.
#pragma once

#include <memory>

#include "binding/handles.h"
#include "binding/promise_worker.h"
#include "core/base/worker_thread.h"
#include "core/generation/engine.h"
#include "core/model/model.h"
#include "core/training/trainer.h"

namespace neox::binding {

struct ModelHandle {
  std::shared_ptr<WorkerThread> thread;
  std::shared_ptr<Model> model;  // null once disposed
};

// The caches of a batch of rows, as forward() returns them.
struct CacheHandle {
  std::vector<Past> rows;

  // Of the storages that the rows are in, each counted once, with the room to grow.
  int64_t bytes() const;
};

// A generation engine, which works on its model's thread.
struct EngineHandle {
  std::shared_ptr<WorkerThread> thread;
  std::shared_ptr<Engine> engine;  // null once disposed
};

NEOX_HANDLE(ModelHandle, "model", 0x8d1d3f6a2c5b4e10, 0x9a7e61c04fd2b385);
NEOX_HANDLE(KeyValueBlock, "prefix", 0x1b0c7a94e2f84d57, 0x8c3352a1d96be40f);
NEOX_HANDLE(CacheHandle, "cache", 0x5e92d0b7731c4fa8, 0xb41f08c6e7a93d62);
NEOX_HANDLE(Sampler, "sampler", 0xe1a59b3c7d0648f2, 0xa3c4178e5fb20d96);
NEOX_HANDLE(EngineHandle, "engine", 0x89a150b43bae4fd0, 0xb28661dc28e132e9);
NEOX_HANDLE(PrefixEncoder, "encoder", 0xc7f4418e90d24b3b, 0x92d5e83b6a107fc4);
NEOX_HANDLE(Trainer, "trainer", 0x3a6be5d1087f4c92, 0xae80c4f72b5d1936);
NEOX_HANDLE(CancelFlag, "cancel", 0x74c20f9b5ad84e61, 0x87b93de150c6fa28);

// Reads options.cancel, a handle or undefined.
std::shared_ptr<CancelFlag> get_cancel(const Napi::Object& options);

// Work on a model's thread, without autograd's bookkeeping. Holds the model from the call on, so that a dispose that
// follows waits for it.
class ModelWorker : public PromiseWorker {
 public:
  ModelWorker(std::shared_ptr<ModelHandle> handle, std::shared_ptr<CancelFlag> cancel);
  static Napi::Value Queue(Napi::Env env, std::unique_ptr<ModelWorker> worker,
                           const Napi::Value& on_event = Napi::Value());

 protected:
  virtual void Work() = 0;
  void Execute() final;
  Model& model() const { return *model_; }

 private:
  std::shared_ptr<ModelHandle> handle_;
  std::shared_ptr<Model> model_;
};

}  // namespace neox::binding

#include "binding/export_binding.h"

#include <ATen/ops/empty.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "binding/model_handle.h"
#include "binding/options.h"
#include "binding/promise_worker.h"
#include "core/base/error.h"
#include "core/fastertransformer/files.h"

namespace neox::binding {
namespace {

constexpr auto kEventInterval = std::chrono::milliseconds(50);

struct FtJob {
  std::string directory;
  at::ScalarType dtype = at::kHalf;
  std::vector<std::string> names;  // of the files, for events
  std::vector<FtFile> files;
};

FtLayout parse_layout(const std::string& name) {
  static const std::vector<std::pair<std::string, FtLayout>> layouts = {{"copy", FtLayout::copy},
                                                                        {"output_split", FtLayout::output_split},
                                                                        {"input_split", FtLayout::input_split},
                                                                        {"qkv", FtLayout::qkv},
                                                                        {"bias", FtLayout::bias},
                                                                        {"prefix", FtLayout::prefix},
                                                                        {"zeros", FtLayout::zeros}};
  for (const auto& [known, layout] : layouts) {
    if (known == name) return layout;
  }
  throw CoreError("NEOX_BAD_ARGUMENT", "Unknown layout " + name);
}

// A copy of { data: Float32Array, shape: [P, L, 2, N, D] }.
at::Tensor parse_prefix(const Napi::Object& object) {
  const std::vector<float> values = get_floats(object, "data");
  const at::Tensor prefix = at::empty(get_int_list(object, "shape"), at::TensorOptions().dtype(at::kFloat));
  if (static_cast<size_t>(prefix.numel()) != values.size()) {
    throw CoreError("NEOX_BAD_ARGUMENT", "Expected " + std::to_string(prefix.numel()) + " prefix values but received " +
                                             std::to_string(values.size()));
  }
  if (!values.empty()) std::memcpy(prefix.data_ptr(), values.data(), prefix.nbytes());
  return prefix;
}

FtJob parse_job(const Napi::Object& object) {
  FtJob job;
  job.directory = get_string(object, "directory");
  job.dtype = compute_dtype(get_string(object, "dtype"));
  const int64_t ranks = get_int(object, "ranks");
  const int64_t heads = get_int(object, "heads");
  const at::Tensor prefix = has_value(object, "prefix") ? parse_prefix(get_object(object, "prefix")) : at::Tensor();
  const Napi::Array files = get_array(object, "files");
  for (uint32_t i = 0; i < files.Length(); ++i) {
    const Napi::HandleScope scope(object.Env());
    const auto description = files.Get(i).As<Napi::Object>();
    FtFile file;
    job.names.push_back(get_string(description, "name"));
    file.path = job.directory + "/" + job.names.back();
    file.layout = parse_layout(get_string(description, "layout"));
    file.rank = get_int(description, "rank");
    file.ranks = ranks;
    file.heads = heads;
    file.divisor = get_int(description, "divisor");
    file.elements = get_int(description, "elements");
    if (file.layout == FtLayout::prefix) file.prefix = prefix;
    const Napi::Array sources = get_array(description, "sources");
    for (uint32_t s = 0; s < sources.Length(); ++s)
      file.sources.push_back(get_tensor_entry(sources.Get(s).As<Napi::Object>()));
    job.files.push_back(std::move(file));
  }
  return job;
}

// Goes through the files of a job; tells which one is at hand and how many bytes are done.
class FilesWorker : public PromiseWorker {
 public:
  FilesWorker(FtJob job, std::shared_ptr<CancelFlag> cancel) : PromiseWorker(std::move(cancel)), job_(std::move(job)) {}

 protected:
  void Execute() override {
    uint64_t done = 0;
    auto next_event = std::chrono::steady_clock::now();
    for (size_t i = 0; i < job_.files.size(); ++i) {
      cancel().check();
      Process(job_.files[i], [&](uint64_t bytes) {
        cancel().check();
        done += bytes;
        const auto now = std::chrono::steady_clock::now();
        if (now < next_event) return;
        next_event = now + kEventInterval;
        EmitProgress(job_.names[i], done);
      });
    }
    Finish();
  }

  virtual void Process(const FtFile& file, const FtProgress& progress) = 0;
  virtual void Finish() {}

  const FtJob& job() const { return job_; }

 private:
  void EmitProgress(const std::string& name, uint64_t done) {
    Emit([name, done](Napi::Env env) -> Napi::Value {
      Napi::Object event = Napi::Object::New(env);
      event.Set("file", Napi::String::New(env, name));
      event.Set("bytesDone", Napi::Number::New(env, static_cast<double>(done)));
      return event;
    });
  }

  FtJob job_;
};

class WriteFilesWorker final : public FilesWorker {
 public:
  using FilesWorker::FilesWorker;

 protected:
  void Process(const FtFile& file, const FtProgress& progress) override {
    counts_.push_back(write_ft_file(file, job().dtype, progress));
  }

  void Finish() override {
    std::vector<std::string> paths;
    for (const FtFile& file : job().files) paths.push_back(file.path);
    sync_ft_files(paths, job().directory);
  }

  Napi::Value Result(Napi::Env env) override {
    Napi::Array results = Napi::Array::New(env, counts_.size());
    for (size_t i = 0; i < counts_.size(); ++i) {
      Napi::Object result = Napi::Object::New(env);
      result.Set("overflowed", Napi::Number::New(env, static_cast<double>(counts_[i].overflowed)));
      result.Set("nonFinite", Napi::Number::New(env, static_cast<double>(counts_[i].non_finite)));
      results.Set(static_cast<uint32_t>(i), result);
    }
    return results;
  }

 private:
  std::vector<FtCounts> counts_;
};

class CompareFilesWorker final : public FilesWorker {
 public:
  using FilesWorker::FilesWorker;

 protected:
  void Process(const FtFile& file, const FtProgress& progress) override {
    comparisons_.push_back(compare_ft_file(file, job().dtype, progress));
  }

  Napi::Value Result(Napi::Env env) override {
    Napi::Array results = Napi::Array::New(env, comparisons_.size());
    for (size_t i = 0; i < comparisons_.size(); ++i) {
      const FtComparison& comparison = comparisons_[i];
      Napi::Object result = Napi::Object::New(env);
      result.Set("missing", Napi::Boolean::New(env, comparison.missing));
      result.Set("expectedBytes", Napi::Number::New(env, static_cast<double>(comparison.expected_bytes)));
      result.Set("actualBytes", Napi::Number::New(env, static_cast<double>(comparison.actual_bytes)));
      result.Set("differing", Napi::Number::New(env, static_cast<double>(comparison.differing)));
      result.Set("maxAbsDifference", Napi::Number::New(env, comparison.max_abs_difference));
      results.Set(static_cast<uint32_t>(i), result);
    }
    return results;
  }

 private:
  std::vector<FtComparison> comparisons_;
};

// The disk is waited for on a thread of its own, so that neither the JavaScript thread nor a model's nor libuv's pool
// stands still meanwhile.
template <typename Worker>
Napi::Value start(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const auto options = info[0].As<Napi::Object>();
    auto worker = std::make_unique<Worker>(parse_job(options), get_cancel(options));
    return PromiseWorker::Start(info.Env(), WorkerThread::create(), std::move(worker), options.Get("onProgress"));
  });
}

}  // namespace

void export_fastertransformer_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("writeFastertransformer", Napi::Function::New(env, start<WriteFilesWorker>, "writeFastertransformer"));
  exports.Set("compareFastertransformer",
              Napi::Function::New(env, start<CompareFilesWorker>, "compareFastertransformer"));
}

}  // namespace neox::binding

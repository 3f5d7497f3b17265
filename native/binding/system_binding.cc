// systemInfo: what libtorch and the processor offer. shutdown: the end of the process.
#include "binding/system_binding.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/version.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <string>
#include <vector>

#include "binding/errors.h"
#include "binding/options.h"
#include "core/backends/registry.h"
#include "core/base/worker_thread.h"
#include "core/kernels/kernels.h"

namespace neox::binding {
namespace {

Napi::Value to_js_strings(Napi::Env env, const std::vector<std::string>& strings) {
  auto array = Napi::Array::New(env, strings.size());
  for (uint32_t i = 0; i < strings.size(); ++i) array.Set(i, strings[i]);
  return array;
}

std::vector<std::string> cpu_features() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  const auto add = [&](const char* name, bool present) {
    if (present) found.emplace_back(name);
  };
  add("AVX2", __builtin_cpu_supports("avx2") != 0);
  add("FMA", __builtin_cpu_supports("fma") != 0);
  add("AVX512F", __builtin_cpu_supports("avx512f") != 0);
  add("AVX512_VNNI", __builtin_cpu_supports("avx512vnni") != 0);
  add("AVX512_BF16", __builtin_cpu_supports("avx512bf16") != 0);
  unsigned int eax = 0;
  unsigned int ebx = 0;
  unsigned int ecx = 0;
  unsigned int edx = 0;
  add("AMX", __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & (1U << 24U)) != 0);
#elif defined(__aarch64__)
  found.emplace_back("NEON");
#endif
  return found;
}

Napi::Value system_info(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    const Napi::Env env = info.Env();
    auto backends = Napi::Object::New(env);
    for (const Backend* const backend : neox::backends()) {
      std::vector<std::string> dtypes;
      for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
        if (backend->supports(dtype, at::kCPU)) dtypes.emplace_back(dtype_name(dtype));
      }
      if (backend->int8_activations(at::kCPU)) dtypes.emplace_back("int8");
      backends.Set(backend->name(), to_js_strings(env, dtypes));
    }
    auto result = Napi::Object::New(env);
    result.Set("torchVersion", TORCH_VERSION);
    result.Set("threads", at::get_num_threads());
    result.Set("cpuCapability", at::get_cpu_capability());
    result.Set("cpuFeatures", to_js_strings(env, cpu_features()));
    result.Set("kernels", kernels::kernels().name);
    result.Set("backends", backends);
    result.Set("cudaAvailable", at::hasCUDA());
    result.Set("cudaDevices", at::hasCUDA() ? static_cast<int>(at::detail::getCUDAHooks().getNumGPUs()) : 0);
    return result;
  });
}

Napi::Value shutdown(const Napi::CallbackInfo& info) {
  return guarded(info, [&]() -> Napi::Value {
    WorkerThread::stop_all();
    return info.Env().Undefined();
  });
}

}  // namespace

void export_system_functions(Napi::Env env, Napi::Object exports) {
  exports.Set("systemInfo", Napi::Function::New(env, system_info, "systemInfo"));
  exports.Set("shutdown", Napi::Function::New(env, shutdown, "shutdown"));
}

}  // namespace neox::binding

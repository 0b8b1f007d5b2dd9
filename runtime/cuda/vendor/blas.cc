#include "lockstep/runtime/cuda/blas.h"

#include <cublasLt.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/cuda/vendor/blas_descriptors.h"
#include "lockstep/runtime/cuda/vendor/check.h"
#include "lockstep/runtime/log.h"

namespace lockstep::cuda {
namespace {

// What cuBLAS's documentation advises for Hopper.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr int kCandidates = 8;
constexpr size_t kMostPlans = 4096;
// From how much work on it pays to time the candidates, and of how many shapes: those of a model
// are few; where they change with every batch, timing would never end.
constexpr double kLargeFlops = 1e9;
constexpr int kMostTimed = 256;
constexpr int kRuns = 3;
// The library's first choice stays unless another one takes less than this part of its time.
constexpr float kClearlyLess = 0.98F;

// How a product of one shape is done.
struct Plan {
  Descriptors descriptors;
  std::vector<cublasLtMatmulHeuristicResult_t> candidates;  // the one to take is the first
  bool settled = false;                                     // nothing more is to be timed
  bool in_steps = false;                                    // not by one product

  Plan(const Product& p, bool tf32) : descriptors(p, tf32) {}
};

class Event {
 public:
  Event() { LOCKSTEP_CUDA(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

bool is_on(const char* variable, bool usually) {
  const char* asked = std::getenv(variable);
  return asked == nullptr ? usually : std::strcmp(asked, "1") == 0;
}

bool is_large(const Product& p) {
  return 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k) *
             static_cast<double>(p.batch) >=
         kLargeFlops;
}

bool is_captured(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  LOCKSTEP_CUDA(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

class CublasLt final : public Blas {
 public:
  CublasLt() {
    check(cublasLtCreate(&handle_), "cublasLtCreate");
    tf32_ = is_on("LOCKSTEP_TF32", false);
    tunes_ = is_on("LOCKSTEP_TUNE", true);
  }
  ~CublasLt() override { cublasLtDestroy(handle_); }

  void multiply(const Product& p, Queue& queue, const std::function<void()>& in_steps) override {
    const Stream stream = queue.stream();  // the device is this thread's from here on
    const std::lock_guard lock(mutex_);
    const std::shared_ptr<Plan> plan = plan_of(p);
    if (!plan->settled && !is_captured(stream)) settle(*plan, p, queue, stream, in_steps);
    if (!plan->in_steps) {
      const cublasStatus_t status = run(*plan, plan->candidates.front(), p, queue, stream);
      if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
        return;
      if (status != CUBLAS_STATUS_NOT_SUPPORTED || !in_steps) check(status, "cublasLtMatmul");
      refuse(*plan, p, status);
    }
    LOCKSTEP_CHECK(in_steps, "cuBLASLt has no product ", name_of(p));
    in_steps();
  }

 private:
  std::shared_ptr<Plan> plan_of(const Product& p) {
    const Key key = key_of(p);
    const auto known = plans_.find(key);
    if (known != plans_.end()) return known->second;
    auto plan = std::make_shared<Plan>(p, tf32_);
    const cublasStatus_t status = ask(*plan, p);
    if (plan->candidates.empty()) {
      if (p.epilogue == Epilogue::none) check(status, "cublasLtMatmulAlgoGetHeuristic");
      refuse(*plan, p, status);
    }
    plan->settled = plan->in_steps || !times(p);
    if (plans_.size() >= kMostPlans) plans_.clear();
    return plans_.emplace(key, std::move(plan)).first->second;
  }

  bool times(const Product& p) const { return tunes_ && timed_ < kMostTimed && is_large(p); }

  // The library's candidates for the shape, the one it thinks fastest first.
  cublasStatus_t ask(Plan& plan, const Product& p) {
    Preference preference;
    check(cublasLtMatmulPreferenceCreate(preference.made()), "cublasLtMatmulPreferenceCreate");
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    // A product in parts is summed in the type that it is computed in.
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.c));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.c));
    const int wanted = times(p) ? kCandidates : 1;
    int count = 0;
    plan.candidates.resize(static_cast<size_t>(wanted));
    const Descriptors& d = plan.descriptors;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, d.description.get(), d.b.get(), d.a.get(), d.c.get(), d.c.get(), preference.get(),
        wanted, plan.candidates.data(), &count);
    plan.candidates.resize(status == CUBLAS_STATUS_SUCCESS ? static_cast<size_t>(count) : 0);
    std::erase_if(plan.candidates, [](const cublasLtMatmulHeuristicResult_t& candidate) {
      return candidate.state != CUBLAS_STATUS_SUCCESS;
    });
    return status;
  }

  // From now on products of this shape are done in steps.
  static void refuse(Plan& plan, const Product& p, cublasStatus_t status) {
    plan.in_steps = plan.settled = true;
    log(LogLevel::info,
        {"product ", name_of(p), ": in steps, cuBLASLt does not take it (",
         status == CUBLAS_STATUS_SUCCESS ? "no algorithm" : cublasLtGetStatusName(status), ")"});
  }

  cublasStatus_t run(const Plan& plan, const cublasLtMatmulHeuristicResult_t& candidate,
                     const Product& p, Queue& queue, Stream stream) {
    const Descriptors& d = plan.descriptors;
    d.point_at(p);
    const Scratch workspace(queue, candidate.workspaceSize);
    const float one = 1, beta = static_cast<float>(p.beta);
    const double one_double = 1;
    const bool is_double = p.c.dtype == DType::f64;
    return cublasLtMatmul(
        handle_, d.description.get(),
        is_double ? static_cast<const void*>(&one_double) : static_cast<const void*>(&one),
        p.b.data, d.b.get(), p.a.data, d.a.get(),
        is_double ? static_cast<const void*>(&p.beta) : static_cast<const void*>(&beta), p.c.data,
        d.c.get(), p.c.data, d.c.get(), &candidate.algo, workspace.as<void>(),
        candidate.workspaceSize, stream);
  }

  // Times the candidates and puts the fastest first; then against the steps. With beta 0 all of
  // them write the product's own results, which the call that follows writes once more; else they
  // add to memory of their own.
  void settle(Plan& plan, const Product& p, Queue& queue, Stream stream,
              const std::function<void()>& in_steps) {
    plan.settled = true;
    ++timed_;
    try {
      std::optional<Scratch> sums;
      Product timed = p;
      if (p.beta != 0) {
        const int64_t elements = (p.batch - 1) * p.c.batch_stride + (p.m - 1) * p.c.leading + p.n;
        const size_t bytes = static_cast<size_t>(elements) * size_of(p.c.dtype);
        sums.emplace(queue, bytes);
        timed.c.data = sums->as<void>();
        queue.set_zero(timed.c.data, bytes);
      }
      const float fastest = order_by_time(plan, timed, queue, stream);
      if (!in_steps || p.epilogue == Epilogue::bias) return;
      if (p.beta == 0) {
        compare_with_steps(plan, p, fastest, stream, in_steps);
      } else {  // as was found where nothing was added
        Product first = p;
        first.beta = 0;
        const auto known = plans_.find(key_of(first));
        plan.in_steps = known != plans_.end() && known->second->in_steps;
      }
    } catch (const OutOfMemory&) {
      // Nothing is timed.
    }
  }

  float order_by_time(Plan& plan, const Product& p, Queue& queue, Stream stream) {
    std::vector<cublasLtMatmulHeuristicResult_t>& all = plan.candidates;
    size_t best = 0;
    float first = 0, fastest = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
      const float time = milliseconds(stream, [&] {
        if (status == CUBLAS_STATUS_SUCCESS) status = run(plan, all[i], p, queue, stream);
      });
      if (status != CUBLAS_STATUS_SUCCESS) continue;
      if (i == 0) first = time;
      if (fastest != 0 && time >= fastest * (best == 0 ? kClearlyLess : 1)) continue;
      fastest = time;
      best = i;
    }
    if (fastest == 0) return 0;  // the first one's call says why
    std::swap(all.front(), all[best]);
    all.resize(1);
    log(LogLevel::debug, {"product ", name_of(p), ": algorithm ", best + 1, " takes ", fastest,
                          " ms, the first ", first, " ms"});
    return fastest;
  }

  static void compare_with_steps(Plan& plan, const Product& p, float fastest, Stream stream,
                                 const std::function<void()>& in_steps) {
    const float time = milliseconds(stream, in_steps);
    plan.in_steps = fastest == 0 || time < fastest;
    log(plan.in_steps ? LogLevel::info : LogLevel::debug,
        {"product ", name_of(p), ": ", fastest, " ms, in steps ", time, " ms"});
  }

  // Of one of several runs, after one.
  template <class Work>
  static float milliseconds(Stream stream, const Work& work) {
    const Event begin, end;
    work();
    LOCKSTEP_CUDA(cudaEventRecord(begin.get(), stream));
    for (int i = 0; i < kRuns; ++i) work();
    LOCKSTEP_CUDA(cudaEventRecord(end.get(), stream));
    LOCKSTEP_CUDA(cudaEventSynchronize(end.get()));
    float time = 0;
    LOCKSTEP_CUDA(cudaEventElapsedTime(&time, begin.get(), end.get()));
    return time / kRuns;
  }

  cublasLtHandle_t handle_ = nullptr;
  bool tf32_ = false;
  bool tunes_ = true;
  int timed_ = 0;               // shapes
  std::recursive_mutex mutex_;  // steps are products too
  std::unordered_map<Key, std::shared_ptr<Plan>, KeyHash> plans_;
};

}  // namespace

std::unique_ptr<Blas> make_blas() { return std::make_unique<CublasLt>(); }

}  // namespace lockstep::cuda

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
#include "lockstep/runtime/cuda/kernels/small_product.h"
#include "lockstep/runtime/cuda/vendor/blas_descriptors.h"
#include "lockstep/runtime/cuda/vendor/check.h"
#include "lockstep/runtime/cuda/vendor/timer.h"
#include "lockstep/runtime/log.h"

namespace lockstep::cuda {
namespace {

// What cuBLAS's documentation advises for Hopper.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr size_t kMostPlans = 4096;
// The library's first choice stays unless another one takes less than this part of its time.
constexpr float kClearlyLess = 0.98F;

// How the candidates for products from some size on are timed, and of how many shapes: those of a
// model are few; where they change with every batch, timing would never end.
struct Timing {
  double least_flops;
  int most_shapes;
  int candidates;
  Repetitions repetitions;
};
// While other ranks' collectives may run, of which the shortest of several times knows least.
constexpr Timing kLarge{1e9, 256, 8, {.runs = 2, .rounds = 3}};
// A few microseconds each: into how many parts the sums of a small result are best cut, and whether
// a second kernel for adding those pays, is a matter of one or two.
constexpr Timing kSmall{5e5, 64, 24, {.runs = 20, .rounds = 3}};

enum class Way : uint8_t { library, own_kernel, steps };

// How a product of one shape is done.
struct Plan {
  Descriptors descriptors;
  std::vector<cublasLtMatmulHeuristicResult_t> candidates;  // the one to take is the first
  bool settled = false;                                     // nothing more is to be timed
  Way way = Way::library;
  int tiling = 0;  // of our own kernel

  Plan(const Product& p, bool tf32) : descriptors(p, tf32) {}
};

bool is_on(const char* variable, bool usually) {
  const char* asked = std::getenv(variable);
  return asked == nullptr ? usually : std::strcmp(asked, "1") == 0;
}

// Null: it is too small to be timed.
const Timing* timing_of(const Product& p) {
  const double flops = 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) *
                       static_cast<double>(p.k) * static_cast<double>(p.batch);
  if (flops >= kLarge.least_flops) return &kLarge;
  return flops >= kSmall.least_flops ? &kSmall : nullptr;
}

// How a product may be cut in parts along its sums, which are added up in the type that it is
// computed in. In place, one part after the other, that is the result's: no kernel adds them then.
uint32_t reductions_of(const Product& p) {
  constexpr uint32_t kAside =
      CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  const bool wide = p.c.dtype == DType::f32 || p.c.dtype == DType::f64;
  return wide ? kAside | CUBLASLT_REDUCTION_SCHEME_INPLACE : kAside;
}

// How an algorithm cuts the sums of a product, for the log.
std::string cut_of(const cublasLtMatmulAlgo_t& algorithm) {
  int32_t parts = 0;
  uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
  size_t written = 0;
  cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &parts,
                                       sizeof parts, &written);
  cublasLtMatmulAlgoConfigGetAttribute(&algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                       &reduction, sizeof reduction, &written);
  if (parts <= 1) return "";
  const bool in_place = reduction == CUBLASLT_REDUCTION_SCHEME_INPLACE;
  return concat({", in ", parts, in_place ? " parts" : " parts that a second kernel adds"});
}

class CublasLt final : public Blas {
 public:
  CublasLt() {
    check(cublasLtCreate(&handle_), "cublasLtCreate");
    tf32_ = is_on("LOCKSTEP_TF32", false);
    tunes_ = is_on("LOCKSTEP_TUNE", true);
    LOCKSTEP_CUDA(cudaStreamCreateWithFlags(&aside_, cudaStreamNonBlocking));
  }
  ~CublasLt() override {
    cublasLtDestroy(handle_);
    cudaStreamDestroy(aside_);
  }

  void multiply(const Product& p, Queue& queue, const std::function<void()>& in_steps) override {
    const Stream stream = queue.stream();  // the device is this thread's from here on
    const std::lock_guard lock(mutex_);
    const std::shared_ptr<Plan> plan = plan_of(p);
    if (!plan->settled && !Detour::is_on()) settle(*plan, p, queue, in_steps);
    if (plan->way == Way::own_kernel) return small_product(p, plan->tiling, queue);
    if (plan->way == Way::library) {
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
    plan->settled = plan->way == Way::steps || timing(p) == nullptr;
    if (plans_.size() >= kMostPlans) plans_.clear();
    return plans_.emplace(key, std::move(plan)).first->second;
  }

  // Null: it is not timed.
  const Timing* timing(const Product& p) const {
    const Timing* how = tunes_ ? timing_of(p) : nullptr;
    return how != nullptr && timed_[how == &kLarge] < how->most_shapes ? how : nullptr;
  }

  // The library's candidates for the shape, the one it thinks fastest first.
  cublasStatus_t ask(Plan& plan, const Product& p) {
    Preference preference;
    check(cublasLtMatmulPreferenceCreate(preference.made()), "cublasLtMatmulPreferenceCreate");
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions_of(p));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.c));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.c));
    const Timing* how = timing(p);
    const int wanted = how == nullptr ? 1 : how->candidates;
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
    plan.way = Way::steps;
    plan.settled = true;
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

  // Times the candidates and puts the fastest first; then our own kernel, and the steps. With beta
  // 0 all of them write the product's own results, which the call that follows writes once more;
  // else they add to memory of their own.
  void settle(Plan& plan, const Product& p, Queue& queue, const std::function<void()>& in_steps) {
    plan.settled = true;
    const Timing& how = *timing_of(p);
    ++timed_[&how == &kLarge];
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
      float fastest = order_by_time(plan, timed, how.repetitions, queue);
      if (&how == &kSmall && !tf32_) {
        fastest = compare_with_own_kernel(plan, timed, fastest, how.repetitions, queue);
      }
      if (!in_steps || p.epilogue == Epilogue::bias) return;
      if (p.beta == 0) {
        compare_with_steps(plan, p, fastest, how.repetitions, queue, in_steps);
      } else {  // as was found where nothing was added
        Product first = p;
        first.beta = 0;
        const auto known = plans_.find(key_of(first));
        if (known != plans_.end() && known->second->way == Way::steps) plan.way = Way::steps;
      }
    } catch (const Error&) {
      // Nothing is timed. What is wrong shows in the product itself.
      cudaGetLastError();
    }
  }

  float order_by_time(Plan& plan, const Product& p, const Repetitions& repetitions, Queue& queue) {
    std::vector<cublasLtMatmulHeuristicResult_t>& all = plan.candidates;
    size_t best = 0;
    float first = 0, fastest = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
      const float time = milliseconds(queue, aside_, repetitions, [&](Stream stream) {
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
                          " ms", cut_of(all.front().algo), ", the first ", first, " ms"});
    return fastest;
  }

  // The shorter time of both; 0 as in order_by_time.
  float compare_with_own_kernel(Plan& plan, const Product& p, float library,
                                const Repetitions& repetitions, Queue& queue) {
    float fastest = library;
    for (int tiling = 0; tiling < kSmallProductTilings; ++tiling) {
      if (!has_small_product(p, tiling)) continue;
      try {
        const float time = milliseconds(queue, aside_, repetitions,
                                        [&](Stream) { small_product(p, tiling, queue); });
        const bool was_library = plan.way == Way::library;
        if (fastest != 0 && time >= fastest * (was_library ? kClearlyLess : 1)) continue;
        fastest = time;
        plan.way = Way::own_kernel;
        plan.tiling = tiling;
      } catch (const Error&) {
        cudaGetLastError();  // a device with less shared memory than this one wants
      }
    }
    if (plan.way == Way::own_kernel) {
      log(LogLevel::debug, {"product ", name_of(p), ": own kernel, tiling ", plan.tiling,
                            ", takes ", fastest, " ms, the library ", library, " ms"});
    }
    return fastest;
  }

  void compare_with_steps(Plan& plan, const Product& p, float fastest,
                          const Repetitions& repetitions, Queue& queue,
                          const std::function<void()>& in_steps) {
    const float time = milliseconds(queue, aside_, repetitions, [&](Stream) { in_steps(); });
    const bool faster = fastest == 0 || time < fastest;
    if (faster) plan.way = Way::steps;
    log(faster ? LogLevel::info : LogLevel::debug,
        {"product ", name_of(p), ": ", fastest, " ms, in steps ", time, " ms"});
  }

  cublasLtHandle_t handle_ = nullptr;
  bool tf32_ = false;
  bool tunes_ = true;
  Stream aside_ = nullptr;      // where what is timed is written down
  int timed_[2] = {0, 0};       // shapes: small, large
  std::recursive_mutex mutex_;  // steps are products too
  std::unordered_map<Key, std::shared_ptr<Plan>, KeyHash> plans_;
};

}  // namespace

std::unique_ptr<Blas> make_blas() { return std::make_unique<CublasLt>(); }

}  // namespace lockstep::cuda

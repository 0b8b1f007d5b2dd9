#include "lockstep/runtime/cpu/elementwise.h"

#include <algorithm>

#include "lockstep/runtime/cpu/convert.h"
#include "lockstep/runtime/cpu/windows.h"
#include "lockstep/runtime/error.h"
#include "lockstep/runtime/math/binary.h"
#include "lockstep/runtime/math/unary.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

namespace {

constexpr int64_t kBlock = 1024;       // elements staged at a time
constexpr int64_t kGrain = 32 * 1024;  // elements worth a thread
constexpr int64_t kShortRun = 64;      // shorter runs are staged together

DType compute_dtype(DType dtype) {
  if (dtype == DType::f64) return DType::f64;
  return is_floating(dtype) ? DType::f32 : DType::i64;
}

const ElementwiseLoops& loops_for(const Loops& loops, DType compute) {
  if (compute == DType::f64) return loops.f64.elementwise;
  return compute == DType::f32 ? loops.f32.elementwise : integer_loops();
}

// One call of a loop over windows: inputs first, the output last.
struct Job {
  ElementwiseLoop loop;
  const double* attributes;
  DType stages[Windows::kMost];  // the dtype that the loop reads or writes for each window
  double beta = 0;
};

class Run {
 public:
  Run(const Loops& loops, const Job& job, std::initializer_list<const View*> views)
      : loops_(loops), job_(job), windows_(views), output_(windows_.count - 1) {
    for (int w = 0; w < windows_.count; ++w) {
      const Windows::Window& window = windows_.windows[w];
      constant_[w] = w != output_ && window.data != nullptr && windows_.constant(w);
      dense_[w] =
          window.data != nullptr && windows_.unit_stride(w) && window.dtype == job_.stages[w];
      all_dense_ &= dense_[w] || window.data == nullptr;
    }
    all_dense_ &= job_.beta == 0;
  }

  void operator()() const {
    parallel_for(windows_.elements, kGrain,
                 [this](int64_t begin, int64_t end) { range(begin, end); });
  }

 private:
  using Scratch = std::byte[Windows::kMost + 1][kBlock * sizeof(double)];

  // Rows are cut at multiples of the grain, whatever part a thread has: vectors and what is left of
  // a run after them may round differently.
  void range(int64_t begin, int64_t end) const {
    const bool by_rows = windows_.inner() >= kShortRun || windows_.rank == 1;
    if (all_dense_ && by_rows) {
      for (; begin < end; begin += kGrain) dense_rows(begin, std::min(end, begin + kGrain));
      return;
    }
    alignas(64) Scratch scratch;
    const void* inputs[Windows::kMost] = {};
    for (int w = 0; w < output_; ++w) {
      if (!constant_[w]) continue;
      gather(loops_, windows_, w, begin, std::min(kBlock, end - begin), scratch[w], job_.stages[w]);
      inputs[w] = scratch[w];
    }
    const int64_t inner = windows_.inner();
    while (begin < end) {
      int64_t n = std::min(end - begin, kBlock);
      if (by_rows) n = std::min({n, inner - begin % inner, kGrain - begin % kGrain});
      chunk(begin, n, by_rows, inputs, scratch);
      begin += n;
    }
  }

  void dense_rows(int64_t begin, int64_t end) const {
    for_runs(windows_, begin, end - begin, [&](const Cursor& at, int64_t, int64_t n) {
      const void* inputs[Windows::kMost] = {};
      for (int w = 0; w < output_; ++w) inputs[w] = at.pointer(w);
      job_.loop(job_.attributes, inputs, at.pointer(output_), n);
    });
  }

  // `in_row`: the elements lie in one run, so dense windows need no staging.
  void chunk(int64_t start, int64_t n, bool in_row, const void** inputs, Scratch& scratch) const {
    const Cursor at(windows_, start);
    for (int w = 0; w < output_; ++w) {
      if (windows_.windows[w].data == nullptr || constant_[w]) continue;
      if (in_row && dense_[w]) {
        inputs[w] = at.pointer(w);
      } else {
        gather(loops_, windows_, w, start, n, scratch[w], job_.stages[w]);
        inputs[w] = scratch[w];
      }
    }
    if (in_row && dense_[output_] && job_.beta == 0) {
      job_.loop(job_.attributes, inputs, at.pointer(output_), n);
      return;
    }
    void* result = scratch[output_];
    job_.loop(job_.attributes, inputs, result, n);
    if (job_.beta != 0) {
      const DType stage = job_.stages[output_];
      void* before = scratch[output_ + 1];
      gather(loops_, windows_, output_, start, n, before, stage);
      const double factors[2] = {job_.beta, 1};
      const void* both[2] = {before, result};
      loops_for(loops_, stage).scale_add(factors, both, result, n);
    }
    scatter(loops_, windows_, output_, start, n, result, job_.stages[output_]);
  }

  const Loops& loops_;
  const Job& job_;
  Windows windows_;
  int output_;
  bool constant_[Windows::kMost] = {};
  bool dense_[Windows::kMost] = {};
  bool all_dense_ = true;
};

// The common case, without any of the above: everything dense, of one dtype and in one order.
bool run_dense(const Job& job, std::initializer_list<const View*> views) {
  if (job.beta != 0) return false;
  const View& output = **(views.end() - 1);
  int w = 0;
  for (const View* view : views) {
    const DType stage = job.stages[w++];
    if (view->data == nullptr) continue;
    if (view->dtype != stage || !view->contiguous()) return false;
  }
  const int inputs = static_cast<int>(views.size()) - 1;
  parallel_for(output.elements(), kGrain, [&](int64_t begin, int64_t end) {
    const void* pointers[Windows::kMost] = {};
    for (int i = 0; i < inputs; ++i) {
      const char* data = static_cast<const char*>(views.begin()[i]->data);
      if (data != nullptr) pointers[i] = data + begin * int64_t(size_of(job.stages[i]));
    }
    char* target = static_cast<char*>(output.data) + begin * int64_t(size_of(output.dtype));
    job.loop(job.attributes, pointers, target, end - begin);
  });
  return true;
}

void run(const Loops& loops, const Job& job, std::initializer_list<const View*> views) {
  if ((*(views.end() - 1))->elements() == 0) return;
  if (!run_dense(job, views)) Run(loops, job, views)();
}

template <class... F>
const char* functor_name(math::TypeList<F...>, int index) {
  const char* names[] = {F::name...};
  return names[index];
}

void check_defined(ElementwiseLoop loop, const char* name, DType dtype) {
  LOCKSTEP_CHECK(loop != nullptr, name, ": not defined for ", dtype);
}

}  // namespace

void unary(const Loops& loops, Elementwise op, const View& x, const View& y) {
  const DType t = compute_dtype(x.dtype);
  const ElementwiseLoop loop = loops_for(loops, t).unary[op.index];
  check_defined(loop, functor_name(math::UnaryOps{}, op.index), x.dtype);
  run(loops, {loop, op.attributes, {t, t}}, {&x, &y});
}

void unary_backward(const Loops& loops, Elementwise op, const View& x, const View& y,
                    const View& dy, const View& dx, double beta) {
  const DType t = compute_dtype(dx.dtype);
  const ElementwiseLoop loop = loops_for(loops, t).unary_backward[op.index];
  run(loops, {loop, op.attributes, {t, t, t, t}, beta}, {&x, &y, &dy, &dx});
}

void binary(const Loops& loops, Elementwise op, const View& a, const View& b, const View& out) {
  const DType t = compute_dtype(out.dtype);
  const ElementwiseLoop loop = loops_for(loops, t).binary[op.index];
  check_defined(loop, functor_name(math::BinaryOps{}, op.index), out.dtype);
  run(loops, {loop, op.attributes, {t, t, t}}, {&a, &b, &out});
}

void binary_backward(const Loops& loops, Elementwise op, int operand, const View& a, const View& b,
                     const View& out, const View& dy, const View& d, double beta) {
  const DType t = compute_dtype(d.dtype);
  const ElementwiseLoop loop = loops_for(loops, t).binary_backward[operand][op.index];
  run(loops, {loop, op.attributes, {t, t, t, t, t}, beta}, {&a, &b, &out, &dy, &d});
}

void compare(const Loops& loops, Elementwise op, const View& a, const View& b, const View& out) {
  const DType t = compute_dtype(a.dtype);
  const ElementwiseLoop loop = loops_for(loops, t).compare[op.index];
  run(loops, {loop, op.attributes, {t, t, DType::boolean}}, {&a, &b, &out});
}

void where(const Loops& loops, const View& condition, const View& a, const View& b,
           const View& out) {
  const DType t = compute_dtype(out.dtype);
  run(loops, {loops_for(loops, t).where, nullptr, {DType::boolean, t, t, t}},
      {&condition, &a, &b, &out});
}

void scale_add(const Loops& loops, double alpha, const View& x, double beta, const View& y) {
  const DType t = compute_dtype(y.dtype);
  const double factors[2] = {alpha, beta};
  const View before = beta == 0 ? View{} : y;
  run(loops, {loops_for(loops, t).scale_add, factors, {t, t, t}}, {&x, &before, &y});
}

void copy(const Loops& loops, const View& from, const View& to) {
  if (to.elements() == 0) return;
  const Windows windows({&from, &to});
  const int64_t from_stride = windows.windows[0].strides[windows.rank - 1];
  const int64_t to_stride = windows.windows[1].strides[windows.rank - 1];
  parallel_for(windows.elements, kGrain, [&](int64_t begin, int64_t end) {
    for_runs(windows, begin, end - begin, [&](const Cursor& at, int64_t, int64_t n) {
      convert(loops, at.pointer(0), from.dtype, from_stride, at.pointer(1), to.dtype, to_stride, n);
    });
  });
}

void fill(const Loops& loops, const View& to, double value) {
  double converted = 0;  // room for a value of any dtype
  convert(loops, &value, DType::f64, 1, &converted, to.dtype, 1, 1);
  View from = to;
  from.data = &converted;
  std::fill(from.strides, from.strides + from.rank, int64_t{0});
  copy(loops, from, to);
}

}  // namespace lockstep::cpu

#include "lockstep/runtime/cuda/kernels/reduce.h"

#include "lockstep/runtime/cuda/kernels/reduce_bodies.h"
#include "lockstep/runtime/cuda/kernels/reduce_launch.h"
#include "lockstep/runtime/cuda/kernels/reduce_parts.h"

namespace lockstep::cuda {
namespace {

template <class C>
void run(ReduceOp op, const Reduction<C>& r, const InnerSizes& inner, Queue& queue) {
  switch (op) {
    case ReduceOp::max: return launch_reduction<JoinMaximum>(r, inner, queue);
    case ReduceOp::min: return launch_reduction<JoinMinimum>(r, inner, queue);
    default: return launch_reduction<JoinSum>(r, inner, queue);
  }
}

// Where a view is cut in two, or dimensions are reduced one after another: the largest.
int largest_dimension(const View& x, const View& y, bool reduced) {
  int which = -1;
  for (int d = 0; d < x.rank; ++d) {
    if ((y.shape[d] != x.shape[d]) != reduced) continue;
    if (which < 0 || x.shape[d] > x.shape[which]) which = d;
  }
  return which;
}

View narrowed(View view, int d, int64_t begin, int64_t length) {
  view.data = static_cast<char*>(view.data) +
              begin * view.strides[d] * static_cast<int64_t>(size_of(view.dtype));
  view.shape[d] = length;
  return view;
}

// `divisor` is that of the mean.
void reduce_views(ReduceOp op, const View& x, const View& y, double divisor, double beta,
                  Queue& queue) {
  if (y.elements() == 0) return;
  Dimensions kept, reduced;
  for (int d = 0; d < x.rank; ++d) {
    if (y.shape[d] == x.shape[d]) {
      kept.add(x.shape[d], x.strides[d], y.strides[d]);
    } else {
      reduced.add(x.shape[d], x.strides[d]);
    }
  }
  kept.join();
  reduced.join();
  if (kept.elements() > kMostIndices) {
    const int d = largest_dimension(x, y, false);
    const int64_t half = x.shape[d] / 2, rest = x.shape[d] - half;
    reduce_views(op, narrowed(x, d, 0, half), narrowed(y, d, 0, half), divisor, beta, queue);
    reduce_views(op, narrowed(x, d, half, rest), narrowed(y, d, half, rest), divisor, beta, queue);
    return;
  }
  with_total_type(x.dtype, [&]<class C>(C) {
    if (reduced.elements() > kMostIndices && reduced.rank() > 1) {
      const int d = largest_dimension(x, y, true);
      View middle = x;
      middle.dtype = total_dtype<C>();
      middle.shape[d] = 1;
      const Scratch scratch(queue, sizeof(C) * static_cast<size_t>(middle.elements()));
      middle.data = scratch.as<void>();
      int64_t stride = 1;
      for (int i = x.rank - 1; i >= 0; --i) {
        middle.strides[i] = stride;
        stride *= middle.shape[i];
      }
      reduce_views(op == ReduceOp::mean ? ReduceOp::sum : op, x, middle, 1, 0, queue);
      reduce_views(op, middle, y, divisor, beta, queue);
      return;
    }
    Reduction<C> r;
    r.x = Operand(x);
    r.kept = kept.span(0);
    r.reduced = reduced.span(0);
    r.outputs = static_cast<uint32_t>(kept.elements());
    r.count = reduced.elements();
    r.finish.y = Operand(y);
    r.finish.places = kept.span(1);
    r.finish.beta = beta;
    r.finish.divides = op == ReduceOp::mean;
    r.finish.divisor = divisor;
    run(op, r, {kept.inner(), reduced.inner()}, queue);
  });
}

}  // namespace

void reduce(ReduceOp op, const View& x, const View& y, double beta, Queue& queue) {
  double count = 1;
  for (int d = 0; d < x.rank; ++d) {
    if (y.shape[d] == 1) count *= static_cast<double>(x.shape[d]);
  }
  reduce_views(op, x, y, count, beta, queue);
}

}  // namespace lockstep::cuda

#pragma once

#include <utility>

#include "lockstep/autograd/record.h"

// Functions with a gradient of your own:
//
//   Tensor clipped_log(const Tensor& x) {
//     const Tensor y = unrecorded([&] { return log(maximum(x, Tensor(1e-6))); });
//     return record({"clipped_log"}, y.value(), {&x},
//                   [x = Saved(x)](const Tensor& dy, Gradients& out) {
//                     out.add(0, [&] { return dy / maximum(*x, Tensor(1e-6)); });
//                   });
//   }
//
// record() (record_many() for several outputs) takes a name, the values, the inputs, and a closure
// that adds the gradient of each input. What the closure reads is captured as Saved: a tensor that
// is changed in place in between is then an error. An output it needs is saved as
// `y = Saved(y)` and read as `out.own(y)`. A closure made of ops can be differentiated again. The
// function given to out.add() is called only when that input needs a gradient; what it returns has
// the input's shape.
namespace lockstep {

// Nothing is recorded and nothing traced while one lives, on this thread: what is computed is part
// of one op.
class Unrecorded {
 public:
  Unrecorded() : tracer_(std::exchange(context().tracer, nullptr)) {}
  ~Unrecorded() { context().tracer = tracer_; }
  Unrecorded(const Unrecorded&) = delete;
  Unrecorded& operator=(const Unrecorded&) = delete;

 private:
  NoGrad no_grad_;
  Tracer* tracer_;
};

template <class F>
auto unrecorded(F&& f) {
  const Unrecorded one_op;
  return std::forward<F>(f)();
}

}  // namespace lockstep

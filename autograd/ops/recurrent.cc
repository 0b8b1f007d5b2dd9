#include "lockstep/autograd/ops/recurrent.h"

#include <array>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/ops/add_recorded.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/matmul.h"

namespace lockstep {

namespace {

// What the op does inside is its own affair: recorded or not as it likes, in the inputs' dtype, and
// never traced.
class Inside {
 public:
  explicit Inside(bool recording)
      : gradients_(context().gradients), tracer_(context().tracer), autocast_(Autocast::off()) {
    context().gradients = recording;
    context().tracer = nullptr;
  }
  ~Inside() {
    context().gradients = gradients_;
    context().tracer = tracer_;
  }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  bool gradients_;
  Tracer* tracer_;
  Autocast autocast_;
};

struct State {
  Tensor h, c;
};

// One step. `hidden` [batch, gates * hidden] is the previous state's product with its bias, and for
// all cells but the GRU the input's is in it too.
State step(RecurrentCell cell, const Tensor& input, const Tensor& hidden, const State& before) {
  switch (cell) {
    case RecurrentCell::rnn_tanh: return {tanh(hidden), {}};
    case RecurrentCell::rnn_relu: return {relu(hidden), {}};
    case RecurrentCell::lstm: {
      const int64_t size = before.c.dim(1);
      const std::vector<Tensor> parts = split(hidden, {2 * size, size, size}, 1);
      const std::vector<Tensor> in_forget = chunk(sigmoid(parts[0]), 2, 1);
      const Tensor c = in_forget[1] * before.c + in_forget[0] * tanh(parts[1]);
      return {sigmoid(parts[2]) * tanh(c), c};
    }
    case RecurrentCell::gru: {
      const int64_t size = before.h.dim(1);
      const std::vector<Tensor> x = split(input, {2 * size, size}, 1);
      const std::vector<Tensor> y = split(hidden, {2 * size, size}, 1);
      const std::vector<Tensor> reset_update = chunk(sigmoid(x[0] + y[0]), 2, 1);
      const Tensor fresh = tanh(x[1] + reset_update[0] * y[1]);
      return {fresh + reset_update[1] * (before.h - fresh), {}};
    }
  }
  __builtin_unreachable();
}

enum Input { kX, kH, kC, kIh, kHh, kBiasIh, kBiasHh, kInputs };
using Inputs = std::array<Tensor, kInputs>;

// The same in recorded ops, step by step: [time (+ 1: LSTM's last cell state), batch, hidden].
Tensor formula(RecurrentCell cell, std::span<const Tensor> in, bool reverse) {
  const int64_t time = in[kX].dim(0);
  const bool gru = cell == RecurrentCell::gru;
  const Tensor projected = linear(in[kX], in[kIh], in[kBiasIh]);
  std::vector<Tensor> outputs(static_cast<size_t>(time));
  State state{in[kH], in[kC]};
  for (int64_t i = 0; i < time; ++i) {
    const int64_t t = reverse ? time - 1 - i : i;
    const Tensor input = select(projected, 0, t);
    const Tensor hidden = linear(state.h, in[kHh], in[kBiasHh]);
    state = step(cell, input, gru ? hidden : input + hidden, state);
    outputs[t] = state.h;
  }
  if (state.c) outputs.push_back(state.c);
  return stack(outputs, 0);
}

// y += a @ b
void add_product(const Array& a, const Array& b, const Array& y) {
  const Array product = kernels::matmul(a, b, {.destination = y, .beta = 1});
  if (!product.same_window(y)) kernels::scale_add(1, product, 1, y);
}

// What the forward pass leaves for the backward one.
struct Trail {
  Array input;   // [time, batch, gates * hidden]: the inputs' products; GRU only
  Array hidden;  // the same size: what step() was given
  Array output;  // [time, batch, hidden]
  Array cells;   // the same size; LSTM only
};

// A trail of which the op's outputs are windows: an output may be changed in place.
class SavedTrail {
 public:
  explicit SavedTrail(const Trail& trail)
      : trail_{trail.input, trail.hidden, {}, {}},
        output_(Tensor(trail.output)),
        cells_(Tensor(trail.cells)) {}

  Trail value() const {
    return {trail_.input, trail_.hidden, output_.value(), cells_.value_or_empty()};
  }

 private:
  Trail trail_;
  Saved output_, cells_;
};

Trail run(RecurrentCell cell, const Inputs& in, bool reverse) {
  const Inside inside(/*recording=*/false);
  const bool gru = cell == RecurrentCell::gru, lstm = cell == RecurrentCell::lstm;
  const int64_t time = in[kX].dim(0), batch = in[kX].dim(1), size = in[kH].dim(1);
  const DType dtype = in[kX].dtype();
  const Device device = in[kX].device();
  Trail trail;
  trail.output = Array::empty({time, batch, size}, dtype, device);
  if (lstm) trail.cells = Array::empty({time, batch, size}, dtype, device);
  if (gru) {
    trail.input = linear(in[kX], in[kIh], in[kBiasIh]).value();
    trail.hidden = Array::zeros({time, batch, 3 * size}, dtype, device);
    if (in[kBiasHh]) kernels::copy_into(in[kBiasHh].value(), trail.hidden);
  } else {
    const Tensor bias = in[kBiasIh] ? in[kBiasIh] + in[kBiasHh] : Tensor();
    trail.hidden = linear(in[kX], in[kIh], bias).value();
  }
  const Array transposed = in[kHh].value().transpose(0, 1);
  State state{in[kH], in[kC]};
  for (int64_t i = 0; i < time; ++i) {
    const int64_t t = reverse ? time - 1 - i : i;
    const Array hidden = trail.hidden.select(0, t);
    add_product(state.h.value(), transposed, hidden);
    const State next = step(cell, gru ? trail.input.select(0, t) : Array(), hidden, state);
    kernels::copy_into(next.h.value(), trail.output.select(0, t));
    if (lstm) kernels::copy_into(next.c.value(), trail.cells.select(0, t));
    state = {trail.output.select(0, t), next.c};
  }
  return trail;
}

struct Backward {
  Array input, hidden;  // gradients of the products; `input` is `hidden` but for the GRU
  Array h, c;           // of the first states
};

// From the last step to the first. A step's derivative is autograd's own, of step() run again.
Backward run_backward(RecurrentCell cell, const Inputs& in, const Trail& trail, const Tensor& dy,
                      const Tensor& dcell, bool reverse) {
  const bool gru = cell == RecurrentCell::gru, lstm = cell == RecurrentCell::lstm;
  const int64_t time = in[kX].dim(0);
  const Shape state_shape = in[kH].shape();
  const DType dtype = in[kX].dtype();
  const Device device = in[kX].device();
  Backward result;
  result.hidden = Array::empty(trail.hidden.shape(), dtype, device);
  result.input = gru ? Array::empty(trail.hidden.shape(), dtype, device) : result.hidden;
  Array dh = Array::zeros(state_shape, dtype, device);
  Tensor dc = dcell ? dcell : Tensor(lstm ? Array::zeros(state_shape, dtype, device) : Array());
  for (int64_t i = time - 1; i >= 0; --i) {
    const int64_t t = reverse ? time - 1 - i : i, before = reverse ? t + 1 : t - 1;
    if (dy) kernels::scale_add(1, dy.value().select(0, t), 1, dh);
    std::vector<Tensor> wanted{Tensor::variable(trail.hidden.select(0, t))};
    State state;
    Tensor input;
    const auto want = [&](const Array& value) {
      wanted.push_back(Tensor::variable(value));
      return wanted.back();
    };
    if (lstm) state.c = want(i > 0 ? trail.cells.select(0, before) : in[kC].value());
    if (gru) state.h = want(i > 0 ? trail.output.select(0, before) : in[kH].value());
    if (gru) input = want(trail.input.select(0, t));
    std::vector<Tensor> gradients;
    {
      const Inside inside(/*recording=*/true);
      const State next = step(cell, input, wanted[0], state);
      std::vector<Tensor> outputs{next.h}, seeds{dh};
      if (lstm) outputs.push_back(next.c), seeds.push_back(dc);
      gradients = grad(outputs, wanted, seeds);
    }
    const Array hidden = result.hidden.select(0, t);
    kernels::copy_into(gradients[0].value(), hidden);
    if (gru) kernels::copy_into(gradients[2].value(), result.input.select(0, t));
    if (lstm) dc = gradients[1];
    dh = kernels::matmul(hidden, in[kHh].value());
    if (gru) kernels::scale_add(1, gradients[1].value(), 1, dh);
  }
  result.h = dh;
  result.c = dc.value();
  return result;
}

Tensor rows(const Array& x) { return reshape(x, {x.dim(0) * x.dim(1), x.dim(2)}); }

void add_gradients(RecurrentCell cell, const Inputs& in, const Trail& trail, bool reverse,
                   std::span<const Tensor> dys, Gradients& out) {
  const Backward d =
      run_backward(cell, in, trail, dys[0], dys.size() > 1 ? dys[1] : Tensor(), reverse);
  const int64_t time = in[kX].dim(0);
  out.add(kX, [&] { return matmul(d.input, in[kIh]); });
  out.add(kH, d.h);
  if (d.c) out.add(kC, d.c);
  out.add(kIh, [&] { return matmul(rows(d.input).mT(), rows(in[kX].value())); });
  out.add(kHh, [&] {  // each step's gradient by the state before it
    const int64_t first = reverse ? time - 1 : 0, later = reverse ? 0 : 1, earlier = 1 - later;
    const Tensor start = matmul(Tensor(d.hidden.select(0, first)).mT(), in[kH]);
    if (time == 1) return start;
    return start + matmul(rows(d.hidden.narrow(0, later, time - 1)).mT(),
                          rows(trail.output.narrow(0, earlier, time - 1)));
  });
  if (in[kBiasIh]) out.add(kBiasIh, [&] { return sum(d.input, {0, 1}); });
  if (in[kBiasHh]) out.add(kBiasHh, [&] { return sum(d.hidden, {0, 1}); });
}

void check(RecurrentCell cell, const Inputs& in) {
  const auto shape_is = [&](Input i, const Shape& expected, const char* name) {
    LOCKSTEP_CHECK(in[i] && in[i].shape() == expected, "recurrent: ", name, " of shape ",
                   in[i].shape(), ", expected ", expected);
    LOCKSTEP_CHECK(in[i].dtype() == in[kX].dtype() && in[i].device() == in[kX].device(),
                   "recurrent: ", name, " is ", in[i].dtype(), ", the input ", in[kX].dtype(),
                   "; expected one dtype on one device");
  };
  LOCKSTEP_CHECK(in[kX] && in[kX].rank() == 3 && in[kX].dim(0) > 0 && is_floating(in[kX].dtype()),
                 "recurrent: input of shape ", in[kX].shape(), " ", in[kX].dtype(),
                 ", expected [time, batch, input], floating, with a step at least");
  LOCKSTEP_CHECK(in[kH] && in[kH].rank() == 2, "recurrent: state of shape ", in[kH].shape(),
                 ", expected [batch, hidden]");
  const int64_t hidden = in[kH].dim(1), rows = gates_of(cell) * hidden;
  shape_is(kH, {in[kX].dim(1), hidden}, "state");
  if (cell == RecurrentCell::lstm) shape_is(kC, in[kH].shape(), "cell state");
  shape_is(kIh, {rows, in[kX].dim(2)}, "the input's weight");
  shape_is(kHh, {rows, hidden}, "the state's weight");
  if (!in[kBiasIh] && !in[kBiasHh]) return;
  shape_is(kBiasIh, {rows}, "the input's bias");
  shape_is(kBiasHh, {rows}, "the state's bias");
}

}  // namespace

int gates_of(RecurrentCell cell) {
  return cell == RecurrentCell::lstm ? 4 : cell == RecurrentCell::gru ? 3 : 1;
}

RecurrentOutput recurrent(RecurrentCell cell, const Tensor& x, const Tensor& h, const Tensor& c,
                          const RecurrentWeights& weights, bool reverse) {
  const bool lstm = cell == RecurrentCell::lstm;
  Inputs in{x, h, lstm ? c : Tensor(), weights.ih, weights.hh, weights.bias_ih, weights.bias_hh};
  if (context().autocast.on) {
    for (Tensor& input : in) {
      if (autocasts("recurrent", {&input})) input = autocast("recurrent", input);
    }
  }
  check(cell, in);
  const Trail trail = run(cell, in, reverse);
  std::array<const Tensor*, kInputs> pointers;
  std::array<Saved, kInputs> saved;
  for (int i = 0; i < kInputs; ++i) {
    pointers[i] = &in[i];
    saved[i] = Saved(in[i], static_cast<bool>(in[i]));
  }
  std::vector<Array> values{trail.output};
  const int64_t last = reverse ? 0 : x.dim(0) - 1;
  if (lstm) values.push_back(trail.cells.select(0, last));
  std::vector<Tensor> results = record_many(
      {"recurrent"}, std::move(values), pointers,
      [cell, saved, trail = SavedTrail(trail), shape = trail.output.shape(), reverse](
          std::span<const Tensor> dys, Gradients& out) {
        Inputs in;
        for (int i = 0; i < kInputs; ++i) in[i] = *saved[i];
        if (!recording()) return add_gradients(cell, in, trail.value(), reverse, dys, out);
        const auto rows_of = [&](size_t i, const Shape& rows) {
          return i < dys.size() && dys[i]
                     ? reshape(dys[i], rows)
                     : Tensor(Array::zeros(rows, in[kX].dtype(), in[kX].device()));
        };
        Tensor dy = rows_of(0, shape);
        if (cell == RecurrentCell::lstm) dy = cat({dy, rows_of(1, {1, shape[1], shape[2]})}, 0);
        internal::add_recorded(
            out, {in[kX], in[kH], in[kC], in[kIh], in[kHh], in[kBiasIh], in[kBiasHh]}, dy,
            [&](std::span<const Tensor> inputs) { return formula(cell, inputs, reverse); });
      });
  return {results[0], lstm ? results[1] : Tensor()};
}

}  // namespace lockstep

#include <array>
#include <cmath>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops/add_recorded.h"
#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/index.h"
#include "lockstep/autograd/ops/linear_algebra.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/matmul.h"

namespace lockstep {

using internal::check_given;

namespace {

int64_t leading_elements(const Shape& shape) {
  int64_t product = 1;
  for (int i = 0; i + 1 < shape.rank(); ++i) product *= shape[i];
  return product;
}

Tensor rows_of(const Tensor& x) { return reshape(x, {leading_elements(x.shape()), x.dim(-1)}); }

Array row_values(const Array& x) { return x.reshape({leading_elements(x.shape()), x.dim(-1)}); }

// An operand and what stands for it in products: under autocast its values in 16 bits. The op's
// input is the operand itself all the same if it is f32: the products give its gradient in f32, so
// that none is rounded to 16 bits and converted back.
struct Operand {
  Tensor input;
  Tensor value;

  explicit Operand(const Tensor& x) : input(x), value(x) {
    if (!context().autocast.on) return;
    value = autocast("linear", x);
    if (x.dtype() != DType::f32) input = value;
  }
  explicit operator bool() const { return static_cast<bool>(value); }
  Array array() const { return value ? value.value() : Array(); }
  // Of its gradient.
  DType dtype() const { return input ? input.dtype() : DType::f32; }
};

// x: the layer's input, of `shape`.
void check_layer(const char* name, const Operand& x, const Shape& shape, const Operand& weight,
                 const Operand& bias) {
  const Tensor &w = weight.value, &b = bias.value;
  LOCKSTEP_CHECK(shape.rank() >= 1 && w.rank() == 2 && shape.back() == w.dim(1), name,
                 ": input of shape ", shape, " and weight of shape ", w.shape(),
                 ", expected [..., in] and [out, in], or [in] without bias");
  LOCKSTEP_CHECK(!b || b.shape() == Shape{w.dim(0)}, name, ": bias of shape ", b.shape(),
                 " for weight of shape ", w.shape());
  const DType dtype = x.value.dtype();
  LOCKSTEP_CHECK(dtype == w.dtype() && (!b || b.dtype() == dtype), name, ": dtypes ", dtype, ", ",
                 w.dtype(), " and ", b ? b.dtype() : dtype, ", expected one");
}

// dy w, in the shape of the layer's input.
void add_input_gradient(Gradients& out, const Array& dy, const Array& weight, const Shape& shape,
                        DType dtype) {
  out.add(0, [&](const Into& into) -> Tensor {
    Into rows = into;
    if (into) rows.destination = into.destination.try_view({dy.dim(0), shape.back()});
    const Array dx = kernels::matmul(dy, weight, rows, dtype);
    return into && dx.storage() == into.destination.storage() ? into.destination
                                                              : dx.reshape(shape);
  });
}

// dy' x and the sums of dy's columns, the gradients of inputs i and i + 1. `rows` gives x.
template <class F>
void add_weight_gradients(Gradients& out, int i, const Array& dy, const F& rows, DType weight_dtype,
                          DType bias_dtype) {
  if (!out.needs(i)) {
    return out.add(i + 1, [&](const Into& into) -> Tensor {
      return kernels::sum_to(dy, {dy.dim(1)}, into, bias_dtype);
    });
  }
  const kernels::LinearWeightWanted wanted{.into_weight = out.offer(i),
                                           .weight_dtype = weight_dtype,
                                           .bias = out.needs(i + 1),
                                           .into_bias = out.offer(i + 1),
                                           .bias_dtype = bias_dtype};
  const kernels::LinearWeightGradient gradient =
      kernels::linear_weight_gradient(dy, rows(), wanted);
  out.deliver(i, gradient.weight, wanted.into_weight);
  if (wanted.bias) out.deliver(i + 1, gradient.bias, wanted.into_bias);
}

constexpr Elementwise kRelu{math::index_of<math::UnaryOps, math::Relu>};

struct SavedLinear {
  Shape shape;  // of x
  Saved x, weight;
  Saved y;  // where relu follows
  DType dtypes[3];

  void backward(const Tensor& dy, Gradients& out) const {
    const Tensor rows = rows_of(y ? before_relu(dy, out) : dy);
    if (recording()) {
      out.add(0, [&] { return to(reshape(matmul(rows, *weight), shape), dtypes[0]); });
      out.add(1, [&] { return to(matmul(rows.mT(), rows_of(*x)), dtypes[1]); });
      out.add(2, [&] { return to(sum_to(rows, {rows.dim(1)}), dtypes[2]); });
      return;
    }
    if (out.needs(0)) add_input_gradient(out, rows.value(), weight.value(), shape, dtypes[0]);
    add_weight_gradients(
        out, 1, rows.value(), [&] { return row_values(x.value()); }, dtypes[1], dtypes[2]);
  }

 private:
  // The gradient of what went into relu, in the memory of what came out if this was its last use.
  Tensor before_relu(const Tensor& dy, Gradients& out) const {
    if (recording()) return masked_fill(dy, Tensor(y.value()) <= 0.0, 0.0);
    const Array memory = out.take(y);
    if (!memory) return kernels::unary_backward(kRelu, {}, y.value(), dy.value(), {});
    return kernels::unary_backward(kRelu, {}, memory, dy.value(), {memory, 0});
  }
};

}  // namespace

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Activation activation) {
  check_given("linear", x);
  check_given("linear", weight);
  if (weight.rank() == 1 && !bias) {  // one output, which has no dimension
    return squeeze(linear(x, unsqueeze(Operand(weight).value, 0), {}, activation), -1);
  }
  const Operand in(x), w(weight), b(bias);
  const bool relu = activation == Activation::relu;
  if (relu && !is_floating(in.value.dtype())) return lockstep::relu(linear(x, weight, bias));
  check_layer("linear", in, x.shape(), w, b);
  Shape shape = x.shape();
  shape[shape.rank() - 1] = weight.dim(0);
  const Array rows = row_values(in.array());
  const Array y = (relu ? kernels::linear_activation(rows, w.array(), b.array(), kRelu, false).y
                        : kernels::linear(rows, w.array(), b.array()))
                      .reshape(shape);
  return record({"linear"}, y, {&in.input, &w.input, &b.input},
                [saved = SavedLinear{x.shape(),
                                     Saved(in.value, w.input.requires_grad()),
                                     Saved(w.value, in.input.requires_grad()),
                                     Saved(Tensor(y), relu),
                                     {in.dtype(), w.dtype(), b.dtype()}}](
                    const Tensor& dy, Gradients& out) { saved.backward(dy, out); });
}

namespace {

enum { kX, kWeight1, kBias1, kWeight2, kBias2, kInputs };

struct SavedFeedForward {
  Shape shape;  // of x
  GeluForm form;
  Saved inputs[kInputs];
  DType dtypes[kInputs];
  Saved before;  // what went into gelu
  Saved hidden;  // what came out; nothing where it is recomputed

  Elementwise gelu() const {
    return {form == GeluForm::erf ? math::index_of<math::UnaryOps, math::Gelu>
                                  : math::index_of<math::UnaryOps, math::GeluTanh>};
  }

  void backward(const Tensor& dy, Gradients& out) const {
    if (recording()) return backward_of_ops(dy, out);
    const Array rows = rows_of(dy).value();
    add_weight_gradients(
        out, kWeight2, rows,
        [&] { return hidden ? hidden.value() : kernels::unary("gelu", gelu(), before.value()); },
        dtypes[kWeight2], dtypes[kBias2]);
    if (!out.needs(kX) && !out.needs(kWeight1) && !out.needs(kBias1)) return;
    // What came out of gelu has been used: the gradient of what went in takes its memory.
    const kernels::LinearActivationWanted wanted{.bias = out.needs(kBias1),
                                                 .into_bias = out.offer(kBias1),
                                                 .bias_dtype = dtypes[kBias1],
                                                 .memory = hidden ? out.take(hidden) : Array()};
    const kernels::LinearActivationGradient d = kernels::linear_activation_backward(
        rows, inputs[kWeight2].value(), gelu(), before.value(), wanted);
    if (wanted.bias) out.deliver(kBias1, d.bias, wanted.into_bias);
    out.add(kWeight1, [&](const Into& into) -> Tensor {
      return kernels::matmul(d.x.transpose(0, 1), row_values(inputs[kX].value()), into,
                             dtypes[kWeight1]);
    });
    if (out.needs(kX)) {
      add_input_gradient(out, d.x, inputs[kWeight1].value(), shape, dtypes[kX]);
    }
  }

 private:
  void backward_of_ops(const Tensor& dy, Gradients& out) const {
    const auto given = [](const Saved& input) { return input ? *input : Tensor(); };
    const std::vector<Tensor> gradients = internal::recorded_gradients(
        {*inputs[kX], *inputs[kWeight1], given(inputs[kBias1]), *inputs[kWeight2],
         given(inputs[kBias2])},
        dy, [&](auto in) {
          const Tensor inner = lockstep::gelu(linear(in[kX], in[kWeight1], in[kBias1]), form);
          return linear(inner, in[kWeight2], in[kBias2]);
        });
    for (int i = 0; i < kInputs; ++i) {
      if (gradients[i]) out.add(i, to(gradients[i], dtypes[i]));
    }
  }
};

}  // namespace

Tensor feed_forward(const Tensor& x, const Tensor& weight1, const Tensor& bias1,
                    const Tensor& weight2, const Tensor& bias2, FeedForwardOptions options) {
  constexpr const char* kName = "feed_forward";
  for (const Tensor* given : {&x, &weight1, &weight2}) check_given(kName, *given);
  const Operand in[kInputs] = {Operand(x), Operand(weight1), Operand(bias1), Operand(weight2),
                               Operand(bias2)};
  check_layer(kName, in[kX], x.shape(), in[kWeight1], in[kBias1]);
  Shape hidden_shape = x.shape();
  hidden_shape[x.rank() - 1] = weight1.dim(0);
  check_layer(kName, in[kX], hidden_shape, in[kWeight2], in[kBias2]);
  LOCKSTEP_CHECK(is_floating(in[kX].value.dtype()), kName, ": dtype ", in[kX].value.dtype(),
                 ", expected a floating one");
  const auto inputs = {&in[kX].input, &in[kWeight1].input, &in[kBias1].input, &in[kWeight2].input,
                       &in[kBias2].input};
  SavedFeedForward saved{.shape = x.shape(), .form = options.form};
  const bool recorded = records(inputs);
  const bool inner = in[kX].input.requires_grad() || in[kWeight1].input.requires_grad() ||
                     in[kBias1].input.requires_grad();
  const bool outer = in[kWeight2].input.requires_grad();
  kernels::LinearActivation hidden = kernels::linear_activation(
      row_values(in[kX].array()), in[kWeight1].array(), in[kBias1].array(), saved.gelu(),
      recorded && (inner || (outer && options.recompute_gelu)));
  Shape shape = x.shape();
  shape[shape.rank() - 1] = weight2.dim(0);
  const Array y =
      kernels::linear(hidden.y, in[kWeight2].array(), in[kBias2].array()).reshape(shape);
  if (recorded) {
    for (int i = 0; i < kInputs; ++i) {
      saved.inputs[i] = Saved(in[i].value);
      saved.dtypes[i] = in[i].dtype();
    }
    saved.before = Saved(Tensor(std::move(hidden.before)));
    saved.hidden = Saved(Tensor(std::move(hidden.y)), outer && !options.recompute_gelu);
  }
  hidden = {};
  return record({kName}, y, inputs, [saved = std::move(saved)](const Tensor& dy, Gradients& out) {
    saved.backward(dy, out);
  });
}

}  // namespace lockstep

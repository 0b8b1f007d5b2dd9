#include "lockstep/runtime/cuda/matmul.h"

#include <algorithm>
#include <utility>

#include "lockstep/runtime/cuda/blas.h"
#include "lockstep/runtime/cuda/kernels/elementwise.h"
#include "lockstep/runtime/cuda/kernels/integer_matmul.h"
#include "lockstep/runtime/cuda/kernels/reduce.h"
#include "lockstep/runtime/math/unary.h"

namespace lockstep::cuda {
namespace {

// How the last two dimensions lie in memory.
Product::Operand operand_of(const View& view) {
  const int64_t rows = view.shape[view.rank - 2], columns = view.shape[view.rank - 1];
  const int64_t row = view.strides[view.rank - 2], column = view.strides[view.rank - 1];
  const bool by_rows = (columns == 1 || column == 1) && (rows == 1 || row >= columns);
  Product::Operand operand{.data = view.data, .dtype = view.dtype, .transposed = !by_rows};
  if (by_rows) {
    operand.leading = rows == 1 ? std::max<int64_t>(1, columns) : row;
  } else {
    operand.leading = columns == 1 ? std::max<int64_t>(1, rows) : column;
  }
  return operand;
}

// Leading dimensions as few as they can be: those of size 1 are dropped, and neighbours that lie
// together in all three are one.
struct Batches {
  int rank = 0;
  int64_t shape[View::kMaxRank];
  int64_t strides[3][View::kMaxRank];  // of a, b, c; outermost first

  Batches(const View& a, const View& b, const View& c) {
    const View* const views[3] = {&a, &b, &c};
    for (int d = 0; d < c.rank - 2; ++d) {
      if (c.shape[d] == 1) continue;
      bool joins = rank > 0;
      for (int i = 0; i < 3 && joins; ++i) {
        joins = strides[i][rank - 1] == views[i]->strides[d] * c.shape[d];
      }
      if (!joins) shape[rank++] = 1;
      shape[rank - 1] *= c.shape[d];
      for (int i = 0; i < 3; ++i) strides[i][rank - 1] = views[i]->strides[d];
    }
  }
};

void* moved(void* data, int64_t elements, DType dtype) {
  return static_cast<char*>(data) + elements * static_cast<int64_t>(size_of(dtype));
}

// C' = B' A', so that C is stored by rows.
void transpose(Product& product) {
  std::swap(product.m, product.n);
  std::swap(product.a, product.b);
  for (Product::Operand* x : {&product.a, &product.b, &product.c}) x->transposed = !x->transposed;
}

// Tensor cores want rows of whole 16 bytes: where only a size is odd, not what lies in memory, the
// library falls to kernels several times slower. Its last few rows, columns or terms of the sums
// are a product of their own then.
constexpr int64_t kEven = 8;
constexpr int64_t kWorthIt = 1024;

bool is_odd(int64_t size) { return size >= kWorthIt && size % kEven != 0; }

bool lies_even(const Product& p) {
  const auto even = [](const Product::Operand& x) {
    return x.leading % kEven == 0 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
  };
  return size_of(p.a.dtype) == 2 && p.batch == 1 && p.epilogue == Epilogue::none && even(p.a) &&
         even(p.b) && even(p.c);
}

// The size to divide; null: none. Only those count along which something lies in memory. A sum in
// two parts needs a result that holds the first one in f32, or none that it is added to.
int64_t Product::*odd_size(const Product& p) {
  if (!lies_even(p)) return nullptr;
  if (is_odd(p.k) && (!p.a.transposed || p.b.transposed) &&
      (p.c.dtype == DType::f32 || p.beta == 0)) {
    return &Product::k;
  }
  if (is_odd(p.n)) return &Product::n;
  return is_odd(p.m) && p.a.transposed ? &Product::m : nullptr;
}

// Moves past `rows` rows or columns of what the operand is, not of how it is stored.
void skip(Product::Operand& x, int64_t rows, int64_t columns) {
  const int64_t stored = x.transposed ? columns * x.leading + rows : rows * x.leading + columns;
  x.data = moved(x.data, stored, x.dtype);
}

// Stored by rows.
View matrix_of(const Product::Operand& x, int64_t rows, int64_t columns) {
  View view{.data = x.data, .dtype = x.dtype, .rank = 2};
  view.shape[0] = rows;
  view.shape[1] = columns;
  view.strides[0] = x.leading;
  view.strides[1] = 1;
  return view;
}

void multiply_evenly(const Product& p, Queue& queue) {
  int64_t Product::*const size = odd_size(p);
  if (size == nullptr) return queue.blas().multiply(p, queue);
  if (size == &Product::k && p.c.dtype != DType::f32) {
    const Scratch sums(queue, sizeof(float) * static_cast<size_t>(p.m * p.c.leading));
    Product in_full = p;
    in_full.c.data = sums.as<void>();
    in_full.c.dtype = DType::f32;
    multiply_evenly(in_full, queue);
    return copy(matrix_of(in_full.c, p.m, p.n), matrix_of(p.c, p.m, p.n), queue);
  }
  Product most = p, rest = p;
  most.*size = p.*size / kEven * kEven;
  rest.*size = p.*size - most.*size;
  const int64_t m = size == &Product::m ? most.m : 0, n = size == &Product::n ? most.n : 0,
                k = size == &Product::k ? most.k : 0;
  skip(rest.a, m, k);
  skip(rest.b, k, n);
  skip(rest.c, m, n);
  if (k != 0) rest.beta = 1;
  multiply_evenly(most, queue);
  multiply_evenly(rest, queue);
}

// The innermost of the leading dimensions is the library's batch, the others are loops.
void multiply(Product product, const Batches& batches, Queue& queue) {
  Product::Operand* const operands[3] = {&product.a, &product.b, &product.c};
  const int inner = batches.rank - 1;
  if (batches.rank > 0) {
    product.batch = batches.shape[inner];
    for (int i = 0; i < 3; ++i) operands[i]->batch_stride = batches.strides[i][inner];
  }
  int64_t outer = 1;
  for (int d = 0; d < inner; ++d) outer *= batches.shape[d];
  void* const begin[3] = {product.a.data, product.b.data, product.c.data};
  for (int64_t index = 0; index < outer; ++index) {
    int64_t rest = index;
    int64_t at[3] = {0, 0, 0};
    for (int d = inner - 1; d >= 0; --d) {
      for (int i = 0; i < 3; ++i) at[i] += rest % batches.shape[d] * batches.strides[i][d];
      rest /= batches.shape[d];
    }
    for (int i = 0; i < 3; ++i) operands[i]->data = moved(begin[i], at[i], operands[i]->dtype);
    for (int64_t done = 0; done < product.batch; done += Blas::kMostBatches) {
      Product one = product;
      one.batch = std::min(Blas::kMostBatches, product.batch - done);
      for (Product::Operand* x : {&one.a, &one.b, &one.c}) {
        x->data = moved(x->data, done * x->batch_stride, x->dtype);
      }
      if (one.c.transposed) transpose(one);
      multiply_evenly(one, queue);
    }
  }
}

View transposed(View matrix) {
  std::swap(matrix.shape[0], matrix.shape[1]);
  std::swap(matrix.strides[0], matrix.strides[1]);
  return matrix;
}

// A vector that the library can take: one whose elements lie apart has a copy.
class Dense {
 public:
  Dense(const View& vector, Queue& queue)
      : dense_(vector.data == nullptr || vector.shape[0] == 1 || vector.strides[0] == 1),
        memory_(queue, dense_ ? 0 : static_cast<size_t>(vector.elements()) * size_of(vector.dtype)),
        view_(vector) {
    if (dense_) return;
    view_.data = memory_.as<void>();
    view_.strides[0] = 1;
    copy(vector, view_, queue);
  }
  void* data() const { return view_.data; }

 private:
  bool dense_;
  Scratch memory_;
  View view_;
};

// x w', without a bias so far.
Product linear_product(const View& x, const View& w, const View& y) {
  Product product{.m = y.shape[0],
                  .n = y.shape[1],
                  .k = x.shape[1],
                  .a = operand_of(x),
                  .b = operand_of(w),
                  .c = operand_of(y)};
  product.b.transposed = !product.b.transposed;
  return product;
}

// y = the bias in each row.
void spread(const View& bias, const View& y, Queue& queue) {
  if (bias.data == nullptr) return fill(y, 0, queue);
  View each_row = y;
  each_row.data = bias.data;
  each_row.dtype = bias.dtype;
  each_row.strides[0] = 0;
  each_row.strides[1] = bias.strides[0];
  copy(each_row, y, queue);
}

bool is_short(DType dtype) { return dtype == DType::bf16 || dtype == DType::f16; }

// Those in which the library has epilogues beside the bias.
bool has_epilogues(DType dtype) { return dtype == DType::f32 || is_short(dtype); }

constexpr int kRelu = math::index_of<math::UnaryOps, math::Relu>;

// Whether the library's epilogues know f, and can keep or read what goes into it.
bool has_epilogue(Elementwise op, const View& before, int64_t terms) {
  if (terms == 0) return false;
  if (op.index == kRelu) return before.data == nullptr && has_epilogues(before.dtype);
  const bool is_gelu = op.index == math::index_of<math::UnaryOps, math::GeluTanh>;
  if (!is_gelu || !is_short(before.dtype)) return false;
  if (before.data == nullptr) return true;
  return before.strides[0] % 8 == 0 && before.strides[1] == 1 &&
         reinterpret_cast<uintptr_t>(before.data) % 16 == 0;
}

View as_row(View vector) {
  vector.rank = 2;
  vector.shape[1] = vector.shape[0];
  vector.strides[1] = vector.strides[0];
  vector.shape[0] = 1;
  vector.strides[0] = 0;
  return vector;
}

// The place of a bias's gradient that a product writes: the result itself, or memory from which it
// is added to the result.
class BiasGradient {
 public:
  BiasGradient(const View& result, double beta, DType dtype, Queue& queue)
      : result_(result),
        beta_(beta),
        direct_(beta == 0 && result.dtype == dtype &&
                (result.shape[0] == 1 || result.strides[0] == 1)),
        memory_(queue, direct_ || result.data == nullptr
                           ? 0
                           : static_cast<size_t>(result.shape[0]) * size_of(dtype)),
        written_(result) {
    if (direct_) return;
    written_.data = memory_.as<void>();
    written_.dtype = dtype;
    written_.strides[0] = 1;
  }
  const View& written() const { return written_; }
  void add_to_result(Queue& queue) const {
    if (!direct_) reduce(ReduceOp::sum, as_row(written_), as_row(result_), beta_, queue);
  }

 private:
  View result_;
  double beta_;
  bool direct_;
  Scratch memory_;
  View written_;
};

}  // namespace

void matmul(const View& a, const View& b, const View& c, double beta, Queue& queue) {
  if (c.elements() == 0) return;
  if (!is_floating(c.dtype)) return integer_matmul(a, b, c, beta, queue);
  const int64_t k = a.shape[a.rank - 1];
  if (k == 0) return beta == 0 ? fill(c, 0, queue) : scale_add(beta, c, 0, c, queue);
  const Product product{.m = c.shape[c.rank - 2],
                        .n = c.shape[c.rank - 1],
                        .k = k,
                        .a = operand_of(a),
                        .b = operand_of(b),
                        .c = operand_of(c),
                        .beta = beta};
  multiply(product, Batches(a, b, c), queue);
}

void linear(const View& x, const View& w, const View& bias, const View& y, Queue& queue) {
  if (y.elements() == 0) return;
  if (x.shape[1] == 0 || !is_floating(y.dtype)) {
    spread(bias, y, queue);
    if (x.shape[1] != 0) integer_matmul(x, transposed(w), y, 1, queue);
    return;
  }
  Product product = linear_product(x, w, y);
  const Dense vector(bias, queue);
  if (bias.data == nullptr) return multiply_evenly(product, queue);
  product.epilogue = Epilogue::bias;
  product.bias = vector.data();
  product.bias_dtype = bias.dtype;
  queue.blas().multiply(product, queue, [&] {
    spread(bias, y, queue);
    matmul(x, transposed(w), y, 1, queue);
  });
}

void linear_activation(const View& x, const View& w, const View& bias, Elementwise op,
                       const View& before, const View& y, Queue& queue) {
  if (y.elements() == 0) return;
  const auto in_steps = [&] {
    const View& sum = before.data == nullptr ? y : before;
    linear(x, w, bias, sum, queue);
    unary(op, sum, y, queue);
  };
  View kept = before;
  kept.dtype = y.dtype;
  if (!has_epilogue(op, kept, x.shape[1])) return in_steps();
  Product product = linear_product(x, w, y);
  const Dense vector(bias, queue);
  product.epilogue = op.index == kRelu ? Epilogue::relu : Epilogue::gelu;
  product.bias = vector.data();
  product.bias_dtype = y.dtype;
  product.auxiliary = before.data;
  product.auxiliary_leading = before.data == nullptr ? 0 : before.strides[0];
  queue.blas().multiply(product, queue, in_steps);
}

void linear_activation_backward(const View& dy, const View& w, Elementwise op, const View& before,
                                const View& d, const View& dbias, double beta, Queue& queue) {
  const bool sums = dbias.data != nullptr;
  if (d.elements() == 0) {
    if (sums) reduce(ReduceOp::sum, d, as_row(dbias), beta, queue);
    return;
  }
  Product product{.m = d.shape[0],
                  .n = d.shape[1],
                  .k = dy.shape[1],
                  .a = operand_of(dy),
                  .b = operand_of(w),
                  .c = operand_of(d),
                  .bias_dtype = d.dtype,
                  .auxiliary = before.data,
                  .auxiliary_leading = before.strides[0]};
  const auto in_steps = [&] {
    matmul(dy, w, d, 0, queue);
    unary_backward(op, before, {}, d, d, 0, queue);
  };
  const bool epilogue = has_epilogue(op, before, product.k);
  const auto without_sums = [&] {
    if (!epilogue) return in_steps();
    product.epilogue = Epilogue::gelu_backward;
    product.bias = nullptr;
    queue.blas().multiply(product, queue, in_steps);
  };
  if (!sums) return without_sums();
  if (!epilogue) {
    in_steps();
    return reduce(ReduceOp::sum, d, as_row(dbias), beta, queue);
  }
  const BiasGradient gradient(dbias, beta, d.dtype, queue);
  Product both = product;
  both.epilogue = Epilogue::gelu_backward_bias_gradient;
  both.bias = gradient.written().data;
  queue.blas().multiply(both, queue, [&] {
    without_sums();
    reduce(ReduceOp::sum, d, as_row(gradient.written()), 0, queue);
  });
  gradient.add_to_result(queue);
}

void linear_weight_gradient(const View& dy, const View& x, const View& dw, const View& dbias,
                            const double beta[2], Queue& queue) {
  const View rows = transposed(dy);
  const bool sums = dbias.data != nullptr;
  if (!sums || dw.elements() == 0 || dy.shape[0] == 0 || !has_epilogues(dy.dtype)) {
    matmul(rows, x, dw, beta[0], queue);
    if (sums) reduce(ReduceOp::sum, dy, as_row(dbias), beta[1], queue);
    return;
  }
  Product product{.m = dw.shape[0],
                  .n = dw.shape[1],
                  .k = dy.shape[0],
                  .a = operand_of(rows),
                  .b = operand_of(x),
                  .c = operand_of(dw),
                  .beta = beta[0],
                  .epilogue = Epilogue::bias_gradient,
                  .bias_dtype = dw.dtype};
  const BiasGradient gradient(dbias, beta[1], dw.dtype, queue);
  product.bias = gradient.written().data;
  const auto in_steps = [&] {
    matmul(rows, x, dw, beta[0], queue);
    reduce(ReduceOp::sum, dy, as_row(gradient.written()), 0, queue);
  };
  if (product.c.transposed) {
    in_steps();
  } else {
    queue.blas().multiply(product, queue, in_steps);
  }
  gradient.add_to_result(queue);
}

}  // namespace lockstep::cuda

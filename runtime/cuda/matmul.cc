#include "lockstep/runtime/cuda/matmul.h"

#include <algorithm>
#include <utility>

#include "lockstep/runtime/cuda/blas.h"
#include "lockstep/runtime/cuda/kernels/elementwise.h"
#include "lockstep/runtime/cuda/kernels/integer_matmul.h"

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
      if (!joins) {
        shape[rank++] = 1;
      }
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
    Product one = product;
    if (one.c.transposed) {
      transpose(one);
    }
    queue.blas().multiply(one, queue);
  }
}

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
  const int64_t in = x.shape[1];
  if (in == 0 || !is_floating(y.dtype)) {
    View each_row = y;
    each_row.data = bias.data;
    each_row.strides[0] = 0;
    each_row.strides[1] = bias.strides[0];
    bias.data == nullptr ? fill(y, 0, queue) : copy(each_row, y, queue);
    View transposed = w;
    std::swap(transposed.shape[0], transposed.shape[1]);
    std::swap(transposed.strides[0], transposed.strides[1]);
    if (in != 0) integer_matmul(x, transposed, y, 1, queue);
    return;
  }
  Product product{.m = y.shape[0],
                  .n = y.shape[1],
                  .k = in,
                  .a = operand_of(x),
                  .b = operand_of(w),
                  .c = operand_of(y)};
  product.b.transposed = !product.b.transposed;
  // A bias whose elements lie apart is no vector to the library.
  const int64_t step = bias.data == nullptr || bias.shape[0] == 1 ? 1 : bias.strides[0];
  const Scratch dense(queue, step == 1 ? 0 : static_cast<size_t>(product.n) * size_of(y.dtype));
  if (bias.data != nullptr) {
    View vector = bias;
    if (step != 1) {
      vector.data = dense.as<void>();
      vector.strides[0] = 1;
      copy(bias, vector, queue);
    }
    product.epilogue = Epilogue::bias;
    product.bias = vector.data;
    product.bias_dtype = bias.dtype;
  }
  queue.blas().multiply(product, queue);
}

}  // namespace lockstep::cuda

#pragma once

#include <optional>
#include <vector>

#include "lockstep/autograd/tensor.h"

namespace lockstep {

// Reductions over `dims` (negative ones count from the end; none twice), or over all when empty.
// `keepdim` leaves size 1 where a dimension was reduced. A rank-0 tensor has the dimension 0 or -1.

// Of integers and bool in i64.
Tensor sum(const Tensor& x, std::vector<int> dims = {}, bool keepdim = false);
// Floating only. Over nothing: NaN.
Tensor mean(const Tensor& x, std::vector<int> dims = {}, bool keepdim = false);
// Gradients are true where factors are zero. Of integers and bool in i64.
Tensor prod(const Tensor& x);
Tensor prod(const Tensor& x, int dim, bool keepdim = false);
// Sums of squares over (elements - correction), from the mean: NaN where that is 0 / 0.
Tensor var(const Tensor& x, std::vector<int> dims = {}, double correction = 1,
           bool keepdim = false);
// torch.std
Tensor stddev(const Tensor& x, std::vector<int> dims = {}, double correction = 1,
              bool keepdim = false);

// Equal elements share the gradient. NaN wins. Throws Error where there is nothing to choose from.
Tensor amax(const Tensor& x, std::vector<int> dims = {}, bool keepdim = false);
Tensor amin(const Tensor& x, std::vector<int> dims = {}, bool keepdim = false);

struct ValuesIndices {
  Tensor values;
  Tensor indices;  // i64
};

// Of all elements as amax; along `dim` the first of equal ones takes the gradient.
Tensor max(const Tensor& x);
Tensor min(const Tensor& x);
ValuesIndices max(const Tensor& x, int dim, bool keepdim = false);
ValuesIndices min(const Tensor& x, int dim, bool keepdim = false);
// i64: the first of equal ones, or the first NaN. Without `dim` the row-major place among all. No
// gradient.
Tensor argmax(const Tensor& x, std::optional<int> dim = {}, bool keepdim = false);
Tensor argmin(const Tensor& x, std::optional<int> dim = {}, bool keepdim = false);

// bool (u8 of u8, as in PyTorch), without a gradient; what is not 0 counts as true.
Tensor all(const Tensor& x, std::vector<int> dims = {}, bool keepdim = false);
Tensor any(const Tensor& x, std::vector<int> dims = {}, bool keepdim = false);

// log(sum(exp(x))) without overflow; -inf where all are, with the gradient 0. Floating only.
Tensor logsumexp(const Tensor& x, std::vector<int> dims = {}, bool keepdim = false);
// torch.linalg.vector_norm: (sum |x|^p)^(1/p); infinity: the largest |x|, -infinity: the smallest,
// 0: how many are not zero. The gradient at the zero vector is 0. Floating only.
Tensor norm(const Tensor& x, double p = 2, std::vector<int> dims = {}, bool keepdim = false);

// Running sums and products along `dim`. Of integers and bool in i64.
Tensor cumsum(const Tensor& x, int dim);
Tensor cumprod(const Tensor& x, int dim);

// Sums the dimensions in which `shape` broadcasts to x's shape.
Tensor sum_to(const Tensor& x, const Shape& shape);

}  // namespace lockstep

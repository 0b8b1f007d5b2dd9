#include "lockstep/autograd/ops/linear_algebra.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/tensor.h"

// The ops that are members of Tensor too: tensor.h stays free of the ops' headers.
namespace lockstep {

int64_t Tensor::size(int i) const { return shape()[normalize_dim("size", i, rank())]; }

Tensor Tensor::t() const {
  LOCKSTEP_CHECK(rank() <= 2, "t: a tensor of shape ", shape(), ", expected at most 2 dimensions");
  return rank() < 2 ? *this : transpose(0, 1);
}

Tensor Tensor::permute(std::vector<int> order) const {
  return lockstep::permute(*this, std::move(order));
}

Tensor Tensor::reshape(const Shape& shape) const { return lockstep::reshape(*this, shape); }

Tensor Tensor::view(const Shape& shape) const { return lockstep::view(*this, shape); }

Tensor Tensor::flatten(int first, int last) const { return lockstep::flatten(*this, first, last); }

Tensor Tensor::squeeze(std::optional<int> dim) const {
  return dim ? lockstep::squeeze(*this, *dim) : lockstep::squeeze(*this);
}

Tensor Tensor::unsqueeze(int dim) const { return lockstep::unsqueeze(*this, dim); }

Tensor Tensor::contiguous() const { return lockstep::contiguous(*this); }

Tensor Tensor::sum(std::vector<int> dims, bool keepdim) const {
  return lockstep::sum(*this, std::move(dims), keepdim);
}

Tensor Tensor::mean(std::vector<int> dims, bool keepdim) const {
  return lockstep::mean(*this, std::move(dims), keepdim);
}

Tensor Tensor::matmul(const Tensor& other) const { return lockstep::matmul(*this, other); }

}  // namespace lockstep

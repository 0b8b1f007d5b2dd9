#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// Kernels that read or write where an index says. Arguments as in Kernels.
namespace lockstep::cuda {

void gather(const View& x, int dim, const View& index, const View& out, Queue& queue);
// Values of one place are summed in parts of a fixed size (a tree), each in the order of i.
void scatter_add(const View& x, int dim, const View& index, const View& out, Queue& queue);
void embedding(const View& table, const View& ids, const View& out, Queue& queue);
void embedding_backward(const View& dy, const View& ids, const View& dtable, double beta,
                        Queue& queue);
void extent(const View& ids, int64_t* smallest, int64_t* largest, Queue& queue);
void resample(const View& x, int dim, const SparseRows& matrix, const View& y, Queue& queue);

}  // namespace lockstep::cuda

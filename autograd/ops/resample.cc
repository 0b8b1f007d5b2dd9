#include "lockstep/autograd/ops/resample.h"

#include "lockstep/autograd/record.h"

namespace lockstep::internal {

namespace {

kernels::SparseMatrix on_device(const std::vector<int64_t>& starts,
                                const std::vector<int64_t>& columns,
                                const std::vector<double>& weights, Device device) {
  const auto count = [](const auto& list) { return Shape{static_cast<int64_t>(list.size())}; };
  return {Array::from(starts, count(starts), device), Array::from(columns, count(columns), device),
          Array::from(weights, count(weights), device)};
}

Tensor resample(const Tensor& x, int dim, const std::shared_ptr<const Resampling>& by,
                bool transposed) {
  return record({"resample"},
                kernels::resample(x.value(), dim, by->matrix(transposed), by->rows(transposed)),
                {&x}, [dim, by, transposed](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return resample(dy, dim, by, !transposed); });
                });
}

}  // namespace

Resampling::Resampling(const Rows& rows, int64_t columns, Device device)
    : rows_(static_cast<int64_t>(rows.starts_.size()) - 1),
      columns_(columns),
      matrix_(on_device(rows.starts_, rows.columns_, rows.weights_, device)) {
  std::vector<int64_t> starts(static_cast<size_t>(columns) + 1, 0);
  for (int64_t column : rows.columns_) ++starts[static_cast<size_t>(column) + 1];
  for (size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
  std::vector<int64_t> next = starts, places(rows.columns_.size());
  std::vector<double> weights(rows.columns_.size());
  for (int64_t row = 0; row < rows_; ++row) {
    for (int64_t t = rows.starts_[static_cast<size_t>(row)];
         t < rows.starts_[static_cast<size_t>(row) + 1]; ++t) {
      const auto from = static_cast<size_t>(t);
      const auto to = static_cast<size_t>(next[static_cast<size_t>(rows.columns_[from])]++);
      places[to] = row;
      weights[to] = rows.weights_[from];
    }
  }
  transpose_ = on_device(starts, places, weights, device);
}

void check_rows(const char* name, int64_t rows) {
  constexpr int64_t kMost = int64_t{1} << 26;
  LOCKSTEP_CHECK(rows >= 1 && rows <= kMost, name, ": ", rows,
                 " elements in a spatial dimension of the output, expected 1 to ", kMost);
}

Tensor resample(const Tensor& x, std::span<const std::shared_ptr<const Resampling>> matrices) {
  const bool rounds = size_of(x.dtype()) == 2 && matrices.size() > 1;
  Tensor y = rounds ? x.to(DType::f32) : x;
  for (size_t i = 0; i < matrices.size(); ++i) {
    y = resample(y, 2 + static_cast<int>(i), matrices[i], false);
  }
  return rounds ? y.to(x.dtype()) : y;
}

}  // namespace lockstep::internal

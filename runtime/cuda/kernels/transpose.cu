#include "lockstep/runtime/cuda/kernels/transpose.h"

#include <type_traits>

#include "lockstep/runtime/cuda/grid.h"

namespace lockstep::cuda {
namespace {

constexpr int kTile = 64;      // elements of a side
constexpr int kSmallest = 16;  // a shorter side is not worth a tile

// A place in a batch of matrices: x's columns and y's rows lie together.
struct Geometry {
  int rows_dim = 0;  // of the layout, where x has stride 1; y has it in dimension 0
  uint32_t rows = 0, columns = 0;
  Divisor row_tiles, column_tiles;
  uint32_t tiles = 0;  // of all
};

// Values as they are.
template <class Bits>
struct Moves {
  using Value = Bits;
  LOCKSTEP_HD static Value get(const Operand& x, int64_t at) {
    return static_cast<const Bits*>(x.data)[at];
  }
  LOCKSTEP_HD static void put(const Operand& y, int64_t at, Value value) {
    static_cast<Bits*>(y.data)[at] = value;
  }
};

struct Converts {
  using Value = float;
  LOCKSTEP_HD static float get(const Operand& x, int64_t at) { return x.get<float>(at); }
  LOCKSTEP_HD static void put(const Operand& y, int64_t at, float value) { y.put(at, value); }
};

// A tile goes through shared memory, so that both sides are touched in runs of kTile elements. The
// pitch moves each row of it by one bank.
template <class Move>
struct TransposeBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = true;
  using Value = typename Move::Value;
  static constexpr int kPitch =
      kTile + (sizeof(Value) < 4 ? 4 / static_cast<int>(sizeof(Value)) : 1);
  static constexpr int kSharedBytes = kTile * kPitch * static_cast<int>(sizeof(Value));
  Region<2> region;
  Geometry geometry;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    constexpr int kEach = kTile * kTile / kThreads;
    constexpr int kStep = kThreads / kTile;
    const auto& layout = region.layout;
    const auto block = static_cast<uint32_t>(t.block());
    const uint32_t above = geometry.column_tiles.divide(block);
    const uint32_t batch = geometry.row_tiles.divide(above);
    const uint32_t column = (block - above * geometry.column_tiles.value) * kTile;
    const uint32_t row = (above - batch * geometry.row_tiles.value) * kTile;
    int64_t x_at, y_at;
    place(batch, &x_at, &y_at);

    auto* tile = t.shared<Value>();
    const int lane = t.index() % kTile, line = t.index() / kTile;
    const int64_t x_stride = layout.strides[0][0];
    const int64_t y_stride = layout.strides[1][geometry.rows_dim];
    Value values[kEach];
    for (int k = 0; k < kEach; ++k) {  // along x's rows
      const uint32_t c = column + static_cast<uint32_t>(line + k * kStep);
      const uint32_t r = row + static_cast<uint32_t>(lane);
      if (c < geometry.columns && r < geometry.rows) {
        values[k] = Move::get(region.operands[0], x_at + r + c * x_stride);
      }
    }
    for (int k = 0; k < kEach; ++k) tile[(line + k * kStep) * kPitch + lane] = values[k];
    t.sync();
    for (int k = 0; k < kEach; ++k) {  // along y's
      const uint32_t r = row + static_cast<uint32_t>(line + k * kStep);
      const uint32_t c = column + static_cast<uint32_t>(lane);
      if (c < geometry.columns && r < geometry.rows) {
        Move::put(region.operands[1], y_at + c + r * y_stride,
                  tile[lane * kPitch + line + k * kStep]);
      }
    }
  }

 private:
  // Of a batch's first element.
  LOCKSTEP_HD void place(uint32_t batch, int64_t* x_at, int64_t* y_at) const {
    const auto& layout = region.layout;
    *x_at = *y_at = 0;
    for (int d = 1; d < layout.rank; ++d) {
      if (d == geometry.rows_dim) continue;
      const uint32_t outer = layout.shape[d].divide(batch);
      const auto here = static_cast<int64_t>(batch - outer * layout.shape[d].value);
      *x_at += here * layout.strides[0][d];
      *y_at += here * layout.strides[1][d];
      batch = outer;
    }
  }
};

template <class Move>
bool run(const Region<2>& region, const Geometry& geometry, Queue& queue) {
  using Body = TransposeBody<Move>;
  launch(Body{region, geometry}, {.blocks = geometry.tiles, .shared_bytes = Body::kSharedBytes},
         queue);
  return true;
}

}  // namespace

bool transpose(const Region<2>& region, Queue& queue) {
  const auto& layout = region.layout;
  if (layout.rank < 2 || layout.strides[1][0] != 1 || layout.strides[0][0] == 1) return false;
  Geometry geometry;
  for (int d = 1; d < layout.rank; ++d) {
    if (layout.strides[0][d] == 1) geometry.rows_dim = d;
  }
  if (geometry.rows_dim == 0) return false;
  geometry.columns = layout.shape[0].value;
  geometry.rows = layout.shape[geometry.rows_dim].value;
  if (geometry.columns < kSmallest || geometry.rows < kSmallest) return false;
  geometry.column_tiles = Divisor((geometry.columns + kTile - 1) / kTile);
  geometry.row_tiles = Divisor((geometry.rows + kTile - 1) / kTile);
  geometry.tiles = region.count / geometry.columns / geometry.rows * geometry.column_tiles.value *
                   geometry.row_tiles.value;

  const DType from = region.operands[0].dtype, to = region.operands[1].dtype;
  if (from != to) {
    const auto is_float = [](DType dtype) { return is_floating(dtype) && dtype != DType::f64; };
    return is_float(from) && is_float(to) && run<Converts>(region, geometry, queue);
  }
  switch (size_of(to)) {
    case 1: return run<Moves<uint8_t>>(region, geometry, queue);
    case 2: return run<Moves<uint16_t>>(region, geometry, queue);
    case 4: return run<Moves<uint32_t>>(region, geometry, queue);
    default: return run<Moves<uint64_t>>(region, geometry, queue);
  }
}

}  // namespace lockstep::cuda

#include "conformance/table.h"

namespace lockstep::conformance {

OpTable op_table() {
  OpTable table;
  add_unary(table);
  add_binary(table);
  add_reduce(table);
  add_shape(table);
  add_index(table);
  add_linear_algebra(table);
  add_convolution(table);
  add_normalization(table);
  add_loss(table);
  add_gradients(table);
  return table;
}

}  // namespace lockstep::conformance

#include "lockstep/runtime/error.h"

#include <cstdio>

namespace lockstep {

Piece::Piece(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.6g", value);
  text_ = buffer;
}

std::string concat(std::initializer_list<Piece> pieces) {
  std::string message;
  for (const Piece& piece : pieces) message += piece.text();
  return message;
}

void fail(std::initializer_list<Piece> pieces) { throw Error(concat(pieces)); }
void fail_usage(std::initializer_list<Piece> pieces) { throw UsageError(concat(pieces)); }

}  // namespace lockstep

#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

#include "lockstep/runtime/dtype.h"
#include "lockstep/runtime/shape.h"

namespace lockstep {

// A broken contract or a failure inside a step. The message is one line that says what was
// expected, what was found, and where.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What the user asked for is impossible (a flag, a file, a batch that does not divide). Programs
// end with exit code 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

// A piece of a message: text, a number, a shape or a dtype.
class Piece {
 public:
  Piece(const char* text) : text_(text) {}
  Piece(std::string_view text) : text_(text) {}
  Piece(const std::string& text) : text_(text) {}
  Piece(int value) : text_(std::to_string(value)) {}
  Piece(unsigned value) : text_(std::to_string(value)) {}
  Piece(long value) : text_(std::to_string(value)) {}
  Piece(unsigned long value) : text_(std::to_string(value)) {}
  Piece(long long value) : text_(std::to_string(value)) {}
  Piece(unsigned long long value) : text_(std::to_string(value)) {}
  Piece(double value);
  Piece(const Shape& shape) : text_(shape.to_string()) {}
  Piece(DType dtype) : text_(name_of(dtype)) {}

  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

std::string concat(std::initializer_list<Piece> pieces);

[[noreturn]] void fail(std::initializer_list<Piece> pieces);
[[noreturn]] void fail_usage(std::initializer_list<Piece> pieces);

}  // namespace lockstep

// Throws Error with the message built from the pieces unless `condition` holds; the pieces are only
// evaluated when it does not.
#define LOCKSTEP_CHECK(condition, ...) \
  do {                                 \
    if (!(condition)) [[unlikely]]     \
      ::lockstep::fail({__VA_ARGS__}); \
  } while (false)

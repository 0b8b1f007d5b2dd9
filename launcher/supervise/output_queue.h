#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace lockstep::supervise {

// What waits to be written to a stream of this process. Nothing here waits for who reads it.
class OutputQueue {
 public:
  explicit OutputQueue(int stream);
  ~OutputQueue();
  OutputQueue(const OutputQueue&) = delete;
  OutputQueue& operator=(const OutputQueue&) = delete;

  // Where to look for POLLOUT.
  int descriptor() const { return descriptor_; }
  size_t size() const { return text_.size() - written_; }
  // Whole lines. They are forgotten once nobody reads any more.
  void add(std::string_view lines);
  // Writes what can be written now. Returns whether that was anything.
  bool flush();
  // Forgets what waits, and returns how many bytes that were.
  size_t clear();

 private:
  std::string_view next_piece() const;

  int stream_;
  int descriptor_;       // of the stream, or of what it leads to, opened anew
  bool broken_ = false;  // nobody reads any more
  std::string text_;
  size_t written_ = 0;
};

}  // namespace lockstep::supervise

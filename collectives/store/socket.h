#pragma once

#include <chrono>
#include <string>

#include "absl/status/statusor.h"

struct addrinfo;

namespace lockstep {

// A file descriptor that is closed with it.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Socket();

  int get() const { return descriptor_; }
  explicit operator bool() const { return descriptor_ >= 0; }

 private:
  int descriptor_ = -1;
};

// Non-blocking, on every address of this machine.
absl::StatusOr<Socket> listen_on(int port);
int port_of(const Socket& socket);

// One attempt, non-blocking afterwards. Small messages leave at once, and a peer whose machine is
// gone is noticed after some 15 s. A host's addresses are tried in order: where it has several, one
// that does not answer takes its share of the time that is left, and 5 s at most.
absl::StatusOr<Socket> connect_to(const std::string& host, int port,
                                  std::chrono::steady_clock::time_point deadline);
absl::StatusOr<Socket> connect_to(const addrinfo* addresses, const std::string& where,
                                  std::chrono::steady_clock::time_point deadline);
void prepare(const Socket& socket);

// Lets this process open so many descriptors beside those that it has, where its hard limit does.
absl::Status allow_descriptors(int count);

// errno as a status that says what was being done.
absl::Status system_error(const std::string& doing);

}  // namespace lockstep

#include "lockstep/collectives/store/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"

namespace lockstep {
namespace {

constexpr std::chrono::milliseconds kLongestPoll = std::chrono::hours(24);
constexpr std::chrono::seconds kLongestForAnAddress{5};  // two packets may be lost

void set_option(const Socket& socket, int level, int option, int value) {
  ::setsockopt(socket.get(), level, option, &value, sizeof value);
}

absl::StatusOr<Socket> bind_and_listen(int family, int port) {
  Socket socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return system_error("opening a socket");
  set_option(socket, SOL_SOCKET, SO_REUSEADDR, 1);
  sockaddr_storage address{};
  socklen_t length = 0;
  if (family == AF_INET6) {
    set_option(socket, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    auto& v6 = reinterpret_cast<sockaddr_in6&>(address);
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(static_cast<uint16_t>(port));
    length = sizeof v6;
  } else {
    auto& v4 = reinterpret_cast<sockaddr_in&>(address);
    v4.sin_family = AF_INET;
    v4.sin_port = htons(static_cast<uint16_t>(port));
    length = sizeof v4;
  }
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      ::listen(socket.get(), 1024) != 0) {
    return system_error(absl::StrCat("listening on port ", port));
  }
  return socket;
}

// Waits for a connection under way.
absl::Status finish_connecting(const Socket& socket, const std::string& where,
                               std::chrono::steady_clock::time_point deadline) {
  pollfd wanted{socket.get(), POLLOUT, 0};
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      deadline - std::chrono::steady_clock::now());
  const int timeout = static_cast<int>(std::clamp<int64_t>(left.count(), 0, kLongestPoll.count()));
  const int ready = ::poll(&wanted, 1, timeout);
  if (ready < 0) return system_error("connecting to " + where);
  if (ready == 0) return absl::DeadlineExceededError("connecting to " + where + ": no answer");
  int error = 0;
  socklen_t length = sizeof error;
  ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  errno = error;
  return error == 0 ? absl::OkStatus() : system_error("connecting to " + where);
}

// When to try the next address instead.
std::chrono::steady_clock::time_point share_of(const addrinfo* address,
                                               std::chrono::steady_clock::time_point deadline) {
  int64_t addresses = 0;
  for (const addrinfo* at = address; at != nullptr; at = at->ai_next) ++addresses;
  const auto now = std::chrono::steady_clock::now();
  return now + std::min<std::chrono::steady_clock::duration>((deadline - now) / addresses,
                                                             kLongestForAnAddress);
}

}  // namespace

Socket::~Socket() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

absl::Status system_error(const std::string& doing) {
  return absl::UnavailableError(absl::StrCat(doing, ": ", std::strerror(errno)));
}

absl::Status allow_descriptors(int count) {
  constexpr rlim_t kOthers = 256;  // files, pipes, sockets of the rest of the process
  const rlim_t needed = static_cast<rlim_t>(count) + kOthers;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return system_error("reading RLIMIT_NOFILE");
  if (limit.rlim_cur >= needed) return absl::OkStatus();
  if (limit.rlim_max < needed) {
    return absl::FailedPreconditionError(absl::StrCat(
        "store: ", count, " connections need ", needed, " file descriptors, but this process may ",
        "open ", limit.rlim_max, ": raise its hard limit (ulimit -Hn, or LimitNOFILE of systemd)"));
  }
  limit.rlim_cur = needed;
  return ::setrlimit(RLIMIT_NOFILE, &limit) == 0 ? absl::OkStatus()
                                                 : system_error("raising RLIMIT_NOFILE");
}

absl::StatusOr<Socket> listen_on(int port) {
  auto both = bind_and_listen(AF_INET6, port);
  return both.ok() ? std::move(both) : bind_and_listen(AF_INET, port);
}

int port_of(const Socket& socket) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  ::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length);
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                   : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

void prepare(const Socket& socket) {
  set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, 5);
  set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, 2);
  set_option(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, 15000);
}

absl::StatusOr<Socket> connect_to(const std::string& host, int port,
                                  std::chrono::steady_clock::time_point deadline) {
  const std::string where = absl::StrCat(host, ":", port);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failed = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (failed != 0) {
    return absl::UnavailableError(absl::StrCat("looking up ", host, ": ", ::gai_strerror(failed)));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, ::freeaddrinfo);
  return connect_to(addresses.get(), where, deadline);
}

absl::StatusOr<Socket> connect_to(const addrinfo* addresses, const std::string& where,
                                  std::chrono::steady_clock::time_point deadline) {
  absl::Status last = absl::UnavailableError("no address for " + where);
  for (const addrinfo* at = addresses; at != nullptr; at = at->ai_next) {
    Socket socket(::socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) continue;
    if (::connect(socket.get(), at->ai_addr, at->ai_addrlen) == 0) {
      last = absl::OkStatus();
    } else if (errno == EINPROGRESS) {
      const bool alone = addresses->ai_next == nullptr;
      last = finish_connecting(socket, where, alone ? deadline : share_of(at, deadline));
    } else {
      last = system_error("connecting to " + where);
    }
    if (!last.ok()) continue;
    prepare(socket);
    return socket;
  }
  return last;
}

}  // namespace lockstep

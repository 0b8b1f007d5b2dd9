#include <fcntl.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <list>
#include <optional>
#include <thread>
#include <vector>

#include "lockstep/collectives/store/socket.h"
#include "lockstep/collectives/store/store_table.h"
#include "lockstep/collectives/store/store_wire.h"
#include "lockstep/collectives/store/tcp_store.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kReadBytes = 64 * 1024;
constexpr size_t kHelloBytes = 1024;  // before a client is known it may not send more
constexpr std::chrono::milliseconds kNoRoomPause(100);  // until descriptors may be free again
constexpr std::chrono::milliseconds kLongestPoll(250);
constexpr std::chrono::milliseconds kStandstill(1000);  // of this process, when a poll took so long

// In a time that does not tell how much of it is right.
bool same_token(std::string_view a, std::string_view b) {
  unsigned different = a.size() != b.size();
  for (size_t i = 0; i < a.size(); ++i) {
    different |= static_cast<unsigned char>(a[i] ^ b[b.empty() ? 0 : i % b.size()]);
  }
  return different == 0;
}

std::string done() { return WireWriter().u8(0).finish(); }

std::string answer_of(const absl::Status& status) {
  if (status.ok()) return done();
  const std::string_view message(status.message().data(), status.message().size());
  return WireWriter().u8(static_cast<uint8_t>(status.code())).text(message).finish();
}

struct Waiting {
  std::string key;
  Store::Milliseconds asked;
  Clock::time_point deadline;
};

// One client. It has at most one request under way, so while it waits nothing is read from it.
struct Connection {
  Socket socket;
  Clock::time_point since = Clock::now();
  bool known = false;  // has said hello
  bool closing = false;
  std::string in;
  std::string out;
  std::optional<Waiting> waiting;
  std::optional<std::pair<std::string, std::string>> will;
};

}  // namespace

class TcpStoreServer::Loop {
 public:
  Loop(Options options, Socket listener, Socket wake_read, Socket wake_write)
      : options_(std::move(options)),
        table_(options_.limits),
        listener_(std::move(listener)),
        wake_read_(std::move(wake_read)),
        wake_write_(std::move(wake_write)),
        port_(port_of(listener_)),
        thread_([this] { run(); }) {}

  ~Loop() {
    stopping_ = true;
    const char byte = 0;
    [[maybe_unused]] const ssize_t written = ::write(wake_write_.get(), &byte, 1);
    thread_.join();
  }

  int port() const { return port_; }
  const std::string& token() const { return options_.token; }

 private:
  void run() {
    std::vector<pollfd> wanted;
    Clock::time_point before = Clock::now();
    while (!stopping_) {
      const int timeout = prepare_poll(&wanted);
      if (::poll(wanted.data(), wanted.size(), timeout) < 0 && errno != EINTR) return;
      const Clock::time_point now = Clock::now();
      if (now - before > kStandstill) wills_from_ = now + kStandstill;
      before = now;
      auto at = wanted.begin() + 2;
      for (Connection& client : clients_) serve(client, (at++)->revents);
      if (wanted[0].revents != 0) accept_all();
      expire();
      remove_closed();
    }
  }

  int prepare_poll(std::vector<pollfd>* wanted) const {
    wanted->clear();
    const Clock::time_point now = Clock::now();
    const bool room =
        static_cast<int>(clients_.size()) < options_.connections && now >= accept_from_;
    wanted->push_back({listener_.get(), static_cast<short>(room ? POLLIN : 0), 0});
    wanted->push_back({wake_read_.get(), POLLIN, 0});
    Clock::time_point next = now + kLongestPoll;
    if (now < accept_from_) next = accept_from_;
    for (const Connection& client : clients_) {
      short events = POLLRDHUP;
      if (!client.waiting && client.out.empty()) events |= POLLIN;
      if (!client.out.empty()) events |= POLLOUT;
      wanted->push_back({client.socket.get(), events, 0});
      if (client.waiting) next = std::min(next, client.waiting->deadline);
      if (!client.known) next = std::min(next, client.since + options_.hello_within);
    }
    const auto left = std::chrono::ceil<Store::Milliseconds>(next - Clock::now());
    return static_cast<int>(std::max<int64_t>(left.count(), 0));
  }

  void accept_all() {
    while (static_cast<int>(clients_.size()) < options_.connections) {
      Socket socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      // Others in this process may have taken the descriptors.
      if (!socket && (errno == EMFILE || errno == ENFILE))
        accept_from_ = Clock::now() + kNoRoomPause;
      if (!socket) return;
      prepare(socket);
      clients_.emplace_back().socket = std::move(socket);
    }
  }

  void serve(Connection& client, short events) {
    if ((events & (POLLERR | POLLNVAL)) != 0) client.closing = true;
    // Somebody who hangs up while waiting has nothing more to say.
    const bool idle = client.waiting || !client.out.empty();
    if ((events & (POLLHUP | POLLRDHUP)) != 0 && idle) client.closing = true;
    if (!client.closing && (events & (POLLIN | POLLRDHUP)) != 0) receive(client);
    if (!client.closing && (events & POLLOUT) != 0) send(client);
    handle_messages(client);
  }

  void receive(Connection& client) {
    char bytes[kReadBytes];
    const ssize_t count = ::recv(client.socket.get(), bytes, sizeof bytes, 0);
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) client.closing = true;
    if (count <= 0) return;
    client.in.append(bytes, static_cast<size_t>(count));
  }

  void handle_messages(Connection& client) {
    const StoreLimits& limits = options_.limits;
    const size_t most = client.known ? limits.key_bytes + limits.value_bytes + 64 : kHelloBytes;
    // One answer at a time: those to requests sent ahead of it would have no bound.
    while (!client.closing && !client.waiting && client.out.empty() &&
           client.in.size() >= kWireHeaderBytes) {
      const size_t length = wire_length(client.in);
      if (length > most) {
        client.closing = true;
        return;
      }
      if (client.in.size() < kWireHeaderBytes + length) return;
      WireReader reader(std::string_view(client.in).substr(kWireHeaderBytes, length));
      if (!handle(client, reader)) client.closing = true;
      client.in.erase(0, kWireHeaderBytes + length);
    }
  }

  // False: not a message of this protocol.
  bool handle(Connection& client, WireReader& reader) {
    uint8_t kind = 0;
    std::string_view key, value;
    if (!reader.u8(&kind)) return false;
    const auto request = static_cast<StoreRequest>(kind);
    if (!client.known) return request == StoreRequest::hello && greet(client, reader);
    int64_t number = 0;
    switch (request) {
      case StoreRequest::set:
        if (!reader.text(&key) || !reader.text(&value) || !reader.at_end()) return false;
        return reply(client, answer_of(set(key, value)));
      case StoreRequest::set_once:
        if (!reader.text(&key) || !reader.text(&value) || !reader.at_end()) return false;
        return reply(client, set_once(key, value));
      case StoreRequest::get:
        if (!reader.text(&key) || !reader.i64(&number) || !reader.at_end()) return false;
        return get(client, key, number);
      case StoreRequest::add:
        if (!reader.text(&key) || !reader.i64(&number) || !reader.at_end()) return false;
        return reply(client, add(key, number));
      case StoreRequest::remove:
        if (!reader.text(&key) || !reader.at_end()) return false;
        return reply(client, WireWriter().u8(0).u8(table_.remove(key)).finish());
      case StoreRequest::list:
        if (!reader.text(&key) || !reader.at_end()) return false;
        return reply(client, list(key));
      case StoreRequest::set_will:
        if (!reader.text(&key) || !reader.text(&value) || !reader.at_end()) return false;
        return reply(client, answer_of(set_will(client, key, value)));
      case StoreRequest::leave:
        if (!reader.at_end()) return false;
        client.will.reset();
        return reply(client, done());
      case StoreRequest::hello: return false;
    }
    return false;
  }

  bool greet(Connection& client, WireReader& reader) {
    uint32_t magic = 0;
    std::string_view token;
    if (!reader.u32(&magic) || magic != kStoreMagic || !reader.text(&token) || !reader.at_end()) {
      return false;
    }
    if (!same_token(token, options_.token)) {
      reply(client, answer_of(absl::UnauthenticatedError("the store refuses this token")));
      return false;
    }
    client.known = true;
    return reply(client, done());
  }

  bool get(Connection& client, std::string_view key, int64_t milliseconds) {
    if (const std::string* value = table_.find(key)) {
      return reply(client, WireWriter().u8(0).text(*value).finish());
    }
    // A year is for ever, and does not overflow the clock.
    const Store::Milliseconds asked(std::clamp<int64_t>(milliseconds, 0, 365LL * 86400 * 1000));
    client.waiting = Waiting{std::string(key), asked, Clock::now() + asked};
    return true;
  }

  absl::Status set(std::string_view key, std::string_view value) {
    const absl::Status status = table_.set(key, value);
    if (status.ok()) wake(key);
    return status;
  }

  absl::Status set_will(Connection& client, std::string_view key, std::string_view value) const {
    const absl::Status status = table_.check(key, value);
    if (status.ok()) client.will.emplace(key, value);
    return status;
  }

  std::string set_once(std::string_view key, std::string_view value) {
    const auto there = table_.set_once(key, value);
    if (!there.ok()) return answer_of(there.status());
    wake(key);
    return WireWriter().u8(0).text(*there).finish();
  }

  std::string add(std::string_view key, int64_t delta) {
    const auto sum = table_.add(key, delta);
    if (!sum.ok()) return answer_of(sum.status());
    wake(key);
    return WireWriter().u8(0).i64(*sum).finish();
  }

  std::string list(std::string_view prefix) const {
    const auto found = table_.list(prefix);
    WireWriter writer;
    writer.u8(0).u32(static_cast<uint32_t>(found.size()));
    for (const auto& [key, value] : found) writer.text(key).text(value);
    return writer.finish();
  }

  void wake(std::string_view key) {
    for (Connection& client : clients_) {
      if (!client.waiting || client.waiting->key != key) continue;
      client.waiting.reset();
      reply(client, WireWriter().u8(0).text(*table_.find(key)).finish());
    }
  }

  void expire() {
    const Clock::time_point now = Clock::now();
    for (Connection& client : clients_) {
      if (!client.known && now >= client.since + options_.hello_within) client.closing = true;
      if (!client.waiting || now < client.waiting->deadline) continue;
      const absl::Status late = missing_keys({client.waiting->key}, client.waiting->asked);
      client.waiting.reset();
      reply(client, answer_of(late));
    }
  }

  bool reply(Connection& client, const std::string& message) {
    client.out += message;
    send(client);
    return true;
  }

  void send(Connection& client) {
    while (!client.out.empty()) {
      const ssize_t count =
          ::send(client.socket.get(), client.out.data(), client.out.size(), MSG_NOSIGNAL);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 && errno != EAGAIN) client.closing = true;
      if (count < 0) return;
      client.out.erase(0, static_cast<size_t>(count));
    }
  }

  // Those who go leave their wills, which may wake others, but never add to the list. Not when this
  // host stood still: they have given it up then, and that is no death of theirs.
  void remove_closed() {
    for (auto at = clients_.begin(); at != clients_.end();) {
      if (!at->closing) {
        ++at;
        continue;
      }
      const auto will = std::move(at->will);
      at = clients_.erase(at);
      if (will && Clock::now() >= wills_from_) set_once(will->first, will->second);
    }
  }

  const Options options_;
  StoreTable table_;
  Socket listener_;
  Socket wake_read_;
  Socket wake_write_;
  int port_;
  std::list<Connection> clients_;
  Clock::time_point accept_from_{};
  Clock::time_point wills_from_{};
  std::atomic<bool> stopping_{false};
  std::thread thread_;  // last: it uses all of the above
};

TcpStoreServer::TcpStoreServer(std::unique_ptr<Loop> loop) : loop_(std::move(loop)) {}
TcpStoreServer::~TcpStoreServer() = default;
int TcpStoreServer::port() const { return loop_->port(); }
const std::string& TcpStoreServer::token() const { return loop_->token(); }

absl::StatusOr<std::string> random_token() {
  unsigned char bytes[16];
  if (::getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return system_error("random numbers");
  std::string token;
  for (unsigned char byte : bytes) {
    token += "0123456789abcdef"[byte >> 4];
    token += "0123456789abcdef"[byte & 15];
  }
  return token;
}

absl::StatusOr<std::unique_ptr<TcpStoreServer>> TcpStoreServer::start_for_ranks(int ranks) {
  constexpr int kEach = 2, kForStrangers = 64;
  auto token = random_token();
  if (!token.ok()) return token.status();
  return start({.token = *std::move(token), .connections = kEach * ranks + kForStrangers});
}

absl::StatusOr<std::unique_ptr<TcpStoreServer>> TcpStoreServer::start(Options options) {
  if (absl::Status status = allow_descriptors(options.connections); !status.ok()) return status;
  auto listener = listen_on(options.port);
  if (!listener.ok()) return listener.status();
  int wake[2];
  if (::pipe2(wake, O_CLOEXEC | O_NONBLOCK) != 0) return system_error("opening a pipe");
  auto loop = std::make_unique<Loop>(std::move(options), *std::move(listener), Socket(wake[0]),
                                     Socket(wake[1]));
  return std::unique_ptr<TcpStoreServer>(new TcpStoreServer(std::move(loop)));
}

}  // namespace lockstep

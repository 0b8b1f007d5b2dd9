#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "lockstep/collectives/store/socket.h"
#include "lockstep/collectives/store/store_wire.h"
#include "lockstep/collectives/store/tcp_store.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kLargestAnswer = 1u << 30;
constexpr size_t kReadBytes = size_t{1} << 20;
constexpr Store::Milliseconds kLongestPoll(500);

class TcpClient final : public Store {
 public:
  TcpClient(Socket socket, std::string host, Milliseconds answer_within)
      : socket_(std::move(socket)), host_(std::move(host)), answer_within_(answer_within) {}
  // Before others use it.
  void set_answer_within(Milliseconds within) { answer_within_ = within; }

  // The answer after its status code.
  absl::StatusOr<std::string> ask(std::string request, Milliseconds timeout) {
    const std::scoped_lock lock(mutex_);
    if (closed_) return closed();
    if (broken_) return absl::UnavailableError("the store at " + host_ + " is gone");
    Milliseconds left = timeout + answer_within_;
    std::string answer;
    absl::Status status = send(request, left);
    if (status.ok()) status = receive(&answer, left);
    if (closed_) return closed();
    if (!status.ok()) {
      broken_ = true;  // an answer that comes late would be taken for the next one's
      return status;
    }
    WireReader reader(answer);
    uint8_t code = 0;
    std::string_view message;
    if (!reader.u8(&code)) return malformed();
    if (code == 0) return answer.substr(1);
    if (!reader.text(&message)) return malformed();
    return absl::Status(static_cast<absl::StatusCode>(code),
                        absl::string_view(message.data(), message.size()));
  }

  absl::Status set(std::string_view key, std::string_view value) override {
    return ask(request(StoreRequest::set).text(key).text(value).finish(), {}).status();
  }

  absl::StatusOr<std::string> set_once(std::string_view key, std::string_view value) override {
    return ask_text(request(StoreRequest::set_once).text(key).text(value).finish(), {});
  }

  absl::StatusOr<std::string> get(std::string_view key, Milliseconds timeout) override {
    return ask_text(request(StoreRequest::get).text(key).i64(timeout.count()).finish(), timeout);
  }

  absl::StatusOr<int64_t> add(std::string_view key, int64_t delta) override {
    const auto answer = ask(request(StoreRequest::add).text(key).i64(delta).finish(), {});
    if (!answer.ok()) return answer.status();
    int64_t sum = 0;
    if (!WireReader(*answer).i64(&sum)) return malformed();
    return sum;
  }

  absl::StatusOr<bool> remove(std::string_view key) override {
    const auto answer = ask(request(StoreRequest::remove).text(key).finish(), {});
    if (!answer.ok()) return answer.status();
    uint8_t there = 0;
    if (!WireReader(*answer).u8(&there)) return malformed();
    return there != 0;
  }

  absl::StatusOr<std::map<std::string, std::string>> list(std::string_view prefix) override {
    const auto answer = ask(request(StoreRequest::list).text(prefix).finish(), {});
    if (!answer.ok()) return answer.status();
    WireReader reader(*answer);
    uint32_t count = 0;
    if (!reader.u32(&count)) return malformed();
    std::map<std::string, std::string> result;
    for (uint32_t i = 0; i < count; ++i) {
      std::string_view key, value;
      if (!reader.text(&key) || !reader.text(&value)) return malformed();
      result.emplace(key, value);
    }
    return result;
  }

  absl::Status set_will(std::string_view key, std::string_view value) override {
    return ask(request(StoreRequest::set_will).text(key).text(value).finish(), {}).status();
  }

  absl::Status leave() override { return ask(request(StoreRequest::leave).finish(), {}).status(); }

  void close() override {
    closed_ = true;
    ::shutdown(socket_.get(), SHUT_RDWR);
  }

  static WireWriter request(StoreRequest kind) {
    WireWriter writer;
    writer.u8(static_cast<uint8_t>(kind));
    return writer;
  }

 private:
  absl::StatusOr<std::string> ask_text(const std::string& request, Milliseconds timeout) {
    const auto answer = ask(request, timeout);
    if (!answer.ok()) return answer.status();
    std::string_view value;
    if (!WireReader(*answer).text(&value)) return malformed();
    return std::string(value);
  }

  static absl::Status closed() { return absl::CancelledError("the store has been closed here"); }
  absl::Status malformed() const {
    return absl::InternalError("the store at " + host_ + " sent a malformed answer");
  }

  // Takes from `left` what it waits. A time in which this process stood still hardly counts: the
  // answer may have come meanwhile.
  absl::Status await(short events, Milliseconds& left) {
    while (left.count() > 0) {
      const Milliseconds part = std::min(left, kLongestPoll);
      const Clock::time_point before = Clock::now();
      pollfd wanted{socket_.get(), events, 0};
      const int ready = ::poll(&wanted, 1, static_cast<int>(part.count()));
      if (ready > 0) return absl::OkStatus();
      if (ready == 0) {
        left -= std::min(2 * part, std::chrono::ceil<Milliseconds>(Clock::now() - before));
      }
      if (ready < 0 && errno != EINTR) return system_error("waiting for the store at " + host_);
    }
    return absl::UnavailableError("the store at " + host_ + " does not answer");
  }

  // `transfer` sends or receives once and returns what that call did.
  template <class Transfer>
  absl::Status transfer_all(size_t count, short events, Milliseconds& left,
                            const Transfer& transfer) {
    size_t done = 0;
    while (done < count) {
      const ssize_t moved = transfer(done);
      if (moved > 0) {
        done += static_cast<size_t>(moved);
      } else if (moved < 0 && errno == EAGAIN) {
        if (absl::Status status = await(events, left); !status.ok()) return status;
      } else if (moved == 0 || errno != EINTR) {
        return absl::UnavailableError("the store at " + host_ + " has closed the connection");
      }
    }
    return absl::OkStatus();
  }

  absl::Status send(const std::string& bytes, Milliseconds& left) {
    return transfer_all(bytes.size(), POLLOUT, left, [&](size_t from) {
      return ::send(socket_.get(), bytes.data() + from, bytes.size() - from, MSG_NOSIGNAL);
    });
  }

  absl::Status receive(std::string* body, Milliseconds& left) {
    std::string header(kWireHeaderBytes, '\0');
    absl::Status status = receive_rest(&header, 0, left);
    if (!status.ok()) return status;
    const uint32_t length = wire_length(header);
    if (length > kLargestAnswer) return malformed();
    // A host that is none may claim any length: memory comes as bytes do.
    while (status.ok() && body->size() < length) {
      const size_t from = body->size();
      body->resize(from + std::min<size_t>(length - from, kReadBytes));
      status = receive_rest(body, from, left);
    }
    return status;
  }

  absl::Status receive_rest(std::string* bytes, size_t from, Milliseconds& left) {
    return transfer_all(bytes->size() - from, POLLIN, left, [&](size_t done) {
      return ::recv(socket_.get(), bytes->data() + from + done, bytes->size() - from - done, 0);
    });
  }

  std::mutex mutex_;
  Socket socket_;
  std::string host_;
  Milliseconds answer_within_;
  bool broken_ = false;
  std::atomic<bool> closed_{false};
};

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> connect_tcp_store(const TcpStoreAddress& address,
                                                         TcpClientOptions options) {
  const auto& [host, port, token] = address;
  const std::string where = absl::StrCat(host, ":", port);
  const std::string hello =
      TcpClient::request(StoreRequest::hello).u32(kStoreMagic).text(token).finish();
  const Clock::time_point deadline = Clock::now() + options.connect_within;
  for (Store::Milliseconds pause(10);; pause = std::min(2 * pause, Store::Milliseconds(500))) {
    auto socket = connect_to(host, port, deadline);
    absl::Status status = socket.status();
    if (status.ok()) {
      auto client = std::make_unique<TcpClient>(*std::move(socket), where, options.answer_within);
      const auto left = std::chrono::duration_cast<Store::Milliseconds>(deadline - Clock::now());
      client->set_answer_within(std::clamp(left, Store::Milliseconds(1), options.answer_within));
      status = client->ask(hello, {}).status();
      client->set_answer_within(options.answer_within);
      if (status.ok()) return client;
      if (absl::IsUnauthenticated(status)) return status;
    }
    if (Clock::now() + pause >= deadline) {
      return absl::DeadlineExceededError(absl::StrCat("no store at ", where, " within ",
                                                      options.connect_within.count(),
                                                      " ms: ", status.message()));
    }
    std::this_thread::sleep_for(pause);
  }
}

}  // namespace lockstep

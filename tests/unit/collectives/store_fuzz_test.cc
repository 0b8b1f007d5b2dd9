// What strangers, and hosts that are none, may send: random, cut off, changed. Nothing but an error
// may come of it. The same bytes in every run.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <random>
#include <thread>

#include "lockstep/collectives/store/socket.h"
#include "lockstep/collectives/store/store_wire.h"
#include "lockstep/collectives/store/tcp_store.h"
#include "lockstep/collectives/watch/beat.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;
using Random = std::mt19937_64;

size_t below(Random& random, size_t limit) { return static_cast<size_t>(random() % limit); }

std::string random_bytes(Random& random, size_t most) {
  std::string bytes(below(random, most + 1), '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// Some bytes changed, added, or taken away from the end.
std::string damaged(Random& random, std::string bytes) {
  for (size_t i = below(random, 4); i > 0 && !bytes.empty(); --i) {
    bytes[below(random, bytes.size())] = static_cast<char>(random());
  }
  if (below(random, 3) == 0) bytes.resize(below(random, bytes.size() + 1));
  if (below(random, 5) == 0) bytes += random_bytes(random, 30);
  return bytes;
}

WireWriter message(uint8_t kind) {
  WireWriter writer;
  writer.u8(kind);
  return writer;
}

std::string request(Random& random) {
  const auto kind = static_cast<uint8_t>(below(random, 11));
  WireWriter writer = message(kind);
  for (size_t i = below(random, 4); i > 0; --i) {
    switch (below(random, 4)) {
      case 0: writer.u8(static_cast<uint8_t>(random())); break;
      case 1: writer.u32(static_cast<uint32_t>(random())); break;
      case 2: writer.i64(static_cast<int64_t>(random())); break;
      default: writer.text(random_bytes(random, 20));
    }
  }
  return writer.finish();
}

absl::StatusOr<Socket> reach(int port) {
  return connect_to("127.0.0.1", port, std::chrono::steady_clock::now() + milliseconds(20000));
}

void send_all(const Socket& socket, const std::string& bytes) {
  // It may have closed already.
  [[maybe_unused]] const auto count =
      ::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

TEST(StoreFuzzTest, AReaderNeverLeavesItsMessage) {
  Random random(1);
  for (int round = 0; round < 20000; ++round) {
    const std::string bytes =
        round % 2 == 0 ? random_bytes(random, 40) : damaged(random, request(random));
    WireReader reader(bytes);
    size_t taken = 0;
    for (bool well = true; well && !reader.at_end();) {
      uint8_t small = 0;
      uint32_t number = 0;
      int64_t large = 0;
      std::string_view text;
      switch (below(random, 4)) {
        case 0: taken += (well = reader.u8(&small)) ? 1 : 0; break;
        case 1: taken += (well = reader.u32(&number)) ? 4 : 0; break;
        case 2: taken += (well = reader.i64(&large)) ? 8 : 0; break;
        default:
          well = reader.text(&text);
          if (!well) break;
          taken += 4 + text.size();
          ASSERT_GE(text.data(), bytes.data());
          ASSERT_LE(text.data() + text.size(), bytes.data() + bytes.size());
      }
      if (!well) {
        ASSERT_TRUE(reader.at_end());
      }
    }
    ASSERT_LE(taken, bytes.size());
  }
}

TEST(StoreFuzzTest, AHostOutlivesItsGuests) {
  const auto server = TcpStoreServer::start(
      {.token = "secret", .limits = {.key_bytes = 64, .value_bytes = 1024, .total_bytes = 4096}});
  ASSERT_TRUE(server.ok()) << server.status();
  const int port = (*server)->port();
  const auto client = connect_tcp_store({"127.0.0.1", port, "secret"});
  ASSERT_TRUE(client.ok()) << client.status();
  const std::string hello = message(1).u32(kStoreMagic).text("secret").finish();
  Random random(2);
  for (int round = 0; round < 6000; ++round) {
    const auto guest = reach(port);
    ASSERT_TRUE(guest.ok()) << guest.status();
    if (round % 3 == 0) send_all(*guest, random_bytes(random, 100));
    std::string bytes = round % 3 == 1 ? damaged(random, hello) : hello;
    for (size_t i = below(random, 6); i > 0; --i) bytes += damaged(random, request(random));
    const size_t cut = below(random, bytes.size() + 1);
    send_all(*guest, bytes.substr(0, cut));
    send_all(*guest, bytes.substr(cut));
    if (round % 50 == 0) {
      ASSERT_TRUE((*client)->add("rounds", 1).ok()) << round;
    }
  }
  EXPECT_TRUE((*client)->list("").ok());
}

// A host that answers every request with damaged bytes.
class Impostor {
 public:
  explicit Impostor(uint64_t seed) : listener_(*listen_on(0)), random_(seed) {
    thread_ = std::thread([this] { run(); });
  }
  ~Impostor() {
    stopping_ = true;
    thread_.join();
  }
  int port() const { return port_of(listener_); }

 private:
  void run() {
    while (!stopping_) {
      const Socket guest(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!guest) {
        std::this_thread::sleep_for(milliseconds(1));
        continue;
      }
      char bytes[4096];
      bool first = true;
      while (::recv(guest.get(), bytes, sizeof bytes, 0) > 0) {
        // Well-behaved at first, or nobody would ask for more.
        send_all(guest, std::exchange(first, false) ? WireWriter().u8(0).finish() : answer());
        if (below(random_, 8) == 0) break;
      }
    }
  }

  std::string answer() {
    WireWriter writer;
    writer.u8(below(random_, 2) == 0 ? 0 : static_cast<uint8_t>(random_()));
    if (below(random_, 2) == 0) writer.u32(static_cast<uint32_t>(random_() >> below(random_, 32)));
    for (size_t i = below(random_, 3); i > 0; --i) writer.text(random_bytes(random_, 20));
    return damaged(random_, writer.finish());
  }

  Socket listener_;
  Random random_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

TEST(StoreFuzzTest, AGuestOutlivesAnImpostor) {
  Impostor host(3);
  int failed = 0;
  for (int round = 0; round < 300; ++round) {
    const auto client =
        connect_tcp_store({"127.0.0.1", host.port(), "secret"},
                          {.connect_within = milliseconds(5000), .answer_within = milliseconds(5)});
    ASSERT_TRUE(client.ok()) << client.status();
    for (int i = 0; i < 4; ++i) {
      failed += (*client)->list("").ok() ? 0 : 1;
      failed += (*client)->get("key", milliseconds(0)).ok() ? 0 : 1;
      failed += (*client)->add("key", 1).ok() ? 0 : 1;
      failed += (*client)->set("key", "value").ok() ? 0 : 1;
    }
  }
  EXPECT_GT(failed, 300);
}

TEST(StoreFuzzTest, WhatIsNoBeatIsNone) {
  Random random(4);
  const std::string beat = Beat{.count = 3, .phase = "data", .collective = "barrier"}.to_text();
  ASSERT_TRUE(Beat::parse(beat));
  for (int round = 0; round < 20000; ++round) {
    const auto parsed = Beat::parse(damaged(random, beat));
    if (parsed) {
      EXPECT_FALSE(parsed->describe().empty());
    }
  }
  EXPECT_FALSE(Beat::parse(std::string(100000, '[')));
}

}  // namespace
}  // namespace lockstep

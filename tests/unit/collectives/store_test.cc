#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <fstream>
#include <functional>
#include <thread>

#include "lockstep/collectives/store/socket.h"
#include "lockstep/collectives/store/store_wire.h"
#include "lockstep/collectives/store/tcp_store.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr milliseconds kSoon{50};
constexpr milliseconds kLong{20000};

std::unique_ptr<TcpStoreServer> host(TcpStoreServer::Options options = {.token = "secret"}) {
  auto server = TcpStoreServer::start(std::move(options));
  EXPECT_TRUE(server.ok()) << server.status();
  return *std::move(server);
}

std::unique_ptr<Store> connect(const TcpStoreServer& server, const std::string& token = "secret") {
  auto client = connect_tcp_store({"localhost", server.port(), token});
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

// Both kinds of store are one contract.
struct Hosts {
  explicit Hosts(bool tcp) : server(tcp ? host() : nullptr) {}
  std::unique_ptr<Store> connect() {
    return server ? lockstep::connect(*server) : memory.connect();
  }
  std::unique_ptr<TcpStoreServer> server;
  MemoryStore memory;
};

class StoreContract : public ::testing::TestWithParam<bool> {
 protected:
  Hosts hosts{GetParam()};
};

TEST_P(StoreContract, GivesWhatAnotherClientHasSet) {
  const auto a = hosts.connect(), b = hosts.connect();
  const std::string value("with\0zero", 9);
  ASSERT_TRUE(a->set("key", value).ok());
  EXPECT_EQ(*b->get("key", kSoon), value);
  ASSERT_TRUE(b->set("key", "").ok());
  EXPECT_EQ(*a->get("key", kSoon), "");
}

TEST_P(StoreContract, GetWaitsUntilTheKeyIsThere) {
  const auto a = hosts.connect(), b = hosts.connect();
  std::thread later([&] {
    std::this_thread::sleep_for(kSoon);
    ASSERT_TRUE(b->set("late", "here").ok());
  });
  EXPECT_EQ(*a->get("late", kLong), "here");
  later.join();
}

TEST_P(StoreContract, WaitNamesAllThatAreMissing) {
  const auto a = hosts.connect();
  ASSERT_TRUE(a->set("rank/1", "x").ok());
  const std::vector<std::string> keys{"rank/0", "rank/1", "rank/2"};
  const absl::Status status = a->wait(keys, kSoon);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank/0, rank/2 in 50 ms"));
  EXPECT_TRUE(a->set("after", "a deadline").ok());
}

TEST_P(StoreContract, SetOnceKeepsTheFirst) {
  const auto a = hosts.connect(), b = hosts.connect();
  EXPECT_EQ(*a->set_once("verdict", "first"), "first");
  EXPECT_EQ(*b->set_once("verdict", "second"), "first");
  EXPECT_EQ(*b->get("verdict", kSoon), "first");
}

TEST_P(StoreContract, CountsWithoutLosingAny) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      const auto client = hosts.connect();
      for (int i = 0; i < 100; ++i) ASSERT_TRUE(client->add("count", 1).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  const auto client = hosts.connect();
  EXPECT_EQ(*client->add("count", -1), 399);
  EXPECT_EQ(*client->get("count", kSoon), "399");
  ASSERT_TRUE(client->set("count", "many").ok());
  EXPECT_TRUE(absl::IsInvalidArgument(client->add("count", 1).status()));
}

TEST_P(StoreContract, ListsByPrefixAndRemoves) {
  const auto a = hosts.connect();
  for (const char* key : {"b/1", "a/2", "a/1", "a", "ab"}) ASSERT_TRUE(a->set(key, key).ok());
  EXPECT_THAT(*a->list("a/"), ElementsAre(Pair("a/1", "a/1"), Pair("a/2", "a/2")));
  EXPECT_TRUE(*a->remove("a/1"));
  EXPECT_FALSE(*a->remove("a/1"));
  EXPECT_THAT(*a->list("a/"), ElementsAre(Pair("a/2", "a/2")));
  EXPECT_EQ(a->list("")->size(), 4u);
}

TEST_P(StoreContract, AWillIsExecutedOnlyForThoseWhoDidNotLeave) {
  const auto heir = hosts.connect();
  {
    const auto dies = hosts.connect(), leaves = hosts.connect();
    ASSERT_TRUE(dies->set_will("gone/1", "connection closed").ok());
    ASSERT_TRUE(leaves->set_will("gone/2", "connection closed").ok());
    ASSERT_TRUE(heir->set("known", "before").ok());
    const auto late = hosts.connect();
    ASSERT_TRUE(late->set_will("known", "later").ok());
    ASSERT_TRUE(leaves->leave().ok());
  }
  EXPECT_EQ(*heir->get("gone/1", kLong), "connection closed");
  EXPECT_TRUE(absl::IsDeadlineExceeded(heir->get("gone/2", kSoon).status()));
  EXPECT_EQ(*heir->get("known", kSoon), "before");
}

TEST_P(StoreContract, ARefusedWillLeavesTheFormer) {
  const auto heir = hosts.connect();
  {
    const auto dies = hosts.connect();
    ASSERT_TRUE(dies->set_will("gone", "well").ok());
    EXPECT_TRUE(absl::IsInvalidArgument(dies->set_will("", "ill")));
  }
  EXPECT_EQ(*heir->get("gone", kLong), "well");
}

TEST_P(StoreContract, CloseEndsACallOfAnotherThread) {
  const auto a = hosts.connect();
  std::thread later([&] {
    std::this_thread::sleep_for(kSoon);
    a->close();
  });
  EXPECT_TRUE(absl::IsCancelled(a->get("never", kLong).status()));
  later.join();
  EXPECT_TRUE(absl::IsCancelled(a->set("key", "value")));
}

TEST_P(StoreContract, RefusesWhatIsTooLarge) {
  const auto a = hosts.connect();
  EXPECT_TRUE(absl::IsInvalidArgument(a->set("", "x")));
  EXPECT_TRUE(absl::IsInvalidArgument(a->set(std::string(1025, 'k'), "x")));
  EXPECT_TRUE(a->set("fine", std::string(1 << 20, 'v')).ok());
  EXPECT_EQ(a->get("fine", kSoon)->size(), size_t{1} << 20);
}

INSTANTIATE_TEST_SUITE_P(Stores, StoreContract, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Tcp" : "Memory"; });

TEST(MemoryStoreTest, ItsMemoryIsBounded) {
  MemoryStore memory({.total_bytes = 100});
  const auto client = memory.connect();
  ASSERT_TRUE(client->set("a", std::string(60, 'x')).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(client->set("b", std::string(60, 'x'))));
  ASSERT_TRUE(client->set("a", std::string(10, 'x')).ok());
  EXPECT_TRUE(client->set("b", std::string(60, 'x')).ok());
}

TEST(TcpStoreTest, ItsMemoryIsBounded) {
  const auto server = host({.token = "secret", .limits = {.value_bytes = 80, .total_bytes = 100}});
  const auto client = connect(*server);
  ASSERT_TRUE(client->set("a", std::string(60, 'x')).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(client->set("b", std::string(60, 'x'))));
  EXPECT_TRUE(absl::IsResourceExhausted(client->set_once("b", std::string(60, 'x')).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(client->set("a", std::string(81, 'x'))));
  EXPECT_EQ(client->get("a", kSoon)->size(), 60u);
  // What no message may hold ends the connection; the others go on.
  EXPECT_TRUE(absl::IsUnavailable(client->set("a", std::string(1 << 20, 'x'))));
  EXPECT_EQ(connect(*server)->get("a", kSoon)->size(), 60u);
}

TEST(TcpStoreTest, MoreClientsThanItTakesWaitTheirTurn) {
  const auto server = host({.token = "secret", .connections = 2});
  auto first = connect(*server), second = connect(*server);
  const TcpStoreAddress address{"localhost", server->port(), "secret"};
  EXPECT_FALSE(connect_tcp_store(address, {.connect_within = kSoon, .answer_within = kSoon}).ok());
  EXPECT_TRUE(first->set("key", "value").ok());
  second.reset();
  EXPECT_EQ(*connect(*server)->get("key", kSoon), "value");
}

TEST(TcpStoreTest, AWrongTokenIsRefusedAtOnce) {
  const auto server = host();
  for (const char* token : {"", "secre", "secretsecret", "SECRET"}) {
    const auto client = connect_tcp_store({"localhost", server->port(), token});
    EXPECT_TRUE(absl::IsUnauthenticated(client.status())) << token;
  }
}

TEST(TcpStoreTest, NobodyThereIsAnErrorThatNamesTheAddress) {
  int port = 0;
  { port = host()->port(); }
  const auto client =
      connect_tcp_store({"localhost", port, "secret"}, {.connect_within = milliseconds(200)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.status()));
  EXPECT_THAT(std::string(client.status().message()), HasSubstr(":" + std::to_string(port)));
}

TEST(TcpStoreTest, AClientFindsAHostThatComesLater) {
  int port = 0;
  { port = host()->port(); }
  std::unique_ptr<TcpStoreServer> server;
  std::thread later([&] {
    std::this_thread::sleep_for(milliseconds(200));
    server = host({.port = port, .token = "secret"});
  });
  const auto client = connect_tcp_store({"localhost", port, "secret"});
  later.join();
  EXPECT_TRUE(client.ok()) << client.status();
}

TEST(TcpStoreTest, ADeadHostIsAnErrorOfEveryLaterCall) {
  auto server = host();
  const auto client = connect(*server);
  std::thread later([&] {
    std::this_thread::sleep_for(kSoon);
    server.reset();
  });
  EXPECT_TRUE(absl::IsUnavailable(client->get("never", kLong).status()));
  later.join();
  EXPECT_TRUE(absl::IsUnavailable(client->set("a", "b")));
}

// What a stranger may send; the others must not notice.
void send_raw(int port, const std::string& bytes) {
  const auto socket = connect_to("localhost", port, std::chrono::steady_clock::now() + kLong);
  ASSERT_TRUE(socket.ok()) << socket.status();
  ASSERT_EQ(::send(socket->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
  std::this_thread::sleep_for(milliseconds(5));
}

TEST(TcpStoreTest, ASilentHostIsGoneAfterAWhile) {
  auto silent = listen_on(0);
  ASSERT_TRUE(silent.ok());
  const auto client =
      connect_tcp_store({"localhost", port_of(*silent), "secret"},
                        {.connect_within = milliseconds(100), .answer_within = kSoon});
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.status()));
  EXPECT_THAT(std::string(client.status().message()), HasSubstr("does not answer"));
}

TEST(TcpStoreTest, MalformedInputClosesThatConnectionOnly) {
  const auto server = host();
  const auto client = connect(*server);
  ASSERT_TRUE(client->set("key", "value").ok());
  const auto message = [](uint8_t kind) {
    WireWriter writer;
    writer.u8(kind);
    return writer;
  };
  const std::string hello = message(1).u32(kStoreMagic).text("secret").finish();
  const std::vector<std::string> strange = {
      "GET / HTTP/1.1\r\n\r\n",
      std::string(4, '\xff'),
      std::string(4, '\0'),
      message(2).text("key").text("stolen").finish(),  // before hello
      message(1).u32(1).text("secret").finish(),
      hello.substr(0, 7),
      hello + std::string(4, '\0'),
      hello + message(2).text("key").finish(),
      hello + message(2).u32(0xffffffff).finish(),
      hello + message(99).finish(),
      hello + hello,
      hello + message(4).text("nobody").i64(-1).finish(),
      hello + message(4).text("nobody").i64(INT64_MAX).finish(),
  };
  for (const std::string& bytes : strange) send_raw(server->port(), bytes);
  for (int seed = 1; seed <= 200; ++seed) {
    std::string bytes =
        hello + message(static_cast<uint8_t>(seed % 9)).text("k").text("v").finish();
    bytes[static_cast<size_t>(seed * 7919) % bytes.size()] ^= static_cast<char>(seed);
    bytes.resize(bytes.size() - static_cast<size_t>(seed) % 5);
    const auto socket =
        connect_to("localhost", server->port(), std::chrono::steady_clock::now() + kLong);
    ASSERT_TRUE(socket.ok());
    ::send(socket->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  EXPECT_EQ(*client->get("key", kSoon), "value");
}

size_t resident_pages() {
  size_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident;
}

TEST(TcpStoreTest, RequestsSentAheadDoNotPileUpAnswers) {
  const auto server = host();
  const auto client = connect(*server);
  constexpr size_t kBytes = size_t{1} << 20, kRequests = 300;
  ASSERT_TRUE(client->set("key", std::string(kBytes, 'x')).ok());
  std::string bytes = WireWriter().u8(1).u32(kStoreMagic).text("secret").finish();
  for (size_t i = 0; i < kRequests; ++i) {
    bytes += WireWriter().u8(4).text("key").i64(0).finish();
  }
  const auto socket =
      connect_to("localhost", server->port(), std::chrono::steady_clock::now() + kLong);
  ASSERT_TRUE(socket.ok());
  const size_t before = resident_pages();
  ASSERT_EQ(::send(socket->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
  std::this_thread::sleep_for(4 * kSoon);
  EXPECT_TRUE(client->get("key", kSoon).ok());
  EXPECT_LT(resident_pages() - before, 100 * kBytes / 4096);
  // All of them are answered to whom reads.
  size_t left = 5 + kRequests * (kBytes + 9);
  std::string part(kBytes, '\0');
  const auto deadline = std::chrono::steady_clock::now() + kLong;
  while (left > 0 && std::chrono::steady_clock::now() < deadline) {
    const ssize_t count = ::recv(socket->get(), part.data(), part.size(), 0);
    ASSERT_NE(count, 0);
    if (count > 0) left -= static_cast<size_t>(count);
  }
  EXPECT_EQ(left, 0u);
}

TEST(TcpStoreTest, WhoSaysNothingIsCutOff) {
  const auto server = host({.token = "secret", .hello_within = kSoon});
  const auto socket =
      connect_to("localhost", server->port(), std::chrono::steady_clock::now() + kLong);
  ASSERT_TRUE(socket.ok());
  std::this_thread::sleep_for(4 * kSoon);
  char byte;
  EXPECT_EQ(::recv(socket->get(), &byte, 1, 0), 0);
}

TEST(TcpStoreTest, ManyClientsComeAndGo) {
  const auto server = host();
  const auto stays = connect(*server);
  for (int i = 0; i < 200; ++i) {
    const auto client = connect(*server);
    ASSERT_TRUE(client->add("visits", 1).ok());
  }
  EXPECT_EQ(*stays->get("visits", kSoon), "200");
}

}  // namespace
}  // namespace lockstep

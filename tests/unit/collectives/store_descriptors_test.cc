// The descriptors that a store's connections take: a rank has two.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <ctime>
#include <thread>

#include "lockstep/collectives/store/socket.h"
#include "lockstep/collectives/store/tcp_store.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

// Other soft limits while one lives.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t soft) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    set(soft);
  }
  ~DescriptorLimit() { ::setrlimit(RLIMIT_NOFILE, &before_); }

  static rlim_t get() {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur;
  }
  void set(rlim_t soft) const {
    const rlimit limit{soft, before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  }
  rlim_t hard() const { return before_.rlim_max; }

 private:
  rlimit before_{};
};

TEST(StoreDescriptorsTest, AsManyClientsAsItTakesCanConnect) {
  const DescriptorLimit limit(200);
  // Clients and server are one process here.
  constexpr int kClients = 600;
  const auto server = TcpStoreServer::start({.token = "secret", .connections = 2 * kClients});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_GT(DescriptorLimit::get(), rlim_t{2 * kClients});
  std::vector<std::unique_ptr<Store>> clients;
  for (int i = 0; i < kClients; ++i) {
    auto client = connect_tcp_store({"127.0.0.1", (*server)->port(), "secret"});
    ASSERT_TRUE(client.ok()) << i << ": " << client.status();
    clients.push_back(*std::move(client));
  }
  for (const auto& client : clients) ASSERT_TRUE(client->add("count", 1).ok());
  EXPECT_EQ(*clients.front()->get("count", {}), std::to_string(kClients));
}

TEST(StoreDescriptorsTest, AHardLimitThatIsTooLowIsNamed) {
  const DescriptorLimit limit(200);
  if (limit.hard() > rlim_t{1} << 30) {
    EXPECT_TRUE(allow_descriptors(1000).ok());
    return;
  }
  const absl::Status status = allow_descriptors(static_cast<int>(limit.hard()));
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("may open " + std::to_string(limit.hard()) + ": raise its hard limit"));
  EXPECT_EQ(DescriptorLimit::get(), 200u);
}

TEST(StoreDescriptorsTest, WaitsQuietlyWhileOthersHoldThem) {
  const DescriptorLimit limit(200);
  const auto server = TcpStoreServer::start({.token = "secret", .connections = 4});
  ASSERT_TRUE(server.ok()) << server.status();
  auto socket = connect_to("127.0.0.1", (*server)->port(),
                           std::chrono::steady_clock::now() + std::chrono::seconds(20));
  ASSERT_TRUE(socket.ok());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the server has taken it
  std::vector<Socket> taken;
  const auto take_all = [&] {
    limit.set(200);
    for (int file; (file = ::open("/dev/null", O_RDONLY)) >= 0;) taken.emplace_back(file);
  };
  take_all();
  taken.pop_back();  // for the client's own
  auto second = connect_to("127.0.0.1", (*server)->port(),
                           std::chrono::steady_clock::now() + std::chrono::seconds(20));
  ASSERT_TRUE(second.ok());
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const double seconds = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  EXPECT_LT(seconds, 0.1);
  taken.clear();
  EXPECT_TRUE(connect_tcp_store({"127.0.0.1", (*server)->port(), "secret"}).ok());
}

}  // namespace
}  // namespace lockstep

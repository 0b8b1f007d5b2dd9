#include "lockstep/collectives/store/socket.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <vector>

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::seconds;

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Drops packets: its queue of connections is full.
class SilentPort {
 public:
  SilentPort() {
    sockaddr_in any = loopback(0);
    ::bind(listener_.get(), reinterpret_cast<sockaddr*>(&any), sizeof any);
    ::listen(listener_.get(), 0);
    const sockaddr_in own = loopback(port());
    for (int i = 0; i < 4; ++i) {
      waiting_.emplace_back(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
      ::connect(waiting_.back().get(), reinterpret_cast<const sockaddr*>(&own), sizeof own);
    }
  }
  int port() const { return port_of(listener_); }

 private:
  Socket listener_{::socket(AF_INET, SOCK_STREAM, 0)};
  std::vector<Socket> waiting_;
};

TEST(ConnectTo, AnAddressThatDoesNotAnswerLeavesTimeForTheNext) {
  const SilentPort silent;
  const auto answering = listen_on(0);
  ASSERT_TRUE(answering.ok());
  sockaddr_in places[] = {loopback(silent.port()), loopback(port_of(*answering))};
  addrinfo addresses[2] = {};
  for (int i = 0; i < 2; ++i) {
    addresses[i].ai_family = AF_INET;
    addresses[i].ai_addr = reinterpret_cast<sockaddr*>(&places[i]);
    addresses[i].ai_addrlen = sizeof places[i];
  }
  // Alone it has all the time.
  auto begin = Clock::now();
  EXPECT_FALSE(connect_to(&addresses[0], "silent", begin + seconds(1)).ok());
  EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(950));

  addresses[0].ai_next = &addresses[1];
  begin = Clock::now();
  EXPECT_TRUE(connect_to(&addresses[0], "both", begin + seconds(2)).ok());
  EXPECT_LT(Clock::now() - begin, std::chrono::milliseconds(1800));

  begin = Clock::now();
  EXPECT_TRUE(connect_to(&addresses[0], "both", begin + seconds(20)).ok());
  EXPECT_LT(Clock::now() - begin, seconds(8));
}

}  // namespace
}  // namespace lockstep

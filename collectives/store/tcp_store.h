#pragma once

#include <memory>
#include <string>

#include "lockstep/collectives/store/store.h"

namespace lockstep {

// Hosts a store for the clients of other processes, on a thread of its own, until it is destroyed.
// Who does not know the token, sends what is no message, or more than the limits allow is cut off;
// the others do not notice. Clients may come and go.
class TcpStoreServer {
 public:
  struct Options {
    int port = 0;  // 0: any free one
    std::string token;
    StoreLimits limits = {};
    // As many at a time; the process is allowed to open these where its hard limit lets it.
    int connections = 1024;
    std::chrono::milliseconds hello_within{10000};  // a new connection that says nothing is closed
  };
  static absl::StatusOr<std::unique_ptr<TcpStoreServer>> start(Options options);
  // For a job of so many ranks that watch each other, with a random token.
  static absl::StatusOr<std::unique_ptr<TcpStoreServer>> start_for_ranks(int ranks);
  ~TcpStoreServer();

  int port() const;
  const std::string& token() const;

 private:
  class Loop;
  explicit TcpStoreServer(std::unique_ptr<Loop> loop);
  std::unique_ptr<Loop> loop_;
};

// 128 random bits in hexadecimal digits: for a token.
absl::StatusOr<std::string> random_token();

struct TcpStoreAddress {
  std::string host;
  int port = 0;
  std::string token;
};

struct TcpClientOptions {
  Store::Milliseconds connect_within{60000};
  // A host that is silent for that long beyond a request's own time is gone.
  Store::Milliseconds answer_within{10000};
};

// Tries until the host answers or the time is over. Unauthenticated: a wrong token.
absl::StatusOr<std::unique_ptr<Store>> connect_tcp_store(const TcpStoreAddress& address,
                                                         TcpClientOptions options = {});

}  // namespace lockstep

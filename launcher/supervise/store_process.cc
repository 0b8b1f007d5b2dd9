#include "lockstep/launcher/supervise/store_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "lockstep/collectives/store/tcp_store.h"

namespace lockstep::supervise {
namespace {

// Two ends of a pipe.
struct Pipe {
  int read = -1, write = -1;
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) == 0) read = ends[0], write = ends[1];
  }
  ~Pipe() {
    if (read >= 0) ::close(read);
    if (write >= 0) ::close(write);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
};

void close_end(int& end) {
  ::close(end);
  end = -1;
}

// Until the other end is closed.
std::string read_all(int end) {
  std::string text;
  char bytes[256];
  for (;;) {
    const ssize_t count = ::read(end, bytes, sizeof bytes);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return text;
    text.append(bytes, static_cast<size_t>(count));
  }
}

// Holds nothing that somebody waits to see closed: this process's output, say.
void leave_family(pid_t parent) {
  ::setpgid(0, 0);  // not where the terminal's signals go
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP, SIGPIPE}) ::signal(signal, SIG_IGN);
  ::prctl(PR_SET_NAME, "lockstep-store");
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  const int nothing = ::open("/dev/null", O_RDWR);
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) ::dup2(nothing, stream);
  if (nothing > STDERR_FILENO) ::close(nothing);
}

// The store's process: says "PORT TOKEN", or what is wrong after a space, and hosts.
[[noreturn]] void host(int ranks, int& answer, int life) {
  const auto server = TcpStoreServer::start_for_ranks(ranks);
  const std::string said = server.ok()
                               ? std::to_string((*server)->port()) + " " + (*server)->token()
                               : " " + std::string(server.status().message());
  [[maybe_unused]] const ssize_t written = ::write(answer, said.data(), said.size());
  close_end(answer);
  if (server.ok()) read_all(life);
  ::_exit(0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<StoreProcess>> StoreProcess::start(int ranks) {
  Pipe answer, life;
  if (answer.write < 0 || life.write < 0) return absl::InternalError(std::strerror(errno));
  const pid_t parent = ::getpid();
  std::unique_ptr<StoreProcess> process(new StoreProcess);
  process->pid_ = ::fork();
  if (process->pid_ < 0) return absl::InternalError(std::strerror(errno));
  if (process->pid_ == 0) {
    leave_family(parent);
    close_end(answer.read);
    close_end(life.write);
    host(ranks, answer.write, life.read);
  }
  process->life_ = std::exchange(life.write, -1);
  close_end(answer.write);
  const std::string said = read_all(answer.read);
  const size_t space = said.find(' ');
  if (space == 0) return absl::UnavailableError(said.substr(1));
  if (space == std::string::npos) return absl::UnavailableError("it ended at once");
  process->port_ = said.substr(0, space);
  process->token_ = said.substr(space + 1);
  return process;
}

StoreProcess::~StoreProcess() {
  if (life_ >= 0) ::close(life_);
  // It may have been killed and waited for.
  if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
}

std::vector<std::string> StoreProcess::environment() const {
  return {"LOCKSTEP_STORE=127.0.0.1:" + port_, "LOCKSTEP_STORE_TOKEN=" + token_};
}

}  // namespace lockstep::supervise

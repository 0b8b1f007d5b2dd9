#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "lockstep/collectives/communicator.h"

namespace lockstep::train {

// What every rank knows to have gone wrong. The ranks leave together.
class AgreedFailure : public Error {
 public:
  AgreedFailure(const std::string& message, int exit_code, int culprit = -1)
      : Error(message), exit_code_(exit_code), culprit_(culprit) {}
  int exit_code() const { return exit_code_; }
  // The rank where it went wrong; -1: on all alike.
  int culprit() const { return culprit_; }

 private:
  int exit_code_;
  int culprit_;
};

// Runs `act` on every rank and then asks how it went everywhere: where it threw on any rank, every
// rank throws AgreedFailure with the lowest such rank's message. A collective call. `act` must not
// use the communicator.
void agree(Communicator& communicator, std::string_view what, const std::function<void()>& act);

// The second half alone, for a caller that has caught its own error: empty is success. `exit_code`
// goes with the message.
void agree_on(Communicator& communicator, std::string_view what, const std::string& error,
              int exit_code);

// Throws AgreedFailure unless `text` is the same on all ranks; it names the first line that differs
// and both ranks. A collective call.
void require_same(Communicator& communicator, std::string_view what, const std::string& text);

}  // namespace lockstep::train

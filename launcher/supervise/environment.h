#pragma once

#include <string>

namespace lockstep::supervise {

// Every environment variable of ours, with what it does: what `lockstep run --help-environment`
// prints.
std::string environment_help();

}  // namespace lockstep::supervise

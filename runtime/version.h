#pragma once

#include <string_view>

namespace lockstep {

// "0.1.0"
std::string_view version();

}  // namespace lockstep

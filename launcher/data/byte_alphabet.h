#pragma once

#include <string>
#include <string_view>

namespace lockstep::data {

// GPT-2's vocabulary files write each byte of a token as one printable character: the printable
// characters of Latin-1 as themselves, the other bytes as U+0100, U+0101, … in order ("Ġ", U+0120,
// is the space).

// The character of a byte, in UTF-8.
std::string written_byte(unsigned char byte);

// The bytes of a token as the files write it. A character that stands for no byte (in a special
// token added later) is kept as it is.
std::string bytes_of_written(std::string_view written);

}  // namespace lockstep::data

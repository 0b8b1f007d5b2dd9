#pragma once

#include <filesystem>

#include "lockstep/runtime/files/mapped_file.h"

namespace lockstep::data {

// Maps a file that the user named. UsageError when it is missing, forbidden or not a regular file;
// Error when the system fails to read it.
files::MappedFile open_input(const std::filesystem::path& path);

}  // namespace lockstep::data

// Reading whole files, with an explanation if that fails.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dinat {

// Throws Error with `cure` if there is no such file, or it cannot be read.
std::vector<uint8_t> readFile(const std::string& path, const std::string& cure);

}  // namespace dinat

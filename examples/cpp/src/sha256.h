// SHA-256 (FIPS 180-4).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace dinat {

// The digest in hexadecimal, as engine.json records it.
std::string sha256(const uint8_t* bytes, size_t size);

}  // namespace dinat

#include "files.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>

#include "error.h"

namespace dinat {
namespace {

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

}  // namespace

std::vector<uint8_t> readFile(const std::string& path, const std::string& cure) {
  std::error_code unknown;
  if (std::filesystem::is_directory(path, unknown))
    throw Error(path + " is a directory, not a file.", cure);
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rb"));
  if (!file) throw Error(path + ": " + std::strerror(errno) + ".", cure);
  std::vector<uint8_t> bytes;
  size_t got = 0;
  do {
    const size_t used = bytes.size();
    bytes.resize(used + (1 << 20));
    got = std::fread(bytes.data() + used, 1, bytes.size() - used, file.get());
    bytes.resize(used + got);
  } while (got != 0);
  if (std::ferror(file.get())) throw Error(path + ": " + std::strerror(errno) + ".", cure);
  return bytes;
}

}  // namespace dinat

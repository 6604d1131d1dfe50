// A problem that the user can act on: one sentence of cause, one of cure.
#pragma once

#include <stdexcept>
#include <string>

namespace dinat {

class Error : public std::runtime_error {
 public:
  Error(const std::string& cause, std::string cure) : std::runtime_error(cause), cure_(cure) {}

  const char* cause() const { return what(); }
  const std::string& cure() const { return cure_; }

 private:
  std::string cure_;
};

}  // namespace dinat

// The command line.
#pragma once

#include <string>
#include <vector>

namespace dinat {

struct Arguments {
  std::string engine;
  std::string bundle;
  std::string plugin;
  std::string tensorrt;
  int top = 5;
  int batch = 0;  // 0: chosen
  int device = 0;
  int warm_up = 0;
  int iterations = 1;
  bool json = false;
  bool trust = false;
  bool verbose = false;
  bool help = false;
  std::vector<std::string> pictures;
};

extern const char* const kHelp;

// Throws Error for what is no command line of this program.
Arguments parseArguments(int count, const char* const* words);

}  // namespace dinat

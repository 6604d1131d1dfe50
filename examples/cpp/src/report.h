// What the program prints.
#pragma once

#include <string>
#include <vector>

#include "classifier.h"
#include "error.h"

namespace dinat {

struct PictureResult {
  std::string picture;
  std::vector<Prediction> predictions;
};

struct Report {
  std::string runtime;  // like TensorRT 10.3.0.26
  std::string device;
  std::string plan_sha256;
  int batch;
  std::vector<std::string> labels;  // empty if the classes have no names
  std::vector<PictureResult> results;
  std::vector<Timing> timings;  // of every timed run of a batch
};

void printText(const Report& report);
void printJson(const Report& report);

// To stderr, and with `json` as an object to stdout too.
void printError(const Error& error, bool json);

}  // namespace dinat

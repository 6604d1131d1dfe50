// What engine.json and model.json say, as far as this program needs it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "preprocess.h"

namespace dinat {

struct PluginRecord {
  std::vector<std::string> operators;
  std::string library;  // name of the file
  std::string sha256;
  bool embedded;  // in the plan, so that none has to be loaded
};

// engine.json.
struct EngineManifest {
  std::string path;  // the engine's directory
  std::string flavor;
  std::string version;
  std::string platform;  // like Linux aarch64; empty if it is not recorded
  std::vector<std::string> architectures;
  std::string gpu;                     // that it was built on; empty if ahead of time
  std::string capability;              // of that GPU
  std::vector<std::string> host_code;  // why loading the plan runs code out of it
  std::string hardware_compatibility;
  bool version_compatible;
  bool weights_stripped;
  std::optional<int> dla_core;
  std::string onnx_file;
  std::string onnx_sha256;
  std::optional<PluginRecord> plugin;
  std::string plan_sha256;
  uint64_t plan_bytes;
};

// model.json of the bundle.
struct Model {
  std::string path;
  bool classifier;
  std::string decoder;  // type of the head of a segmenter or detector; empty if there is none
  bool random_weights;
  std::string input;   // name of the tensor
  std::string output;  // the logits
  std::string onnx_sha256;
  Preprocessing preprocessing;
  std::vector<std::string> labels;  // empty if the classes have no names
};

// Both throw Error if the file is missing, of a newer format, or not what it should be.
EngineManifest readEngineManifest(const std::string& directory);
Model readModel(const std::string& bundle);

// Which plans may run code here, for Python and this program alike: SHA-256 of each plan with host
// code that dinat-deploy built or was told to trust on this machine.
bool isTrustedPlan(const std::string& sha256);

}  // namespace dinat

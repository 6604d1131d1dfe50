#include "manifest.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "error.h"
#include "files.h"

namespace dinat {
namespace {

using Json = nlohmann::json;

// The newest formats of engine.json and model.json. What this program reads of a bundle has been
// the same in all of them.
constexpr int kEngineFormat = 1;
constexpr int kBundleFormat = 4;

// Reads a manifest and makes something of it with `convert`.
template <class Convert>
auto read(const std::filesystem::path& file, int newest, const std::string& cure,
          Convert&& convert) {
  const std::vector<uint8_t> bytes = readFile(file.string(), cure);
  try {
    const Json data = Json::parse(bytes);
    const int format = data.at("format_version").get<int>();
    if (format > newest) {
      throw Error(file.string() + " has format " + std::to_string(format) +
                      "; this program reads up to " + std::to_string(newest) + ".",
                  "Compile this program from a newer dinat-deploy.");
    }
    return convert(data);
  } catch (const Json::exception& error) {
    // The message quotes what was read, which may be no text.
    std::string reason = error.what();
    std::replace_if(reason.begin(), reason.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
    throw Error(file.string() + " is not valid: " + reason + ".", cure);
  }
}

std::string textOr(const Json& object, const char* key, const std::string& otherwise) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? otherwise : found->get<std::string>();
}

std::optional<PluginRecord> pluginOf(const Json& plugin) {
  if (plugin.is_null()) return std::nullopt;
  return PluginRecord{plugin.at("operators").get<std::vector<std::string>>(),
                      plugin.at("library").get<std::string>(),
                      plugin.at("sha256").get<std::string>(), plugin.at("embedded").get<bool>()};
}

EngineManifest engineOf(const Json& data) {
  EngineManifest engine{};
  const Json& runtime = data.at("runtime");
  engine.flavor = runtime.at("flavor").get<std::string>();
  engine.version = runtime.at("version").get<std::string>();
  engine.platform = textOr(runtime, "platform", "");
  data.at("architectures").get_to(engine.architectures);
  if (const Json gpu = data.value("gpu", Json()); !gpu.is_null()) {
    gpu.at("name").get_to(engine.gpu);
    gpu.at("capability").get_to(engine.capability);
  }
  engine.host_code = data.value("host_code", std::vector<std::string>());
  const Json& options = data.at("options");
  engine.hardware_compatibility = textOr(options, "hardware_compatibility", "none");
  engine.version_compatible = options.value("version_compatible", false);
  engine.weights_stripped = options.value("strip_weights", false);
  if (const Json core = options.value("dla_core", Json()); !core.is_null()) {
    engine.dla_core = core.get<int>();
  }
  data.at("onnx").at("file").get_to(engine.onnx_file);
  data.at("onnx").at("sha256").get_to(engine.onnx_sha256);
  engine.plugin = pluginOf(data.at("plugin"));
  data.at("plan").at("sha256").get_to(engine.plan_sha256);
  data.at("plan").at("bytes").get_to(engine.plan_bytes);
  return engine;
}

Preprocessing preprocessingOf(const Json& data, const std::string& file) {
  Preprocessing how;
  how.mode = resizeModeNamed(data.at("resize_mode").get<std::string>());
  data.at("resize").get_to(how.resize);
  data.at("crop").get_to(how.crop);
  how.filter = filterNamed(data.at("interpolation").get<std::string>());
  data.at("mean").get_to(how.mean);
  how.fill = fillOf(data.at("mean").get<std::vector<double>>());
  data.at("std").get_to(how.deviation);
  const bool sizes = how.resize[0] > 0 && how.resize[1] > 0 && how.crop[0] > 0 && how.crop[1] > 0;
  const bool channels = how.mean.size() == 1 || how.mean.size() == 3;
  if (!sizes || !channels || how.deviation.size() != how.mean.size()) {
    throw Error(file + " has a preprocessing for " + std::to_string(how.mean.size()) +
                    " channels or of sizes that make no picture.",
                "This program takes models for grey (1) and colour (3) pictures.");
  }
  return how;
}

Model modelOf(const Json& data, const std::string& file) {
  Model model{};
  const Json& config = data.at("config");
  if (const Json decoder = config.value("decoder", Json()); !decoder.is_null()) {
    model.decoder = textOr(decoder, "type", "upernet");
  }
  const bool maps = !config.at("out_levels").empty() || !model.decoder.empty();
  model.classifier = !maps && config.at("num_classes").get<int>() > 0;
  model.random_weights = data.at("weights").at("source") == "seeded";
  data.at("graph").at("inputs").at(0).at("name").get_to(model.input);
  data.at("graph").at("outputs").at(0).at("name").get_to(model.output);
  data.at("graph").at("sha256").get_to(model.onnx_sha256);
  model.preprocessing = preprocessingOf(data.at("preprocessing"), file);
  if (const Json labels = data.value("labels", Json()); !labels.is_null()) {
    labels.get_to(model.labels);
  }
  return model;
}

}  // namespace

EngineManifest readEngineManifest(const std::string& directory) {
  const std::filesystem::path file = std::filesystem::path(directory) / "engine.json";
  const char* const cure =
      "Name a directory that `dinat-deploy build` wrote, like BUNDLE/engines/ENGINE.";
  EngineManifest engine = read(file, kEngineFormat, cure, engineOf);
  engine.path = directory;
  return engine;
}

Model readModel(const std::string& bundle) {
  const std::filesystem::path file = std::filesystem::path(bundle) / "model.json";
  const char* const cure = "Name the bundle, which `dinat-deploy export` wrote, with --bundle.";
  const auto convert = [&](const Json& data) { return modelOf(data, file.string()); };
  Model model = read(file, kBundleFormat, cure, convert);
  model.path = bundle;
  return model;
}

bool isTrustedPlan(const std::string& sha256) {
  const char* const data = std::getenv("XDG_DATA_HOME");
  const char* const home = std::getenv("HOME");
  std::filesystem::path folder = data != nullptr && *data != '\0' ? data : "";
  if (folder.empty()) folder = std::filesystem::path(home ? home : "") / ".local/share";
  std::ifstream record(folder / "dinat-deploy" / "trusted_plans.jsonl");
  for (std::string line; std::getline(record, line);) {
    const Json entry = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (entry.is_object() && entry.value("sha256", Json()) == sha256) return true;
  }
  return false;
}

}  // namespace dinat

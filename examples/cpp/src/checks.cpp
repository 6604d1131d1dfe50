#include "checks.h"

#include <sys/utsname.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "error.h"
#include "files.h"
#include "sha256.h"

namespace dinat {
namespace {

constexpr int kAmpere = 80;

std::string rebuild(const EngineManifest& engine) {
  return "Build it again: `dinat-deploy build ... --backend " + engine.flavor + "`.";
}

std::string title(const std::string& flavor) {
  return flavor == "tensorrt-rtx" ? "TensorRT-RTX" : "TensorRT";
}

std::string listed(const std::vector<std::string>& words) {
  std::string result;
  for (const std::string& word : words) result += (result.empty() ? "" : ", ") + word;
  return result;
}

std::string brief(const std::string& digest) { return digest.substr(0, 12) + "..."; }

std::vector<int> numbers(const std::string& version) {
  std::vector<int> result;
  std::stringstream parts(version);
  for (std::string part; std::getline(parts, part, '.');) {
    if (part.empty() || part.find_first_not_of("0123456789") != std::string::npos) break;
    result.push_back(std::atoi(part.c_str()));
  }
  return result;
}

// Packages of one release differ in how many numbers they give: 10.3.0 and 10.3.0.26.
bool sameVersion(const std::vector<int>& a, const std::vector<int>& b) {
  const size_t common = std::min(a.size(), b.size());
  return common >= 3 && std::equal(a.begin(), a.begin() + common, b.begin());
}

// Whether a plan holds a library for a processor, whatever its manifest says: the header of an ELF
// file, which TensorRT stores as it is. Kernels for the GPU are ELF files too, of another machine.
bool holdsLibrary(const std::vector<uint8_t>& plan) {
  constexpr uint8_t magic[] = {0x7F, 'E', 'L', 'F'};
  constexpr int processors[] = {3, 40, 62, 183, 243};  // x86, arm, x86_64, aarch64, riscv64
  for (auto at = plan.begin();; ++at) {
    at = std::search(at, plan.end(), std::begin(magic), std::end(magic));
    if (plan.end() - at < 20) return false;
    const int machine = at[18] | at[19] << 8;
    if (std::count(std::begin(processors), std::end(processors), machine)) return true;
  }
}

}  // namespace

std::string checkPlan(const EngineManifest& engine, const std::vector<uint8_t>& plan) {
  const std::string file = engine.path + "/model.plan";
  if (plan.size() != engine.plan_bytes) {
    throw Error(file + (plan.size() < engine.plan_bytes ? " is cut off: it has " : " has ") +
                    std::to_string(plan.size()) + " bytes, and engine.json was written for " +
                    std::to_string(engine.plan_bytes) + ".",
                "Copy it again, whole. " + rebuild(engine));
  }
  const std::string actual = sha256(plan.data(), plan.size());
  if (actual != engine.plan_sha256) {
    throw Error(file + " was changed after it was built: it has SHA-256 " + brief(actual) +
                    ", and engine.json was written for " + brief(engine.plan_sha256) + ".",
                rebuild(engine));
  }
  if (engine.weights_stripped) {
    throw Error(engine.path +
                    " was built with --strip-weights, and computes nothing of use until " +
                    "it is refitted.",
                "Leave --strip-weights out. " + rebuild(engine));
  }
  return actual;
}

void checkModel(const EngineManifest& engine, const Model& model) {
  if (engine.onnx_file == "model.onnx" && engine.onnx_sha256 != model.onnx_sha256) {
    throw Error(engine.path + " was built from an ONNX file with SHA-256 " +
                    brief(engine.onnx_sha256) + ", and that of " + model.path + " has " +
                    brief(model.onnx_sha256) + ".",
                "Name its own bundle with --bundle, or build it again from this one.");
  }
}

void checkRuntime(const EngineManifest& engine, const std::string& flavor,
                  const std::string& version) {
  const std::string built = title(engine.flavor) + " " + engine.version;
  if (flavor != engine.flavor) {
    throw Error(
        engine.path + " was built by " + built + ", and " + title(flavor) + " cannot run it.",
        "Run it with " + title(engine.flavor) + ", or build it with --backend " + flavor + ".");
  }
  const std::vector<int> theirs = numbers(engine.version);
  const std::vector<int> ours = numbers(version);
  const bool later = engine.version_compatible && !theirs.empty() && !ours.empty() &&
                     ours[0] == theirs[0] && ours >= theirs;
  if (!sameVersion(theirs, ours) && !later) {
    throw Error(engine.path + " was built by " + built + " and runs in " +
                    (engine.version_compatible ? "that and in later ones of the same major version"
                                               : "no other version") +
                    "; " + version + " is installed.",
                "Install " + built + ", or b" + rebuild(engine).substr(1));
  }
  utsname system{};
  uname(&system);
  const std::string here = std::string(system.sysname) + " " + system.machine;
  // TensorRT-RTX's plans are for every system.
  if (engine.flavor == "tensorrt" && !engine.platform.empty() && engine.platform != here) {
    throw Error(
        engine.path + " was built on " + engine.platform + ", and this machine is " + here + ".",
        rebuild(engine));
  }
}

std::string checkGpu(const EngineManifest& engine, const std::string& name,
                     const std::string& capability) {
  const std::string found = "the " + name + " in this machine has compute capability " + capability;
  const auto refuse = [&](const std::string& what, const std::string& cure = "") {
    throw Error(engine.path + " " + what + ", and " + found + ".", rebuild(engine) + cure);
  };
  if (engine.flavor == "tensorrt-rtx" || engine.gpu.empty()) {
    const auto& known = engine.architectures;
    if (std::find(known.begin(), known.end(), capability) == known.end()) {
      refuse("was built for compute capability " + listed(known),
             " With --arch " + capability + " it is for this GPU.");
    }
    return "";
  }
  if (engine.hardware_compatibility == "ampere+") {
    if (std::atoi(capability.c_str()) < kAmpere) {
      refuse("runs on GPUs from Ampere on (compute capability 80)");
    }
    return "";
  }
  if (capability != engine.capability) {
    refuse("was built on a " + engine.gpu + " with compute capability " + engine.capability,
           " With --hardware-compatibility ampere+ it runs on all GPUs from Ampere on.");
  }
  if (engine.hardware_compatibility != "none" || name == engine.gpu) return "";
  return engine.path + " was built on a " + engine.gpu + ", and this machine has a " + name +
         " of the same compute capability: it may be slower than one that is built here.";
}

std::string checkPlugin(const EngineManifest& engine, const std::string& given) {
  if (!engine.plugin || engine.plugin->embedded) return "";
  const PluginRecord& plugin = *engine.plugin;
  std::string file = given;
  if (file.empty()) {
    const char* const folder = std::getenv("DINAT_NATIVE_DIR");
    if (folder != nullptr && *folder != '\0') {
      file = (std::filesystem::path(folder) / plugin.library).string();
    }
  }
  const std::string build = "Build it with `dinat-deploy plugin build`, and name it with --plugin.";
  if (file.empty()) {
    throw Error(engine.path + " calls the plugin " + listed(plugin.operators) + " of " +
                    plugin.library + ", which is not named.",
                build);
  }
  const std::vector<uint8_t> bytes = readFile(file, build);
  const std::string actual = sha256(bytes.data(), bytes.size());
  if (actual != plugin.sha256) {
    throw Error(engine.path + " was built with a " + plugin.library + " of SHA-256 " +
                    brief(plugin.sha256) + ", and " + file + " has " + brief(actual) + ".",
                "Name that library with --plugin, or b" + rebuild(engine).substr(1));
  }
  // Absolute, or the loader would look for a plain name elsewhere.
  return std::filesystem::absolute(file).string();
}

bool hostCodeAllowed(const EngineManifest* engine, const std::vector<uint8_t>& plan,
                     const std::string& sha256, bool trust) {
  if (engine == nullptr) {
    if (trust) return true;
    throw Error(
        "The plan has no engine.json beside it, so nothing says what it was built from and "
        "with, or what code it holds.",
        "Build it with `dinat-deploy build`, or add --trust if you know where it comes from.");
  }
  std::vector<std::string> reasons = engine->host_code;
  if (reasons.empty() && holdsLibrary(plan)) {
    reasons.push_back("a library, of which engine.json says nothing");
  }
  if (reasons.empty()) return false;
  if (trust || isTrustedPlan(sha256)) return true;
  throw Error(engine->path + " holds host code, which runs with your rights when it is loaded (" +
                  listed(reasons) + "), and this plan, SHA-256 " + brief(sha256) +
                  ", was neither built nor trusted on this machine.",
              "Add --trust if you know where it comes from.");
}

}  // namespace dinat

// dinat_run: classifies pictures with a TensorRT engine that dinat-deploy built.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>

#include "arguments.h"
#include "checks.h"
#include "classifier.h"
#include "cuda.h"
#include "error.h"
#include "files.h"
#include "manifest.h"
#include "picture.h"
#include "preprocess.h"
#include "report.h"
#include "sha256.h"
#include "tensorrt.h"

namespace {

namespace fs = std::filesystem;
using namespace dinat;

constexpr int kUserError = 2;

void note(const std::string& text) {
  if (!text.empty()) std::fprintf(stderr, "Note: %s\n", text.c_str());
}

// What is on disk, before anything of it is run.
struct Files {
  std::string plan_path;
  std::vector<uint8_t> plan;
  std::optional<EngineManifest> engine;  // none for a plan without engine.json
  Model model;
};

// The bundle that an engine lies in: BUNDLE/engines/ENGINE, or both in one folder.
std::string bundleOf(const fs::path& engine) {
  const fs::path folder = fs::absolute(engine).lexically_normal();
  for (const fs::path& candidate : {folder, folder.parent_path().parent_path()}) {
    if (fs::is_regular_file(candidate / "model.json")) return candidate.string();
  }
  throw Error("Beside " + engine.string() +
                  " there is no model.json, which says how pictures are " +
                  "prepared and what the classes are called.",
              "Name the bundle, which `dinat-deploy export` wrote, with --bundle.");
}

Files readFiles(const Arguments& arguments) {
  fs::path folder = arguments.engine;
  if (!folder.has_filename()) folder = folder.parent_path();  // ENGINE/
  fs::path plan = folder / "model.plan";
  const bool directory = fs::is_directory(folder);
  if (!directory) {
    plan = folder;
    folder = fs::absolute(plan).parent_path();
  }
  Files files;
  files.plan_path = plan.string();
  if (directory || fs::is_regular_file(folder / "engine.json")) {
    files.engine = readEngineManifest(folder.string());
    if (plan.filename() != "model.plan") {
      throw Error(
          plan.string() + " is not the plan that engine.json beside it describes, " + "model.plan.",
          "Name the directory with --engine.");
    }
  }
  files.plan = readFile(plan.string(), "Name an engine that `dinat-deploy build` made.");
  files.model = readModel(arguments.bundle.empty() ? bundleOf(folder) : arguments.bundle);
  if (!files.model.decoder.empty()) {
    throw Error(files.model.path + " is no classifier: it has a decoder of type " +
                    files.model.decoder + ".",
                "`dinat-deploy infer` shows what segmenters and detectors find in pictures.");
  }
  if (!files.model.classifier) {
    throw Error(files.model.path + " is no classifier.",
                "Export with --task classification to classify pictures.");
  }
  return files;
}

// Pixels of one batch; one that is not full is filled up with its last picture.
std::vector<uint8_t> readBatch(const std::vector<std::string>& pictures, size_t first, int batch,
                               const Preprocessing& how) {
  std::vector<uint8_t> pixels(batch * how.elements());
  for (int i = 0; i < batch; ++i) {
    uint8_t* const to = pixels.data() + i * how.elements();
    if (first + i < pictures.size()) {
      cropped(readPicture(pictures[first + i], how.channels()), how, to);
    } else {
      std::copy_n(to - how.elements(), how.elements(), to);
    }
  }
  return pixels;
}

Report classify(const Arguments& arguments) {
  const Files files = readFiles(arguments);
  const Model& model = files.model;
  const EngineManifest* const engine = files.engine ? &*files.engine : nullptr;

  Report report{};
  LoadOptions options;
  options.verbose = arguments.verbose;
  report.plan_sha256 =
      engine ? checkPlan(*engine, files.plan) : sha256(files.plan.data(), files.plan.size());
  options.host_code_allowed =
      hostCodeAllowed(engine, files.plan, report.plan_sha256, arguments.trust);
  if (engine) {
    options.plugin = checkPlugin(*engine, arguments.plugin);
  } else if (!arguments.plugin.empty()) {
    options.plugin = fs::absolute(arguments.plugin).string();
  }
  if (engine) checkModel(*engine, model);
  if (engine) options.dla_core = engine->dla_core;

  const TensorRt tensorrt = !arguments.tensorrt.empty() ? TensorRt(arguments.tensorrt)
                            : engine ? TensorRt::find(engine->flavor, engine->version)
                                     : TensorRt::find("", "");
  if (engine) checkRuntime(*engine, tensorrt.flavor(), tensorrt.version());
  const Gpu gpu(arguments.device);
  if (engine) note(checkGpu(*engine, gpu.name(), gpu.capability()));
  if (model.random_weights) note("This bundle has random weights; its predictions mean nothing.");

  const std::unique_ptr<Engine> loaded = tensorrt.load(files.plan, options);
  const Preprocessing& how = model.preprocessing;
  const auto count = static_cast<int>(std::min<size_t>(arguments.pictures.size(), INT32_MAX));
  Classifier classifier(gpu, *loaded, model.input, model.output, arguments.batch, count,
                        {how.channels(), how.crop[0], how.crop[1]});
  if (!model.labels.empty() && model.labels.size() != static_cast<size_t>(classifier.classes())) {
    throw Error(model.path + " names " + std::to_string(model.labels.size()) +
                    " classes, and the engine has " + std::to_string(classifier.classes()) + ".",
                "Name the engine's own bundle with --bundle.");
  }

  report.runtime = tensorrt.title();
  report.device = gpu.name();
  report.batch = classifier.batch();
  report.labels = model.labels;
  for (size_t first = 0; first < arguments.pictures.size(); first += classifier.batch()) {
    const std::vector<uint8_t> pixels =
        readBatch(arguments.pictures, first, classifier.batch(), how);
    classifier.takesPixels() ? classifier.load(pixels) : classifier.load(normalized(pixels, how));
    const std::vector<float> logits =
        classifier.run(arguments.warm_up, arguments.iterations, report.timings);
    for (int i = 0; i < classifier.batch() && first + i < arguments.pictures.size(); ++i) {
      const float* const row = &logits[static_cast<size_t>(i) * classifier.classes()];
      report.results.push_back(
          {arguments.pictures[first + i], best(row, classifier.classes(), arguments.top)});
    }
  }
  return report;
}

}  // namespace

int main(int count, char** words) {
  // The option may stand behind the mistake.
  const bool json = std::any_of(words, words + count,
                                [](const char* word) { return std::strcmp(word, "--json") == 0; });
  try {
    const Arguments arguments = parseArguments(count, words);
    if (arguments.help) {
      std::fputs(kHelp, stdout);
      return 0;
    }
    const Report report = classify(arguments);
    arguments.json ? printJson(report) : printText(report);
    return 0;
  } catch (const Error& error) {
    printError(error, json);
  } catch (const std::exception& error) {  // out of memory, an unreadable folder
    printError(Error(std::string("This failed: ") + error.what() + ".", ""), json);
  }
  return kUserError;
}

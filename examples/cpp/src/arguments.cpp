#include "arguments.h"

#include <charconv>
#include <map>

#include "error.h"

namespace dinat {

const char* const kHelp =
    R"(dinat_run --engine ENGINE [options] PICTURE...

Classifies pictures (JPEG, PNG, BMP) with a TensorRT engine that `dinat-deploy build` made.

  --engine ENGINE    directory with engine.json and model.plan, or a plan
  --bundle DIR       the exported model, with model.json; found if the engine lies in it
  --plugin FILE      libdinat_tensorrt.so, if the engine calls it
  --tensorrt FILE    TensorRT's library; else libnvinfer.so or libtensorrt_rtx.so as the loader
                     finds it
  --top N            guesses for each picture (5)
  --batch N          pictures of one run; else the engine's own, or as many as there are
  --device N         GPU, counted from 0 (0)
  --iterations N     timed runs of each batch (1)
  --warm-up N        runs before these (0)
  --trust            load a plan that holds host code, or has no engine.json
  --json             print JSON
  --verbose          what TensorRT says, to stderr
  --help             this text
)";

namespace {

const char* const kSeeHelp = "See `dinat_run --help`.";

int numberOf(const std::string& option, const std::string& text, int least) {
  int value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, failed] = std::from_chars(text.data(), end, value);
  if (failed != std::errc() || stop != end || value < least) {
    throw Error(
        option + " " + text + " is not a whole number from " + std::to_string(least) + " up.",
        kSeeHelp);
  }
  return value;
}

}  // namespace

Arguments parseArguments(int count, const char* const* words) {
  Arguments all;
  const std::map<std::string, std::string*> texts = {{"--engine", &all.engine},
                                                     {"--bundle", &all.bundle},
                                                     {"--plugin", &all.plugin},
                                                     {"--tensorrt", &all.tensorrt}};
  struct Number {
    int* value;
    int least;
  };
  const std::map<std::string, Number> numbers = {{"--top", {&all.top, 1}},
                                                 {"--batch", {&all.batch, 1}},
                                                 {"--device", {&all.device, 0}},
                                                 {"--warm-up", {&all.warm_up, 0}},
                                                 {"--iterations", {&all.iterations, 1}}};
  const std::map<std::string, bool*> flags = {{"--json", &all.json},
                                              {"--trust", &all.trust},
                                              {"--verbose", &all.verbose},
                                              {"--help", &all.help}};
  bool only_pictures = false;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (only_pictures || word.size() < 2 || word[0] != '-') {
      all.pictures.push_back(word);
    } else if (word == "--") {
      only_pictures = true;
    } else if (const auto flag = flags.find(word); flag != flags.end()) {
      *flag->second = true;
    } else {
      const size_t equals = word.find('=');  // --top 3 and --top=3
      const std::string option = word.substr(0, equals);
      const auto text = texts.find(option);
      const auto number = numbers.find(option);
      if (text == texts.end() && number == numbers.end()) {
        throw Error("There is no option " + option + ".", kSeeHelp);
      }
      if (equals == std::string::npos && ++i == count) {
        throw Error("The option " + option + " needs a value.", kSeeHelp);
      }
      const std::string value = equals == std::string::npos ? words[i] : word.substr(equals + 1);
      if (text != texts.end()) {
        *text->second = value;
      } else {
        *number->second.value = numberOf(option, value, number->second.least);
      }
    }
  }
  if (all.help) return all;
  if (all.engine.empty()) throw Error("No engine is named.", "Name one with --engine.");
  if (all.pictures.empty()) throw Error("No picture is named.", kSeeHelp);
  return all;
}

}  // namespace dinat

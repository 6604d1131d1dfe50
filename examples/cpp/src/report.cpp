#include "report.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>

namespace dinat {
namespace {

// Keeps the order in which keys are added.
using Json = nlohmann::ordered_json;

// Figures of one quantity over all timed runs, in milliseconds.
struct Statistics {
  size_t count;
  double least, largest, mean, median, p90, p95, p99;
};

// Interpolated between order statistics.
double percentile(const std::vector<double>& sorted, double percent) {
  const double position = percent / 100.0 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (position - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

Statistics statisticsOf(const Report& report, const std::function<double(const Timing&)>& value) {
  std::vector<double> values;
  for (const Timing& timing : report.timings) values.push_back(value(timing));
  std::sort(values.begin(), values.end());
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {values.size(),          values.front(),         values.back(),
          sum / values.size(),    percentile(values, 50), percentile(values, 90),
          percentile(values, 95), percentile(values, 99)};
}

Statistics latencyOf(const Report& report) {
  return statisticsOf(report, [](const Timing& timing) { return timing.latency(); });
}

Json toJson(const Statistics& figures) {
  return {{"count", figures.count}, {"min", figures.least},     {"max", figures.largest},
          {"mean", figures.mean},   {"median", figures.median}, {"p90", figures.p90},
          {"p95", figures.p95},     {"p99", figures.p99}};
}

// Names that are no UTF-8 are printed with replacement characters.
void print(const Json& data) {
  std::puts(data.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
}

}  // namespace

void printText(const Report& report) {
  for (const PictureResult& result : report.results) {
    std::printf("%s\n", result.picture.c_str());
    for (const Prediction& guess : result.predictions) {
      const std::string label = report.labels.empty() ? "class " + std::to_string(guess.index)
                                                      : report.labels[guess.index];
      std::printf("  %6.2f%%  %s\n", 100.0 * guess.probability, label.c_str());
    }
  }
  const Statistics latency = latencyOf(report);
  std::printf("%s on %s: %.3f ms for a batch of %d", report.runtime.c_str(), report.device.c_str(),
              latency.median, report.batch);
  if (latency.count > 1) {
    std::printf(
        " (median of %zu runs; min %.3f, mean %.3f, p90 %.3f, p95 %.3f, p99 %.3f, max %.3f)",
        latency.count, latency.least, latency.mean, latency.p90, latency.p95, latency.p99,
        latency.largest);
  }
  std::printf("\n");
}

void printJson(const Report& report) {
  const Statistics latency = latencyOf(report);
  Json results = Json::array();
  for (const PictureResult& result : report.results) {
    Json guesses = Json::array();
    for (const Prediction& guess : result.predictions) {
      const Json label = report.labels.empty() ? Json() : Json(report.labels[guess.index]);
      guesses.push_back(
          {{"index", guess.index}, {"label", label}, {"probability", guess.probability}});
    }
    results.push_back({{"image", result.picture},
                       {"predictions", std::move(guesses)},
                       {"milliseconds", latency.median / report.batch}});
  }
  const auto part = [&](double Timing::* member) {
    return toJson(statisticsOf(report, [=](const Timing& timing) { return timing.*member; }));
  };
  print({{"runtime", report.runtime},
         {"device", report.device},
         {"plan_sha256", report.plan_sha256},
         {"batch", report.batch},
         {"latency", toJson(latency)},
         {"host_to_device", part(&Timing::to_device)},
         {"compute", part(&Timing::compute)},
         {"device_to_host", part(&Timing::to_host)},
         {"results", std::move(results)}});
}

void printError(const Error& error, bool json) {
  if (json) print({{"error", {{"cause", error.cause()}, {"cure", error.cure()}}}});
  std::fprintf(stderr, "Error: %s\n", error.cause());
  if (!error.cure().empty()) std::fprintf(stderr, "       %s\n", error.cure().c_str());
}

}  // namespace dinat

// What is compared before a plan is loaded: engine.json with the plan, TensorRT, GPU and plugin.
//
// The rules are those of dinat_deploy/engine/checks.py. Each throws Error, which names both sides
// and what helps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "manifest.h"

namespace dinat {

// The plan is the one that was built, and complete. Returns its SHA-256.
std::string checkPlan(const EngineManifest& engine, const std::vector<uint8_t>& plan);

// The engine was built from the bundle's model.
void checkModel(const EngineManifest& engine, const Model& model);

// `version` of TensorRT `flavor` runs the engine, on this system and processor.
void checkRuntime(const EngineManifest& engine, const std::string& flavor,
                  const std::string& version);

// Returns a note for the user, or nothing.
std::string checkGpu(const EngineManifest& engine, const std::string& name,
                     const std::string& capability);

// Returns the plugin library to load: `given`, or empty if the plan needs none.
std::string checkPlugin(const EngineManifest& engine, const std::string& given);

// Whether the plan holds code for this processor, which runs when it is loaded, and is trusted.
// `engine` is null for a plan without engine.json, of which nothing is known.
bool hostCodeAllowed(const EngineManifest* engine, const std::vector<uint8_t>& plan,
                     const std::string& sha256, bool trust);

}  // namespace dinat

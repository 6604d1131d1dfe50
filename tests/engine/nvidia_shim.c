/* Gives NVIDIA's Python bindings of TensorRT the C functions that they import, without TensorRT.
 *
 * With CORE and PARSER (paths of TensorRT-RTX's libraries) the calls go there, each with the
 * version that those libraries expect: bindings of TensorRT 11 have the same C++ interface, so they
 * then parse and build. Without, every function returns nothing, and the module can be imported and
 * looked at. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef CORE

typedef int (*version_function)(void);

static void *find(char const *library, char const *name)
{
    void *handle = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
    void *found = handle ? dlsym(handle, name) : NULL;
    if (found == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        abort();
    }
    return found;
}

static int core_version(void) { return ((version_function)find(CORE, "getInferLibVersion"))(); }

int getNvOnnxParserVersion(void)
{
    return ((version_function)find(PARSER, "getNvOnnxParserVersion"))();
}

void *createInferBuilder_INTERNAL(void *logger, int version)
{
    void *(*function)(void *, int) = find(CORE, __func__);
    return function(logger, core_version());
}

void *createInferRuntime_INTERNAL(void *logger, int version)
{
    void *(*function)(void *, int) = find(CORE, __func__);
    return function(logger, core_version());
}

void *createInferRefitter_INTERNAL(void *engine, void *logger, int version)
{
    void *(*function)(void *, void *, int) = find(CORE, __func__);
    return function(engine, logger, core_version());
}

void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version)
{
    void *(*function)(void *, void *, int) = find(PARSER, __func__);
    return function(network, logger, getNvOnnxParserVersion());
}

void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version)
{
    void *(*function)(void *, void *, int) = find(PARSER, __func__);
    return function(refitter, logger, getNvOnnxParserVersion());
}

void *getBuilderPluginRegistry(int capability)
{
    void *(*function)(int) = find(CORE, __func__);
    return function(capability);
}

void *getPluginRegistry(void)
{
    void *(*function)(void) = find(CORE, __func__);
    return function();
}

#else

int getNvOnnxParserVersion(void) { return 0; }
void *createInferBuilder_INTERNAL(void *logger, int version) { return NULL; }
void *createInferRuntime_INTERNAL(void *logger, int version) { return NULL; }
void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) { return NULL; }
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) { return NULL; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version)
{
    return NULL;
}
void *getBuilderPluginRegistry(int capability) { return NULL; }
void *getPluginRegistry(void) { return NULL; }

#endif

unsigned char initLibNvInferPlugins(void *logger, char const *plugin_namespace) { return 1; }

# The version of everything built here is the Python package's.
function(dinat_version out)
  # In a checkout the package is beside this build; in an installed package this build is inside it.
  foreach(file dinat_deploy/__init__.py ../../__init__.py)
    if(EXISTS ${PROJECT_SOURCE_DIR}/${file})
      file(STRINGS ${PROJECT_SOURCE_DIR}/${file} line REGEX "^__version__ = ")
      string(REGEX REPLACE "^__version__ = \"(.*)\"$" "\\1" version "${line}")
      set(${out} ${version} PARENT_SCOPE)
      return()
    endif()
  endforeach()
  message(FATAL_ERROR "dinat_deploy/__init__.py, which has the version, is not beside "
                      "${PROJECT_SOURCE_DIR}.")
endfunction()

# A shared library: lib<name>.so, symbols hidden unless exported in the source, libstdc++ linked in so
# that it loads on any distribution. All of them end up in one folder, lib/ of the build directory.
# It carries a line that says what it is, for `dinat-deploy plugin info`, which does not load it.
function(dinat_module name)
  add_library(${name} SHARED ${ARGN})
  # Without garbage collection, unused parts of libstdc++ demand the newest glibc (arc4random, 2.36).
  target_link_options(${name} PRIVATE -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL
                                      -Wl,--no-undefined -Wl,-s -Wl,--gc-sections
                                      -Wl,--undefined=dinat_label)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/plugins)
  target_compile_definitions(${name} PRIVATE DINAT_VERSION="${DINAT_VERSION}")
  set_target_properties(${name} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)

  set(cuda "")
  if(DINAT_HAVE_CUDA)
    set(cuda ", nvcc ${CMAKE_CUDA_COMPILER_VERSION}")
  endif()
  set(compiler "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}${cuda}")
  configure_file(${PROJECT_SOURCE_DIR}/cmake/label.cpp.in ${CMAKE_CURRENT_BINARY_DIR}/${name}_label.cpp
                 @ONLY)
  target_sources(${name} PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/${name}_label.cpp)
endfunction()

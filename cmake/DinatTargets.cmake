# A shared library without the lib prefix games: lib<name>.so, symbols hidden unless exported in
# the source, libstdc++ linked in so that it loads on any distribution.
function(dinat_module name)
  add_library(${name} SHARED ${ARGN})
  target_link_options(${name} PRIVATE -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL
                                      -Wl,--no-undefined -Wl,-s)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/plugins)
endfunction()

# Source files of the kernel instances. Also used by the emulation, which compiles them as C++.
# kernel_table.h has the same list.
set(DINAT_TILE_HEAD_DIMS 16 32 64)
set(DINAT_TILE_KERNEL_SIZES 3 5 7 9 11 13)
set(DINAT_INSTANCES_DIR ${CMAKE_CURRENT_LIST_DIR}/instances)

# out: a file for each head dim with the tile kernel's instances, and the group kernel's. A file for
# each instance would take twice the time: compilers read the headers again for every file and GPU
# architecture, which is longer than they take for an instance.
function(dinat_tensor_core_sources out)
  set(sources ${DINAT_INSTANCES_DIR}/group.cu)
  foreach(head_dim IN LISTS DINAT_TILE_HEAD_DIMS)
    set(content "#define DINAT_HEAD_DIM ${head_dim}\n")
    foreach(kernel_size IN LISTS DINAT_TILE_KERNEL_SIZES)
      string(APPEND content "#define DINAT_KERNEL_SIZE ${kernel_size}\n"
                            "#include \"kernels/instances/tile.cu\"\n"
                            "#undef DINAT_KERNEL_SIZE\n")
    endforeach()
    set(file ${CMAKE_CURRENT_BINARY_DIR}/instances/tile_${head_dim}.cu)
    file(CONFIGURE OUTPUT ${file} @ONLY CONTENT "${content}")
    list(APPEND sources ${file})
  endforeach()
  set(${out} ${sources} PARENT_SCOPE)
endfunction()

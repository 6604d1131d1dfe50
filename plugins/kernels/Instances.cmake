# Source files of the kernel instances. Also used by the emulation, which compiles them as C++.
# kernel_table.h has the same list.
set(DINAT_TILE_HEAD_DIMS 16 32 64)
set(DINAT_TILE_KERNEL_SIZES 3 5 7 9 11 13)
set(DINAT_INSTANCES_DIR ${CMAKE_CURRENT_LIST_DIR}/instances)

# out: one file for each instance of the tile kernel, and the group kernel's.
function(dinat_tensor_core_sources out)
  set(sources ${DINAT_INSTANCES_DIR}/group.cu)
  foreach(head_dim IN LISTS DINAT_TILE_HEAD_DIMS)
    foreach(kernel_size IN LISTS DINAT_TILE_KERNEL_SIZES)
      set(file ${CMAKE_CURRENT_BINARY_DIR}/instances/tile_${head_dim}_${kernel_size}.cu)
      file(CONFIGURE OUTPUT ${file} @ONLY CONTENT
"#define DINAT_HEAD_DIM @head_dim@
#define DINAT_KERNEL_SIZE @kernel_size@
#include \"kernels/instances/tile.cu\"
")
      list(APPEND sources ${file})
    endforeach()
  endforeach()
  set(${out} ${sources} PARENT_SCOPE)
endfunction()

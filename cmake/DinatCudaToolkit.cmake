# A CUDA toolkit put together from links, where the one at hand is not laid out for what is compiled.
#
# - Another processor: NVIDIA's cross toolkits have its libraries in targets/aarch64-linux/ (Jetson) or
#   targets/sbsa-linux/ (servers, and everything since CUDA 13). Without them all that is needed are
#   two static libraries, which pip has (docs/native.md).
# - pip's wheels of CUDA 13.0: their nvcc looks for its libraries in lib64, and they are in lib.
set(DINAT_CROSS_CUDA_LIBRARY_DIR "" CACHE PATH
    "Folder with libcudart_static.a and libcudadevrt.a of the target processor")

function(dinat_link_all folder)
  file(MAKE_DIRECTORY ${folder})
  foreach(file IN LISTS ARGN)
    get_filename_component(name ${file} NAME)
    file(CREATE_LINK ${file} ${folder}/${name} SYMBOLIC)
  endforeach()
endfunction()

# Where the static runtime library of the target processor is; empty if it is missing and DINAT_CUDA
# is AUTO.
function(dinat_cross_libraries root out)
  set(candidates ${root}/targets/${CMAKE_SYSTEM_PROCESSOR}-linux/lib)
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
    list(APPEND candidates ${root}/targets/sbsa-linux/lib)
  endif()
  if(DINAT_CROSS_CUDA_LIBRARY_DIR)
    set(candidates ${DINAT_CROSS_CUDA_LIBRARY_DIR})
  endif()
  foreach(folder IN LISTS candidates)
    if(EXISTS ${folder}/libcudart_static.a)
      set(${out} ${folder} PARENT_SCOPE)
      return()
    endif()
  endforeach()
  string(REPLACE ";" " or " looked "${candidates}")
  set(fault "No libcudart_static.a for ${CMAKE_SYSTEM_PROCESSOR} in ${looked}. docs/native.md says how "
            "to get it; then set DINAT_CROSS_CUDA_LIBRARY_DIR.")
  if(DINAT_CUDA STREQUAL "ON")
    message(FATAL_ERROR ${fault})
  endif()
  message(WARNING ${fault})
  set(${out} "" PARENT_SCOPE)
endfunction()

# In: an nvcc that runs here. Out: one that compiles and links for CMAKE_SYSTEM_PROCESSOR, often the
# same; empty if there is none.
function(dinat_cuda_toolkit nvcc out)
  set(${out} ${nvcc} PARENT_SCOPE)
  set(made ${PROJECT_BINARY_DIR}/cuda-${CMAKE_SYSTEM_PROCESSOR})
  if(nvcc STREQUAL "${made}/bin/nvcc")
    return()  # made by an earlier configuration
  endif()
  # nvcc may be a link or a script elsewhere; a dry run says where its toolkit is.
  execute_process(COMMAND ${nvcc} --dryrun -x cu -c /dev/null ERROR_VARIABLE dry OUTPUT_QUIET)
  if(dry MATCHES "#\\$ TOP=([^\n]+)")
    get_filename_component(root ${CMAKE_MATCH_1} REALPATH)
  elseif(CMAKE_CROSSCOMPILING)
    message(FATAL_ERROR "${nvcc} does not say where its toolkit is, as NVIDIA's own do. Cross-compile "
                        "with one of those (CUDA_HOME, or pip install 'dinat-deploy[cuda]').")
  else()
    return()
  endif()

  set(include ${root}/targets/${CMAKE_HOST_SYSTEM_PROCESSOR}-linux/include)
  if(NOT EXISTS ${include}/cuda_runtime.h)
    set(include ${root}/include)
  endif()
  if(CMAKE_CROSSCOMPILING)
    dinat_cross_libraries(${root} libraries)
    if(NOT libraries)
      set(${out} "" PARENT_SCOPE)
      return()
    endif()
    # This machine's shared libraries are for the compiler itself, the target's static ones to link.
    file(GLOB libraries ${libraries}/libcudart_static.a ${libraries}/libcudadevrt.a
         ${libraries}/libculibos.a ${root}/lib/*.so* ${root}/lib64/*.so*)
  elseif(EXISTS ${root}/lib/libcudart_static.a AND NOT EXISTS ${root}/lib64)
    file(GLOB libraries ${root}/lib/*)
  else()
    return()
  endif()

  file(REMOVE_RECURSE ${made})
  file(GLOB programs ${root}/bin/*)
  dinat_link_all(${made}/bin ${programs})  # a folder of its own: nvcc looks for the rest beside it
  dinat_link_all(${made} ${root}/nvvm ${include})
  set(target ${made}/targets/${CMAKE_SYSTEM_PROCESSOR}-linux)
  dinat_link_all(${target} ${include})
  dinat_link_all(${target}/lib ${libraries})
  file(CREATE_LINK ${target}/lib ${made}/lib SYMBOLIC)
  file(CREATE_LINK ${target}/lib ${made}/lib64 SYMBOLIC)
  set(${out} ${made}/bin/nvcc PARENT_SCOPE)
endfunction()

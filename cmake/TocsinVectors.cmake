# Tables of cases that others wrote (specifications and comparable systems). They are no part of
# this repository: in the folder TOCSIN_VECTORS (environment), or ../shared/vectors beside it.
# Without them the tests that read them are not registered and cmake says so; with CI=true their
# absence is an error.
if(DEFINED ENV{TOCSIN_VECTORS})
  set(tocsin_vectors_dir $ENV{TOCSIN_VECTORS})
else()
  set(tocsin_vectors_dir ${CMAKE_SOURCE_DIR}/../shared/vectors)
  if(NOT IS_DIRECTORY ${tocsin_vectors_dir})
    # A worktree lies one folder deeper than a checkout.
    set(tocsin_vectors_dir ${CMAKE_SOURCE_DIR}/../../shared/vectors)
  endif()
endif()
get_filename_component(tocsin_vectors_dir ${tocsin_vectors_dir} ABSOLUTE)

# tocsin_vector_test(name FOLDER folder then as tocsin_test). The test reads the folder
# beneath the environment variable TOCSIN_VECTORS (tests/support/vectors.h).
function(tocsin_vector_test name)
  cmake_parse_arguments(ARG "" "FOLDER" "" ${ARGN})
  if(NOT IS_DIRECTORY ${tocsin_vectors_dir}/${ARG_FOLDER})
    if("$ENV{CI}" STREQUAL "true")
      message(FATAL_ERROR "${name}: ${tocsin_vectors_dir}/${ARG_FOLDER} is missing")
    endif()
    message(STATUS "${name} is left out: no ${tocsin_vectors_dir}/${ARG_FOLDER}")
    return()
  endif()
  tocsin_test(${name} ${ARG_UNPARSED_ARGUMENTS})
  set_tests_properties(${name} PROPERTIES ENVIRONMENT "TOCSIN_VECTORS=${tocsin_vectors_dir}")
endfunction()

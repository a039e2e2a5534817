# SPDX-License-Identifier: MIT
# What is installed where, and the packages made of it: libferry1, libferry-dev, rdma-migrate.
include(CMakePackageConfigHelpers)

# Outside the system's own folders the program finds its library beside it.
if(NOT CMAKE_INSTALL_PREFIX STREQUAL "/usr")
	set_target_properties(rdma-migrate PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
endif()
install(TARGETS rdma-migrate COMPONENT cli)

install(TARGETS ferry_shared EXPORT ferry-shared
	LIBRARY COMPONENT lib NAMELINK_COMPONENT dev INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS ferry_static EXPORT ferry-static
	ARCHIVE COMPONENT dev INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/ferry DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev FILES_MATCHING PATTERN "*.h")

# pkg-config: relative to the file itself, so that an installed tree may be moved.
set(FERRY_PKGCONFIG_DIR ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH FERRY_PC_TO_PREFIX /prefix/${FERRY_PKGCONFIG_DIR} /prefix)
string(REGEX REPLACE "/$" "" FERRY_PC_TO_PREFIX "${FERRY_PC_TO_PREFIX}")
list(JOIN FERRY_MODULES " " FERRY_PC_MODULES)
configure_file(runtime/ferry.pc.in ferry.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/ferry.pc DESTINATION ${FERRY_PKGCONFIG_DIR} COMPONENT dev)

# find_package(ferry): ferry::ferry, and ferry::static where what it links is there.
set(FERRY_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/ferry)
set_target_properties(ferry_shared PROPERTIES EXPORT_NAME ferry)
set_target_properties(ferry_static PROPERTIES EXPORT_NAME static)
install(EXPORT ferry-shared NAMESPACE ferry:: DESTINATION ${FERRY_CMAKE_DIR} COMPONENT dev)
install(EXPORT ferry-static NAMESPACE ferry:: DESTINATION ${FERRY_CMAKE_DIR} COMPONENT dev)
configure_package_config_file(packaging/ferryConfig.cmake.in ferryConfig.cmake INSTALL_DESTINATION ${FERRY_CMAKE_DIR})
write_basic_package_version_file(ferryConfigVersion.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/ferryConfig.cmake ${PROJECT_BINARY_DIR}/ferryConfigVersion.cmake
	DESTINATION ${FERRY_CMAKE_DIR} COMPONENT dev)

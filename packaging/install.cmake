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
if(NOT TARGET ferry_etcd)
	set(FERRY_NO_ETCD PATTERN arbiter_etcd.h EXCLUDE)
endif()
install(DIRECTORY include/ferry DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT dev FILES_MATCHING PATTERN "*.h"
	${FERRY_NO_ETCD})

# pkg-config: relative to the file itself, so that an installed tree may be moved.
set(FERRY_PKGCONFIG_DIR ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH FERRY_PC_TO_PREFIX /prefix/${FERRY_PKGCONFIG_DIR} /prefix)
string(REGEX REPLACE "/$" "" FERRY_PC_TO_PREFIX "${FERRY_PC_TO_PREFIX}")
list(JOIN FERRY_MODULES " " FERRY_PC_MODULES)
configure_file(runtime/ferry.pc.in ferry.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/ferry.pc DESTINATION ${FERRY_PKGCONFIG_DIR} COMPONENT dev)
if(TARGET ferry_etcd) # static only: one function, which an embedder's arbiter op calls
	install(TARGETS ferry_etcd ARCHIVE COMPONENT dev)
	configure_file(arbiter/ferry-etcd.pc.in ferry-etcd.pc @ONLY)
	install(FILES ${PROJECT_BINARY_DIR}/ferry-etcd.pc DESTINATION ${FERRY_PKGCONFIG_DIR} COMPONENT dev)
endif()

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

# The manual: a file for each name, and rdma-migrate(1) with the options that the program itself tells.
option(FERRY_MANUAL "build the manual pages; rdma-migrate(1) asks the program that was built" ON)
if(FERRY_MANUAL AND NOT FERRY_SANITIZE)
	find_program(GZIP gzip REQUIRED)
	find_program(AWK awk REQUIRED)
	set(MAN_DIR ${PROJECT_BINARY_DIR}/man)
	file(MAKE_DIRECTORY ${MAN_DIR})
	file(GLOB pages CONFIGURE_DEPENDS docs/man/*.3)
	set(built)
	set(links)
	foreach(page IN LISTS pages)
		get_filename_component(file ${page} NAME)
		add_custom_command(OUTPUT ${MAN_DIR}/${file}.gz DEPENDS ${page} VERBATIM
			COMMAND ${GZIP} -9nc ${page} > ${MAN_DIR}/${file}.gz)
		list(APPEND built ${MAN_DIR}/${file}.gz)
		file(STRINGS ${page} names REGEX "^\\.Nm [a-z]")
		foreach(line IN LISTS names)
			string(REGEX REPLACE "^\\.Nm ([a-z_]+).*" "\\1.3" name "${line}")
			if(NOT name STREQUAL file)
				file(CREATE_LINK ${file}.gz ${MAN_DIR}/${name}.gz SYMBOLIC)
				list(APPEND links ${MAN_DIR}/${name}.gz)
			endif()
		endforeach()
	endforeach()
	install(FILES ${built} ${links} DESTINATION ${CMAKE_INSTALL_MANDIR}/man3 COMPONENT dev)

	set(from_help ${PROJECT_SOURCE_DIR}/docs/man/from-help.awk)
	set(page ${PROJECT_SOURCE_DIR}/docs/man/rdma-migrate.1.in)
	add_custom_command(OUTPUT ${MAN_DIR}/rdma-migrate.1.gz DEPENDS rdma-migrate ${from_help} ${page} VERBATIM
		COMMAND rdma-migrate help > ${MAN_DIR}/help
		COMMAND ${AWK} -f ${from_help} ${MAN_DIR}/help ${page} > ${MAN_DIR}/rdma-migrate.1
		COMMAND ${GZIP} -9nc ${MAN_DIR}/rdma-migrate.1 > ${MAN_DIR}/rdma-migrate.1.gz)
	install(FILES ${MAN_DIR}/rdma-migrate.1.gz DESTINATION ${CMAKE_INSTALL_MANDIR}/man1 COMPONENT cli)
	add_custom_target(manual ALL DEPENDS ${built} ${MAN_DIR}/rdma-migrate.1.gz)
endif()
install(FILES packaging/rdma-migrate.bash RENAME rdma-migrate COMPONENT cli
	DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)

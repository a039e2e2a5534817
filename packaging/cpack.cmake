# SPDX-License-Identifier: MIT
# Debian packages: cmake --preset package && cmake --build --preset package --target package
set(FERRY_PACKAGE_CONTACT "The ferry authors <maintainers@ferry.invalid>" CACHE STRING "who built the packages: Name <address>")
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME ferry)
set(CPACK_PACKAGE_CONTACT "${FERRY_PACKAGE_CONTACT}")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_COMPONENTS_ALL lib dev cli)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_ENABLE_COMPONENT_DEPENDS OFF)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${PROJECT_BINARY_DIR})
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)

set(CPACK_DEBIAN_LIB_PACKAGE_NAME libferry1)
set(CPACK_DEBIAN_LIB_PACKAGE_SECTION libs)
file(WRITE ${PROJECT_BINARY_DIR}/package/triggers "activate-noawait ldconfig\n")
file(WRITE ${PROJECT_BINARY_DIR}/package/shlibs "libferry 1 libferry1 (>= ${PROJECT_VERSION})\n")
set(CPACK_DEBIAN_LIB_PACKAGE_CONTROL_EXTRA ${PROJECT_BINARY_DIR}/package/triggers ${PROJECT_BINARY_DIR}/package/shlibs)
set(CPACK_COMPONENT_LIB_DESCRIPTION "live migration of a running VM, shared library
 A KVM VMM embeds ferry to move a running VM to another host: bounded pre-copy
 over the network, a short stop, and demand paging at the target whose output
 is held back, so that the source is a true fallback until the last page.")

set(CPACK_DEBIAN_DEV_PACKAGE_NAME libferry-dev)
set(CPACK_DEBIAN_DEV_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEV_PACKAGE_DEPENDS "libferry1 (= ${PROJECT_VERSION}-1)")
list(TRANSFORM FERRY_MODULES APPEND -dev OUTPUT_VARIABLE FERRY_DEV_PACKAGES)
list(JOIN FERRY_DEV_PACKAGES ", " CPACK_DEBIAN_DEV_PACKAGE_RECOMMENDS)
set(CPACK_COMPONENT_DEV_DESCRIPTION "live migration of a running VM, development files
 Headers, the static library, manual pages, and the files by which pkg-config
 and CMake find ferry, a library for the live migration of KVM VMs.")

set(CPACK_DEBIAN_CLI_PACKAGE_NAME rdma-migrate)
set(CPACK_DEBIAN_CLI_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_CLI_PACKAGE_DEPENDS "libferry1 (= ${PROJECT_VERSION}-1)")
set(CPACK_COMPONENT_CLI_DESCRIPTION "live-migrate a small KVM guest, prove it and measure it
 rdma-migrate moves a real KVM guest with libferry between two processes or two
 hosts, proves every byte of its memory and all that it printed, and measures
 each stage beside what the bare machine can do.")

# What Debian wants of every package.
set(FERRY_COMPONENT_lib libferry1)
set(FERRY_COMPONENT_dev libferry-dev)
set(FERRY_COMPONENT_cli rdma-migrate)
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
	find_program(GZIP gzip REQUIRED)
	file(READ LICENSE FERRY_LICENSE)
	string(REGEX REPLACE "^MIT License\n\n[^\n]*\n\n" "" FERRY_LICENSE "${FERRY_LICENSE}")
	string(REGEX REPLACE "\n\n" "\n.\n" FERRY_LICENSE "${FERRY_LICENSE}")
	string(REGEX REPLACE "\n(.)" "\n \\1" FERRY_LICENSE "${FERRY_LICENSE}")
	configure_file(packaging/copyright.in package/copyright @ONLY)
	configure_file(packaging/changelog.in package/changelog.Debian @ONLY)
	execute_process(COMMAND ${GZIP} -9nf ${PROJECT_BINARY_DIR}/package/changelog.Debian COMMAND_ERROR_IS_FATAL ANY)
	foreach(component IN LISTS CPACK_COMPONENTS_ALL)
		install(FILES ${PROJECT_BINARY_DIR}/package/copyright ${PROJECT_BINARY_DIR}/package/changelog.Debian.gz
			DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${FERRY_COMPONENT_${component}} COMPONENT ${component})
	endforeach()
endif()

include(CPack)
